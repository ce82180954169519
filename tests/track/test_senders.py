"""Senders against fake services: what is stored there is what the job did, whatever happens on the way. Nothing here
needs more than the fakes."""
import json
import time

import openai
import pytest
from tracking import KEY, RESULT, Mlflow, Service, Wandb, kill_at_every_point, last_document, send

@pytest.fixture(params=[Wandb, Mlflow], ids=["wandb", "mlflow"])
def tracker(request):
    made = request.param()
    yield made
    made.fake.close()


def test_a_run_holds_what_the_job_did(tmp_path, tracker):
    service = Service(tmp_path, tracker.fake.url)
    job = service.create(tracker.integration())
    echoed = json.loads(job.to_json())["integrations"]
    assert KEY not in json.dumps(echoed) and [entry["type"] for entry in echoed] == [tracker.kind]
    assert service.wait(job.id).status == "succeeded"
    service.told(job.id)
    tracker.check(service.job(job.id))
    assert service.rows("SELECT COUNT(*) FROM secrets") == [(0,)], "they go when everything is told"
    assert service.server.stop() == 0
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("kind", [Wandb, Mlflow], ids=["wandb", "mlflow"])
def test_a_sender_killed_at_any_of_ten_points_leaves_no_gap_and_no_double(tmp_path, kind):
    kill_at_every_point(tmp_path, kind)


def test_a_job_is_told_to_all_that_it_names_each_with_its_own_secrets(tmp_path):
    wandb, mlflow = Wandb(), Mlflow()
    service = Service(tmp_path, wandb.fake.url, mlflow.fake.url)
    job = service.create(mlflow.integration(), wandb.integration())
    assert service.wait(job.id).status == "succeeded"
    service.told(job.id)
    for tracker in (wandb, mlflow):
        tracker.check(service.job(job.id))
        tracker.fake.close()
    assert service.server.stop() == 0


def test_a_tracker_that_was_away_hears_everything_afterwards(tmp_path, tracker):
    service = Service(tmp_path, tracker.fake.url)
    job = service.create(tracker.integration())
    tracker.fake.wait(lambda fake: len(fake.requests) >= 2)
    tracker.fake.close()
    assert service.wait(job.id).status == "succeeded"
    assert service.rows("SELECT state FROM deliveries") == [("pending",)]
    tracker.fake.start()
    service.told(job.id)
    tracker.check(service.job(job.id))
    assert service.server.stop() == 0


def test_a_server_that_is_killed_while_it_sends_goes_on_afterwards(tmp_path, tracker):
    service = Service(tmp_path, tracker.fake.url)
    job = service.create(tracker.integration())
    tracker.fake.wait(lambda fake: len(fake.requests) >= 2)
    service.server.stop(9)
    service.start()
    assert service.wait(job.id).status == "succeeded"
    service.told(job.id)
    tracker.check(service.job(job.id))
    assert service.server.stop() == 0


def test_a_job_that_is_cancelled_ends_its_run(tmp_path, tracker):
    service = Service(tmp_path, tracker.fake.url)
    job = service.create_endless(tracker.integration())
    tracker.fake.wait(lambda fake: len(fake.requests) >= 2)
    service.client.fine_tuning.jobs.cancel(job.id)
    service.told(job.id)
    run, = tracker.fake.runs.values()
    assert (run.state if tracker.kind == "wandb" else run["status"]) in ("killed", "KILLED")
    assert service.server.stop() == 0


def test_a_job_whose_run_is_stopped_at_wandb_is_cancelled(tmp_path):
    tracker = Wandb()
    service = Service(tmp_path, tracker.fake.url)
    job = service.create_endless(tracker.integration())
    tracker.fake.wait(lambda fake: any(run.history() for run in fake.runs.values()))
    tracker.fake.is_stopped = True
    assert service.wait(job.id).status == "cancelled"
    service.told(job.id)
    (run,) = tracker.fake.runs.values()
    assert run.state == "killed"
    assert [event.message for event in service.client.fine_tuning.jobs.list_events(job.id) if "W&B:" in event.message] == ["Stopped at W&B: the job is cancelled"]
    tracker.fake.close()
    assert service.server.stop() == 0


def test_what_has_ended_is_not_stopped_any_more():
    tracker = Wandb()
    tracker.fake.is_stopped = True
    for is_last in (False, True):
        told = send(document(tracker, log(), is_last=is_last, job={"state": "succeeded", "finished_ms": 1}))
        assert told[-1]["end"] == "ok" and [{"stop": True}] * (not is_last) == [line for line in told if "stop" in line]
    tracker.fake.close()


def test_the_projects_key_of_wandb_serves_a_job_that_brings_none(tmp_path):
    tracker = Wandb()
    service = Service(tmp_path, tracker.fake.url)
    integration = tracker.integration()
    del integration["wandb"]["api_key"]
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        service.create(integration)
    assert "WANDB_API_KEY" in refused.value.message and not tracker.fake.requests
    service.client.post("/organization/projects/proj-default/secrets", body={"name": "WANDB_API_KEY", "value": KEY},
                        cast_to=object)
    job = service.create(integration)
    assert service.wait(job.id).status == "succeeded"
    service.told(job.id)
    tracker.check(service.job(job.id))
    tracker.fake.authorization = "Basic another"
    job = service.create(integration)
    service.told(job.id, "failed")
    warnings = [event.message for event in service.client.fine_tuning.jobs.list_events(job.id) if event.level == "warn"
                and "integrations" in event.message]
    assert len(warnings) == 1 and "401" in warnings[0] and KEY not in warnings[0]
    assert service.wait(job.id).status == "succeeded"
    tracker.fake.close()
    assert service.server.stop() == 0


def test_a_secret_of_the_project_that_is_named_stands_for_a_jobs_own(tmp_path, tracker):
    service = Service(tmp_path, tracker.fake.url)
    names = ["api_key"] if tracker.kind == "wandb" else ["username", "password"]
    integration = tracker.integration(**{name: None for name in names}, **{name + "_secret": "MINE" for name in names})
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        service.create(integration)
    assert "must be the name of a secret" in refused.value.message
    service.client.post("/organization/projects/proj-default/secrets", body={"name": "MINE", "value": KEY},
                        cast_to=object)
    job = service.create(integration)
    assert json.loads(job.to_json())["integrations"][0][tracker.kind][names[0] + "_secret"] == "MINE"
    assert service.wait(job.id).status == "succeeded"
    service.told(job.id)
    tracker.check(service.job(job.id))
    assert service.rows("SELECT owner, name FROM secrets") == [("", "MINE")]
    assert service.server.stop() == 0


def test_wandb_is_reached_only_where_the_operator_lists_it(tmp_path):
    service = Service(tmp_path, "http://127.0.0.1:9")
    service.server.stop()
    service.server.options = [option.replace(":9", ":8") if str(option).startswith("internal:") else option
                              for option in service.server.options]
    service.start()
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        service.create(Wandb().integration())
    assert "may not reach 127.0.0.1" in refused.value.message
    assert service.server.stop() == 0


# --- a sender alone: the same documents, cut and repeated ---

def document(tracker, events, **more):
    job = {"id": "ftjob-1", "state": "running", "started_ms": 1_700_000_000_000, "finished_ms": 0, "model": "m",
           "method": "supervised", "seed": 7,
           "hyperparameters": {"n_epochs": 2, "learning_rate": 1e-5}}
    config = {name: value for name, value in tracker.integration()[tracker.kind].items()
              if name not in ("api_key", "username", "password")}
    return {"kind": tracker.kind, "job": {**job, **more.pop("job", {})}, "config": config, "external": None,
            "after_seq": 0, "is_uncertain": False, "is_last": False,
            "operator": {"origins": f"internal:{tracker.fake.url}", "wandb_url": tracker.fake.url},
            "secrets": {"api_key": KEY, "username": KEY, "password": KEY}, "events": events, **more}


def log():
    """Steps with one and two events of metrics, and messages between them."""
    def event(kind, type, step, message, data, level="info"):
        return {"kind": kind, "type": type, "step": step, "message": message, "data": data, "level": level,
                "time_ms": 1_700_000_000_500 + 250 * step}
    events = [event("job", "message", 0, "Job is submitted", None),
              event("start", "message", 0, "Training", {"step": 0, "total_steps": 3, "train_examples": 24})]
    for step in range(1, 4):
        events.append(event("step", "metrics", step, f"Step {step}/3",
                            {"step": step, "train_loss": 2 / step, "total_steps": 3, "gradient_norms": {"w": 1}}))
        if step != 2:
            events.append(event("valid", "metrics", step, "Validated",
                                {"step": step, "valid_loss": 2.5 / step, "train_loss": 2 / step + 1}))
        events.append(event("checkpoint", "message", step, "Two\nlines \u00e9", None, "error" if step == 2 else "info"))
    return [dict(each, seq=i + 1) for i, each in enumerate(events)]


def tell(tracker, documents):
    """One after the other, each with what the one before it told."""
    external, after_seq = None, 0
    for i, events in enumerate(documents):
        lines = send(document(tracker, events, external=external, after_seq=after_seq, is_last=i == len(documents) - 1,
                              job={"state": "succeeded" if i == len(documents) - 1 else "running",
                                   "finished_ms": 1_700_000_009_000}))
        assert lines[-1]["end"] == "ok", lines
        for line in lines[:-1]:
            external, after_seq = line.get("external", external), max(after_seq, line.get("delivered", 0))
        assert after_seq == (events[-1]["seq"] if events else after_seq)


def stored(tracker):
    run, = tracker.fake.runs.values()
    if tracker.kind == "mlflow":
        return run
    return run.history(), run.summary(), run.console(), run.times(), run.config, run.state, run.tags, run.name


def test_wherever_a_log_is_cut_into_documents_the_stored_run_is_the_same(tracker):
    events, whole = log(), None
    for cuts in [[]] + [[i] for i in range(1, len(events))] + [[i, i + 1] for i in range(1, len(events) - 1)]:
        tracker.fake.runs.clear()
        edges = [0, *cuts, len(events)]
        tell(tracker, [events[a:b] for a, b in zip(edges, edges[1:])])
        whole = whole or stored(tracker)
        assert stored(tracker) == whole, f"cut at {cuts}"
    if tracker.kind == "wandb":
        history, summary, console, times, config, state, tags, name = whole
        assert history[0] == {"train_loss": 3, "valid_loss": 2.5, "_step": 1, "_timestamp": 1_700_000_000.75,
                              "_runtime": 0.75}
        assert [row["_step"] for row in history] == [1, 2, 3] and "valid_loss" not in history[1]
        assert summary["_step"] == 3 and summary["valid_loss"] == 2.5 / 3 and summary["_wandb"] == {"runtime": 1}
        assert console[:3] == ["Job is submitted", "Training", "Step 1/3"] and console[4] == "Two lines \u00e9"
        assert times[0] == "2023-11-14T22:13:20.500000"
        assert config["total_steps"] == 3 and config["n_epochs"] == 2 and config["seed"] == 7 and state == "finished"


def test_documents_told_twice_by_senders_that_died_change_nothing(tracker):
    events = log()
    tell(tracker, [events[:4], events[4:]])
    whole = stored(tracker)
    tracker.fake.runs.clear()
    first = document(tracker, events[:4])
    lines = send(first)
    external = [line["external"] for line in lines if "external" in line][0]  # of the run; that of its contents is lost
    send({**first, "external": external, "is_uncertain": True})
    tell_rest = document(tracker, events, external=external, is_uncertain=True, is_last=True,
                         job={"state": "succeeded", "finished_ms": 1_700_000_009_000})
    assert send(tell_rest)[-1]["end"] == "ok"
    assert send(tell_rest)[-1]["end"] == "ok"
    assert json.dumps(stored(tracker)) == json.dumps(whole)


@pytest.mark.parametrize("state, theirs", [("succeeded", ("finished", "FINISHED")), ("failed", ("failed", "FAILED")),
                                           ("cancelled", ("killed", "KILLED"))])
def test_the_state_at_the_end_is_in_the_trackers_own_words(tracker, state, theirs):
    assert send(document(tracker, log(), is_last=True, job={"state": state, "finished_ms": 1}))[-1]["end"] == "ok"
    run, = tracker.fake.runs.values()
    assert (run.state if tracker.kind == "wandb" else run["status"]) in theirs


def test_wandb_gets_a_sign_of_life_of_a_job_that_has_nothing_to_tell():
    tracker = Wandb()
    lines = send(document(tracker, log()[:2]))
    assert lines[-1] == {"end": "ok", "wait_ms": 0, "again_ms": 60000}
    told = [line for line in lines if "external" in line][-1]
    tracker.fake.requests.clear()
    assert send(document(tracker, [], external=told["external"], after_seq=told["delivered"]))[-1]["again_ms"] == 60000
    (_, name, _, body), = tracker.fake.requests
    assert (name, json.loads(body)) == ("file_stream", {})
    tracker.fake.close()


@pytest.mark.parametrize("answer, end",
                         [({"errors": [{"message": "permission denied for CANARY"}], "data": None}, "failed"),
                          ({"data": {}}, "failed"), (409, "retry"),
                                         (500, "retry"), (403, "failed"), (501, "failed"), ("garbage", "retry"),
                          ("cut", "retry")])
def test_what_wandb_answers_decides_whether_it_is_tried_again(answer, end):
    tracker = Wandb()
    if isinstance(answer, dict):
        tracker.fake.reply = lambda *_: answer
    else:
        tracker.fake.misbehave = [answer]
    last = send(document(tracker, log()))[-1]
    assert last["end"] == end and "CANARY" not in last["message"]
    tracker.fake.close()


def test_nobody_waits_for_a_tracker(tmp_path, tracker):
    """A tracker that takes the request and never answers."""
    tracker.fake.reply = lambda *_: time.sleep(600)
    service = Service(tmp_path, tracker.fake.url)
    job = service.create(tracker.integration())
    assert service.wait(job.id).status == "succeeded"
    assert service.server.stop() == 0


def artifacts_of(fake):
    (run_id, run), = fake.runs.items()
    place = f"{run['experiment_id']}/{run_id}/artifacts/result/"
    assert all(path.startswith(place) for path in fake.artifacts), list(fake.artifacts)
    return {path.removeprefix(place): data for path, data in fake.artifacts.items()}


def test_mlflow_gets_the_result_when_that_is_asked_for_and_none_of_it_twice(tmp_path):
    tracker = Mlflow()
    document = last_document(tmp_path, tracker.fake.url, log_artifacts=True)
    tracker.fake.misbehave = [None] * 5 + [503]  # search is not asked for; run made, params, run, list, a file, this one
    told = send(document)
    assert told[-1]["end"] == "retry" and len(tracker.fake.artifacts) in (1, 2)
    again = {**document, "external": [line["external"] for line in told if "external" in line][-1],
             "is_uncertain": True}
    assert send(again)[-1]["end"] == "ok" and artifacts_of(tracker.fake) == RESULT
    (run,) = tracker.fake.runs.values()
    sent = [path for method, path, _, _ in tracker.fake.requests if method == "PUT"]
    assert run["status"] == "FINISHED" and len(sent) == len(RESULT) + 1 and len(set(sent)) == len(RESULT)
    tracker.fake.close()


def test_mlflow_gets_no_result_unasked_and_none_of_a_job_without_one(tmp_path):
    for wanted, result in ((False, None), (True, None)):
        tracker = Mlflow()
        document = last_document(tmp_path, tracker.fake.url, log_artifacts=wanted)
        assert send(document if not wanted else {**document, "result": result})[-1]["end"] == "ok"
        assert not tracker.fake.artifacts
        tracker.fake.close()


@pytest.mark.parametrize("scheme", ["s3://bucket/", "file:///", "mlflow-artifacts://elsewhere.example.com/",
                                    "mlflow-artifacts:/../"])
def test_a_run_that_keeps_its_artifacts_elsewhere_gets_none_and_an_event_says_so(tmp_path, scheme):
    tracker = Mlflow()
    tracker.fake.artifact_scheme = scheme
    told = send(last_document(tmp_path, tracker.fake.url, log_artifacts=True))
    (run,) = tracker.fake.runs.values()
    assert run["status"] == "FINISHED" and not tracker.fake.artifacts and told[-1]["end"] == "ok"
    assert [line["event"]["code"] for line in told if "event" in line] == ["run", "artifacts"]
    tracker.fake.close()
