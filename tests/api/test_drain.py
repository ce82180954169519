"""Maintenance: no job starts, those at work finish or stop at a recovery point, a restart keeps it so."""
import json

import openai
import pytest
from conftest import Server, ask, chat_lines, make_client, wait_for, wait_for_job

DRAIN = "/v1/organization/drain"
LONG = {"n_epochs": 100}


@pytest.fixture
def drained(tmp_path, models):
    server = Server(tmp_path / "data", models, "--no-auth").start()
    client = make_client(server)
    file = client.files.create(file=("t.jsonl", chat_lines(24).encode()), purpose="fine-tune")
    yield server, client, lambda **options: client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, **{"hyperparameters": {"n_epochs": 1}} | options)
    assert server.stop() == 0


def drain(server, method="GET", body=None, status=200):
    answer = ask(server, method, DRAIN, json.dumps(body).encode() if body is not None else None)
    assert answer[0] == status, answer
    return json.loads(answer[2])


def ready(server):
    status, _, body = ask(server, "GET", "/readyz")
    return status, json.loads(body)["status"]


def test_jobs_at_work_finish_and_others_wait_over_a_restart(drained):
    server, client, create = drained
    assert drain(server) == {"object": "organization.drain", "draining": False, "running_jobs": None, "new_jobs": None, "since": None, "jobs_at_work": 0}
    running = create()
    wait_for(lambda: client.fine_tuning.jobs.retrieve(running.id).status != "queued")
    state = drain(server, "POST", {})
    assert (state["draining"], state["running_jobs"], state["new_jobs"]) == (True, "finish", "queue") and ready(server) == (200, "draining")
    waiting = create()
    assert wait_for_job(client, running.id).status == "succeeded"
    wait_for(lambda: drain(server)["jobs_at_work"] == 0)
    assert server.stop() == 0
    server.start()
    client = make_client(server)
    assert drain(server) == state | {"jobs_at_work": 0} and ready(server) == (200, "draining")
    assert client.fine_tuning.jobs.retrieve(waiting.id).status == "queued"
    assert drain(server, "DELETE")["draining"] is False and ready(server) == (200, "ready")
    assert wait_for_job(client, waiting.id).status == "succeeded"


def test_jobs_at_work_stop_at_a_recovery_point_and_go_on_afterwards(drained):
    server, client, create = drained
    job = create(hyperparameters=LONG)
    wait_for(lambda: (client.fine_tuning.jobs.retrieve(job.id).trained_steps or 0) >= 2)
    assert drain(server, "POST", {"running_jobs": "pause"})["running_jobs"] == "pause"
    wait_for(lambda: drain(server)["jobs_at_work"] == 0)
    stopped = client.fine_tuning.jobs.retrieve(job.id)
    assert (stopped.status, stopped.paused, stopped.queue_position) == ("queued", False, 1)
    drain(server, "DELETE")
    wait_for(lambda: client.fine_tuning.jobs.retrieve(job.id).trained_steps > stopped.trained_steps)
    client.fine_tuning.jobs.cancel(job.id)


def test_a_paused_job_stays_paused_when_the_drain_is_over(drained):
    server, client, create = drained
    job = create(hyperparameters=LONG)
    wait_for(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "running")
    client.fine_tuning.jobs.pause(job.id)
    drain(server, "POST", {"running_jobs": "pause"})
    wait_for(lambda: drain(server)["jobs_at_work"] == 0)
    drain(server, "DELETE")
    other = wait_for_job(client, create().id)
    assert other.status == "succeeded" and client.fine_tuning.jobs.retrieve(job.id).paused
    client.fine_tuning.jobs.cancel(job.id)


def test_new_jobs_are_refused_with_a_time_to_come_back(drained):
    server, client, create = drained
    drain(server, "POST", {"new_jobs": "refuse"})
    with pytest.raises(openai.InternalServerError) as refused:
        create()
    assert (refused.value.status_code, refused.value.code, refused.value.response.headers["Retry-After"]) == (503, "draining", "60")
    assert client.fine_tuning.jobs.list().data == [] and client.files.list().data
    assert drain(server, "POST", {"new_jobs": "queue"})["new_jobs"] == "queue"
    job = create()
    drain(server, "DELETE")
    assert wait_for_job(client, job.id).status == "succeeded"


@pytest.mark.parametrize("body", [[], {"running_jobs": "kill"}, {"new_jobs": 1}, {"until": 5}])
def test_wrong_bodies_are_refused(drained, body):
    assert drain(drained[0], "POST", body, status=422)["detail"]
    assert drain(drained[0])["draining"] is False
