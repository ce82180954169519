"""What users ask before a job runs: ?dry_run=true and the preview of a file."""
import json
import socket
import threading
import urllib.parse

import pytest
from conftest import Server, ask, chat_lines, make_client, wait_for, wait_for_job

HYPERPARAMETERS = {"n_epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "context_length": 64, "packing": False}


def body_of(training_file, **more):
    return {"model": "test/tiny", "training_file": training_file.id, "hyperparameters": HYPERPARAMETERS} | more


def estimate(server, body, **headers):
    status, headers, content = ask(server, "POST", "/v1/fine_tuning/jobs?dry_run=true", json.dumps(body), **headers)
    return status, json.loads(content)


def preview(server, file_id, **query):
    status, headers, content = ask(server, "GET", f"/v1/files/{file_id}/preview?" + urllib.parse.urlencode(query))
    return status, json.loads(content)


@pytest.mark.parametrize("more", [{}, {"lora": True, "lora_r": 4}, {"packing": True, "batch_size": 1}])
def test_the_estimates_numbers_are_those_that_the_job_reports(server, client, training_file, more):
    body = body_of(training_file, hyperparameters=HYPERPARAMETERS | more, validation_file=training_file.id, seed=5)
    status, told = estimate(server, body)
    assert status == 200 and told["object"] == "fine_tuning.job.estimate" and told["seed"] == 5 and told["estimated_seconds"] > 0
    job = wait_for_job(client, client.post("/fine_tuning/jobs", body=body, cast_to=object)["id"])
    assert job.status == "succeeded", job.error
    got = client.get(f"/fine_tuning/jobs/{job.id}", cast_to=object)
    assert (told["total_steps"], told["trained_tokens"]) == (got["total_steps"], got["trained_tokens"])
    assert told["hyperparameters"] == got["hyperparameters"]
    assert told["training_data"]["examples"] == 24 and told["trainable_parameters"] <= told["parameters"]


def test_a_dry_run_makes_nothing(server, client, training_file):
    before = [job.id for job in client.fine_tuning.jobs.list(limit=100)]
    body = body_of(training_file, metadata={"a": "b"})
    first = estimate(server, body, Idempotency_Key="dry-run")
    assert first[0] == 200 and estimate(server, body_of(training_file, seed=1), Idempotency_Key="dry-run")[0] == 200
    assert [job.id for job in client.fine_tuning.jobs.list(limit=100)] == before
    assert ask(server, "POST", "/v1/fine_tuning/jobs?dry_run=false", b"{}")[0] == 422


def test_a_dry_run_refuses_what_a_job_would(server, training_file):
    assert ask(server, "POST", "/v1/fine_tuning/jobs?dry_run=perhaps", json.dumps(body_of(training_file)))[0] == 422
    for body in ({}, body_of(training_file, hyperparameters={"n_epochs": 0}), body_of(training_file, model="no/such"), {"model": "test/tiny", "training_file": "file-none"}):
        dry = ask(server, "POST", "/v1/fine_tuning/jobs?dry_run=true", json.dumps(body))
        real = ask(server, "POST", "/v1/fine_tuning/jobs", json.dumps(body))
        assert dry[0] == real[0] >= 400 and json.loads(dry[2]) == json.loads(real[2])


def test_lines_that_cannot_be_used_are_told_before_the_job_fails(server, client):
    file = client.files.create(file=("long.jsonl", chat_lines(24).encode()), purpose="fine-tune")
    status, answer = estimate(server, body_of(file, hyperparameters=HYPERPARAMETERS | {"context_length": 16}))
    assert status == 422 and answer["error"]["param"] == "training_file" and "longer than context_length 16" in answer["error"]["message"]
    lines = chat_lines(24) + json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "word " * 100}]}) + "\n"
    file = client.files.create(file=("one.jsonl", lines.encode()), purpose="fine-tune")
    status, told = estimate(server, body_of(file))
    assert status == 200 and told["training_data"]["over_length_lines"] == 1 and told["training_data"]["examples"] == 24
    assert [warning for warning in told["warnings"] if warning["code"] == "training_over_length" and "line" in warning["message"] and "25" in warning["message"]]


def test_warnings_have_stable_codes(server, client, training_file):
    few = HYPERPARAMETERS | {"context_length": 32}

    def codes(**more):
        status, told = estimate(server, body_of(training_file, **{"hyperparameters": few} | more))
        assert status == 200, told
        return [warning["code"] for warning in told["warnings"]]

    assert codes() == []
    assert codes(hyperparameters=few | {"n_epochs": 1}) == ["few_steps"]
    assert codes(hyperparameters=few | {"n_epochs": 11}) == ["many_epochs"]
    assert codes(hyperparameters=few | {"lora": True, "learning_rate": 1e-5}) == ["lora_default_rate"]
    assert codes(hyperparameters={"n_epochs": 2, "batch_size": 4, "context_length": 32, "packing": False, "lora": True}) == ["lora_default_rate"]
    assert codes(hyperparameters=few | {"context_length": 256}) == ["long_context"]
    assert codes(validation_file=training_file.id) == ["validation_is_training"]
    assert codes(nonsense=1) == ["unknown_field"]


def test_a_dry_run_of_dpo_counts_pairs(server, client):
    pair = {"input": {"messages": [{"role": "user", "content": "Say red."}]}, "preferred_output": [{"role": "assistant", "content": "Red."}],
            "non_preferred_output": [{"role": "assistant", "content": "No."}]}
    file = client.files.create(file=("pairs.jsonl", (json.dumps(pair) + "\n").encode() * 12), purpose="fine-tune")
    status, told = estimate(server, {"model": "test/tiny", "training_file": file.id, "method": {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1, "batch_size": 4}}}})
    assert status == 200 and told["method"] == "dpo" and told["rows"] == told["training_data"]["examples"] == 12 and told["total_steps"] == 3
    status, answer = preview(server, file.id, model="test/tiny")
    assert status == 200 and {"chosen", "rejected"} < set(answer["lines"][0]) and answer["lines"][0]["kind"] == "preference"


def test_a_preview_shows_what_trains(server, client, training_file, finished_job):
    status, answer = preview(server, training_file.id, model="test/tiny", line=2, count=3)
    assert status == 200 and [line["line"] for line in answer["lines"]] == [2, 3, 4]
    line = answer["lines"][0]
    trained = "".join(token["text"] for token in line["tokens"] if token["trained"])
    assert trained.startswith("The word is green.") and "Say green." in line["text"] and "Say green." not in trained
    assert line["trained_count"] == sum(token["trained"] for token in line["tokens"])
    assert preview(server, training_file.id, model=finished_job.fine_tuned_model, line=2, count=3)[1]["lines"] == answer["lines"]


def test_a_preview_tells_what_is_wrong_with_a_line(server, client):
    file = client.files.create(file=("bad.jsonl", b'{"text": 1}\n{"text": "fine"}\n'), purpose="fine-tune")
    status, answer = preview(server, file.id, model="test/tiny", count=100)
    assert status == 200 and "text" in answer["lines"][0]["error"] and answer["lines"][1]["tokens"]
    status, answer = preview(server, file.id, model="test/tiny", line=3)
    assert status == 404 and answer["error"]["code"] == "line_not_found"


@pytest.mark.parametrize("query, status, param", [({}, 422, "model"), ({"model": "no/such"}, 404, "model"), ({"model": "test/tiny", "line": 0}, 422, "line"),
                                                  ({"model": "test/tiny", "count": 101}, 422, "count"), ({"model": "test/tiny", "line": "x"}, 422, "line")])
def test_a_preview_names_the_parameter_that_is_wrong(server, training_file, query, status, param):
    got, answer = preview(server, training_file.id, **query)
    assert got == status and answer["error"]["param"] == param


def test_files_that_are_not_there_or_not_for_training_have_no_preview(server, client):
    assert preview(server, "file-none", model="test/tiny")[0] == 404
    file = client.files.create(file=("other.txt", b"hello"), purpose="user_data")
    assert preview(server, file.id, model="test/tiny")[0] == 422


def at_once(count, call):
    answers = [None] * count
    threads = [threading.Thread(target=lambda i=i: answers.__setitem__(i, call())) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_beyond_two_at_once_the_client_is_told_to_come_back(server, training_file):
    body = json.dumps(body_of(training_file))
    for call in (lambda: ask(server, "POST", "/v1/fine_tuning/jobs?dry_run=true", body), lambda: ask(server, "GET", f"/v1/files/{training_file.id}/preview?model=test/tiny")):
        answers = at_once(12, call)
        refused = [answer for answer in answers if answer[0] == 503]
        assert {answer[0] for answer in answers} == {200, 503} and all(int(answer[1]["Retry-After"]) > 0 for answer in refused)
        assert call()[0] == 200


def test_a_client_that_goes_away_frees_its_place(server, training_file):
    host, port = server.url[7:].split(":")
    body = json.dumps(body_of(training_file)).encode()
    for _ in range(4):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"POST /v1/fine_tuning/jobs?dry_run=true HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    wait_for(lambda: estimate(server, json.loads(body))[0] == 200)


def test_without_memory_for_it_the_answer_says_so(models, tmp_path):
    server = Server(tmp_path / "data", models, "--no-auth", "--memory", str(100 << 20)).start()
    try:
        client = make_client(server)
        file = client.files.create(file=("train.jsonl", chat_lines(24).encode()), purpose="fine-tune")
        assert estimate(server, body_of(file))[0] == 507 and preview(server, file.id, model="test/tiny")[0] == 507
    finally:
        assert server.stop() == 0


def test_a_jobs_plan_keeps_within_what_the_job_reserved(server, client, finished_job):
    run = server.data / "runs" / finished_job.id
    limit, plan = (json.loads((run / name).read_text()) for name in ("job.json", "plan.json"))
    assert plan["total_bytes"] <= limit["options"]["memory_bytes"] < 1 << 30
