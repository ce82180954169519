"""A job's events as they happen, and what lists of jobs can be asked for."""
import json

import openai
import pytest
from conftest import Server, ask, chat_lines, make_client, wait_for_job


def stream(client, job_id, last_id=None, query=""):
    """Server-sent events as (id, data) until the server ends them."""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    with client._client.stream("GET", f"{client.base_url}fine_tuning/jobs/{job_id}/events?stream=true{query}", headers=headers, timeout=120) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"] == "text/event-stream"
        event_id = None
        for line in answer.iter_lines():
            if line.startswith("id: "):
                event_id = line[4:]
            elif line.startswith("data: "):
                yield event_id, line[6:]


def listed(client, job_id):
    return [event.id for event in client.fine_tuning.jobs.list_events(job_id, limit=100, extra_query={"order": "asc"})]


def test_a_stream_of_a_finished_job_is_its_list_and_ends(client, finished_job, contract):
    told = list(stream(client, finished_job.id))
    assert told[-1][1] == "[DONE]"
    assert [event_id for event_id, _ in told[:-1]] == listed(client, finished_job.id)
    for event_id, data in told[:-1]:
        contract.check_chunk("Event", json.loads(data))
        assert json.loads(data)["id"] == event_id


@pytest.mark.parametrize("query", ["limit=5", "order=desc", "order=W&limit=-1", "stream=false"])
def test_a_stream_refuses_what_it_would_not_heed(server, finished_job, query):
    status, _, body = ask(server, "GET", f"/v1/fine_tuning/jobs/{finished_job.id}/events?stream=true&{query}")
    assert status == 422 and json.loads(body)["detail"]


def test_a_stream_tells_a_running_job_to_its_end(client, training_file):
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, hyperparameters={"n_epochs": 2, "batch_size": 4})
    told = [event_id for event_id, data in stream(client, job.id) if data != "[DONE]"]
    assert client.fine_tuning.jobs.retrieve(job.id).status == "succeeded"
    assert told == listed(client, job.id) and len(told) > 8


def test_a_stream_goes_on_behind_the_last_event(client, finished_job):
    ids = listed(client, finished_job.id)
    assert [event_id for event_id, data in stream(client, finished_job.id, ids[3]) if data != "[DONE]"] == ids[4:]
    assert [event_id for event_id, data in stream(client, finished_job.id, None, f"&after={ids[-2]}") if data != "[DONE]"] == ids[-1:]
    assert [data for _, data in stream(client, finished_job.id, ids[-1])] == ["[DONE]"]


def test_wrong_streams_are_refused(client, server, finished_job):
    path = f"/v1/fine_tuning/jobs/{finished_job.id}/events"
    assert ask(server, "GET", path + "?stream=true", Last_Event_ID="ftevent-nowhere")[0] == 404
    assert ask(server, "GET", path + "?stream=perhaps")[0] == 422
    assert ask(server, "GET", path + "?stream=false")[0] == 200
    assert ask(server, "GET", "/v1/fine_tuning/jobs/ftjob-x/events?stream=true")[0] == 404
    assert ask(server, "GET", "/v1/files?stream=true")[0] == 422


def test_a_stopping_server_ends_its_streams(models, tmp_path):
    server = Server(tmp_path / "data", models, "--no-auth").start()
    client = make_client(server)
    file = client.files.create(file=("t.jsonl", chat_lines(8).encode()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, hyperparameters={"n_epochs": 100})
    client.fine_tuning.jobs.pause(job.id)
    with client._client.stream("GET", f"{client.base_url}fine_tuning/jobs/{job.id}/events?stream=true", timeout=60) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("id: ")
        assert server.stop() == 0
        assert list(lines)  # to its last chunk: a stream that the end of the grace cuts off has none
    wanted = make_client(server.start())
    wanted.fine_tuning.jobs.cancel(job.id)
    assert server.stop() == 0


def test_jobs_are_found_by_metadata(client, training_file):
    both = client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, metadata={"team": "a b", "run": 'x"]y'})
    one = client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, metadata={"team": "a b"})
    plain = client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id)

    def found(**metadata):
        return [job.id for job in client.fine_tuning.jobs.list(metadata=metadata, limit=100)]

    assert found(team="a b") == [one.id, both.id]
    assert found(run='x"]y', team="a b") == [both.id]
    assert found(team="A B") == [] == found(team="a b", run="other")
    without = [job.id for job in client.fine_tuning.jobs.list(limit=100, extra_query={"metadata": "null"})]
    assert plain.id in without and one.id not in without
    page = client.fine_tuning.jobs.list(metadata={"team": "a b"}, limit=1)
    assert [job.id for job in page.data] == [one.id] and page.has_more
    for job in (both, one, plain):
        wait_for_job(client, job.id)


def test_a_deleted_model_is_gone_by_name_and_its_files_stay(client, training_file):
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, hyperparameters={"n_epochs": 1})
    job = wait_for_job(client, job.id)
    assert client.models.delete(job.fine_tuned_model).deleted
    for act in (client.models.retrieve, client.models.delete):
        with pytest.raises(openai.NotFoundError):
            act(job.fine_tuned_model)
    checkpoint = client.fine_tuning.jobs.checkpoints.list(job.id).data[0]
    assert client.files.content(checkpoint.result_files[0]).read()
    with pytest.raises(openai.PermissionDeniedError, match="base model"):
        client.models.delete("test/tiny")
