"""Webhook endpoints: a project's, with the stock SDK, and what they hear of jobs."""
import concurrent.futures
import http.server
import json
import sqlite3
import sys
import threading
import time

import openai
import pytest
from conftest import ROOT, Server, chat_lines, check_response, wait_for, wait_for_job
from openai import InvalidWebhookSignatureError

sys.path.insert(0, str(ROOT / "tests/track"))
from fake_service import senders  # noqa: E402

TYPES = ["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]


class Receiver:
    """Keeps what it is sent; answers: what the next requests get, a status, "cut", or an event that 200 waits for; 200 afterwards."""

    def __init__(self):
        self.requests, self.answers, receiver = [], [], self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = receiver.answers.pop(0) if receiver.answers else 200
                receiver.requests.append((self.path, dict(self.headers), body))
                if answer == "cut":
                    self.close_connection = True
                    return
                if isinstance(answer, threading.Event):
                    answer.wait(60)
                    answer = 200
                self.send_response(answer)
                self.send_header("Content-Length", "0")
                if answer in (301, 307):
                    self.send_header("Location", receiver.elsewhere)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait(self, count):
        wait_for(lambda: len(self.requests) >= count, lambda: self.requests)
        assert len(self.requests) == count, self.requests

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def receiver():
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory, models, receiver):
    folder = tmp_path_factory.mktemp("webhooks")
    server = Server(folder / "data", models, "--no-auth", "--outgoing", f"internal:{receiver.url}, https://anywhere").start()
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, _strict_response_validation=True)
    client._client.event_hooks = {"response": [check_response]}
    file = client.files.create(file=("t.jsonl", chat_lines(12).encode()), purpose="fine-tune")
    yield server, client, file
    assert server.stop() == 0


@pytest.fixture(autouse=True)
def clean(world, receiver):
    yield
    for endpoint in list(world[1].webhooks.list()):
        world[1].webhooks.delete(endpoint.id)
    wait_for(lambda: not senders(world[0].process.pid))
    receiver.requests.clear()
    receiver.answers.clear()


def rows(server, sql, *values):
    with sqlite3.connect(f"file:{server.data / 'attune.db'}?mode=ro", uri=True) as database:
        return database.execute(sql, values).fetchall()


def run(client, file, **options):
    return wait_for_job(client, client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, hyperparameters={"n_epochs": 1}, **options).id)


def test_the_sdk_makes_lists_changes_and_deletes_endpoints(world):
    server, client, _ = world
    assert client.webhooks.event_types.list().data == TYPES
    made = client.webhooks.create(name="first", url="https://hooks.example.com/a?b=c", event_types=[TYPES[1], TYPES[0], TYPES[1]])
    assert made.event_types == TYPES[:2] and made.signing_secret.startswith("whsec_") and made.model_extra["status"] == "enabled"
    assert made.signing_secret_hint == "whsec_…" + made.signing_secret.rstrip("=")[-4:]
    assert client.webhooks.retrieve(made.id).to_dict() == {key: value for key, value in made.to_dict().items() if key != "signing_secret"}
    second = client.webhooks.create(name="second", url="https://hooks.example.com/", event_types=TYPES)
    assert [endpoint.id for endpoint in client.webhooks.list(limit=1)] == [second.id, made.id]
    assert [endpoint.id for endpoint in client.webhooks.list(after=second.id).data] == [made.id]
    changed = client.webhooks.update(made.id, name="renamed", event_types=[TYPES[2]])
    assert (changed.name, changed.event_types, changed.url) == ("renamed", [TYPES[2]], made.url)
    assert client.webhooks.update(made.id, extra_body={"status": "disabled"}).model_extra["status"] == "disabled"
    rotated = client.webhooks.rotate_secret(made.id)
    assert rotated.signing_secret != made.signing_secret
    removed = client.webhooks.delete(made.id)
    assert (removed.id, removed.deleted, removed.object) == (made.id, True, "webhook_endpoint.deleted")
    for ask in (client.webhooks.retrieve, client.webhooks.delete, client.webhooks.rotate_secret, client.webhooks.update):
        with pytest.raises(openai.NotFoundError):
            ask(made.id)
    assert rows(server, "SELECT COUNT(*) FROM secrets WHERE owner=?", made.id) == [(0,)]


def test_a_secret_is_nowhere_but_in_the_answer(world):
    server, client, _ = world
    made = client.webhooks.create(name="x", url="https://hooks.example.com/", event_types=TYPES, extra_headers={"Idempotency-Key": "k"})
    for path in server.data.parent.rglob("*"):
        assert not path.is_file() or made.signing_secret[6:].encode() not in path.read_bytes(), path


GOOD = {"name": "x", "url": "https://hooks.example.com/", "event_types": TYPES}


@pytest.mark.parametrize("change, param", [
    ({"name": ""}, "name"), ({"name": 5}, "name"), ({"name": "x" * 129}, "name"), ({"url": "https://127.0.0.1/"}, "url"), ({"url": "http://hooks.example.com/"}, "url"),
    ({"url": "https://a:b@hooks.example.com/"}, "url"), ({"url": "https://hooks.example.com/" + "x" * 2048}, "url"), ({"url": None}, "url"),
    ({"event_types": []}, "event_types"), ({"event_types": ["batch.completed"]}, "event_types"), ({"event_types": TYPES[0]}, "event_types"),
    ({"event_types": [5]}, "event_types"), ({"status": "on"}, "status"), ({"color": "red"}, "color")])
def test_what_is_wrong_is_named(world, change, param):
    _, client, _ = world
    endpoint = client.webhooks.create(**GOOD)
    for path in ("/webhook_endpoints", f"/webhook_endpoints/{endpoint.id}"):
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            client.post(path, body={**GOOD, **change}, cast_to=object)
        assert refused.value.param == param
    with pytest.raises(openai.UnprocessableEntityError):
        client.post(f"/webhook_endpoints/{endpoint.id}/rotate_secret", body={"keep_old_secret_active_for_24_hours": 1}, cast_to=object)
    assert len(client.webhooks.list().data) == 1


def test_a_project_has_at_most_fifty(world):
    _, client, _ = world
    for _ in range(50):
        client.webhooks.create(**GOOD)
    with pytest.raises(openai.APIStatusError) as refused:
        client.webhooks.create(**GOOD)
    assert refused.value.status_code == 429 and "50" in refused.value.message


def test_every_end_of_a_job_is_told_and_the_sdk_verifies_it(world, receiver):
    server, client, file = world
    made = client.webhooks.create(name="x", url=receiver.url + "/hook/?team=red", event_types=TYPES)
    other = client.webhooks.create(name="only failures", url=receiver.url + "/failures", event_types=[TYPES[1]])
    before = time.time()
    done = run(client, file)
    receiver.wait(1)
    bad = client.files.create(file=("t.jsonl", b'{"messages": [{"role": "user", "content": "' + b"red " * 2000 + b'"}, {"role": "assistant", "content": "x"}]}\n'), purpose="fine-tune")
    failed = run(client, bad, extra_body={"over_length": "error"})
    receiver.wait(3)
    cancelled = client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, hyperparameters={"n_epochs": 50})
    client.fine_tuning.jobs.cancel(cancelled.id)
    receiver.wait(4)
    assert (done.status, failed.status) == ("succeeded", "failed")
    heard = []
    for path, headers, body in receiver.requests:
        secret = made.signing_secret if path == "/hook/?team=red" else other.signing_secret
        event = client.webhooks.unwrap(body, headers, secret=secret)
        with pytest.raises(InvalidWebhookSignatureError):
            client.webhooks.unwrap(body.replace(b"ftjob", b"ftjoc"), headers, secret=secret)
        with pytest.raises(InvalidWebhookSignatureError):
            client.webhooks.unwrap(body, headers, secret=made.signing_secret if secret == other.signing_secret else other.signing_secret)
        assert event.object == "event" and before - 2 < event.created_at < time.time() + 2 and event.id.startswith("evt_")
        assert headers["Content-Type"] == "application/json" and headers["webhook-id"].startswith("wh_")
        heard.append((path, event.type, event.data.id))
    assert sorted(heard) == sorted([("/hook/?team=red", TYPES[0], done.id), ("/hook/?team=red", TYPES[1], failed.id), ("/failures", TYPES[1], failed.id),
                                    ("/hook/?team=red", TYPES[2], cancelled.id)])
    assert len({headers["webhook-id"] for _, headers, _ in receiver.requests}) == 4
    assert len({json.loads(body)["id"] for *_, body in receiver.requests}) == 3, "two endpoints, one event"


def test_an_event_that_was_not_taken_is_sent_again_under_the_same_id(world, receiver):
    server, client, file = world
    made = client.webhooks.create(name="x", url=receiver.url + "/", event_types=TYPES)
    receiver.answers = [500, "cut", 307, 204]
    receiver.elsewhere = "http://169.254.169.254/"
    job = run(client, file)
    receiver.wait(4)
    assert len({headers["webhook-id"] for _, headers, _ in receiver.requests}) == 1 == len({body for *_, body in receiver.requests})
    for _, headers, body in receiver.requests:
        client.webhooks.unwrap(body, headers, secret=made.signing_secret)
    stamps = [int(headers["webhook-timestamp"]) for _, headers, _ in receiver.requests]
    assert stamps == sorted(stamps) and stamps[-1] > stamps[0]
    wait_for(lambda: rows(server, "SELECT state FROM deliveries WHERE job_id=?", job.id) == [("done",)])
    warnings = [event.message for event in client.fine_tuning.jobs.list_events(job.id) if event.level == "warn" and made.id in event.message]
    assert len(warnings) == 1, "the third failure in a row is told"


def test_an_endpoint_that_is_gone_is_told_of_once_and_given_up(world, receiver):
    server, client, file = world
    made = client.webhooks.create(name="x", url=receiver.url + "/secret-path", event_types=TYPES)
    receiver.answers = [410]
    job = run(client, file)
    wait_for(lambda: rows(server, "SELECT state FROM deliveries WHERE job_id=?", job.id) == [("failed",)])
    (warning,) = [event.message for event in client.fine_tuning.jobs.list_events(job.id) if made.id in event.message]
    assert "410" in warning and "secret-path" not in warning and len(receiver.requests) == 1


def test_a_rotated_secret_signs_beside_the_old_one_for_a_day(world, receiver):
    _, client, file = world
    made = client.webhooks.create(name="x", url=receiver.url + "/", event_types=TYPES)
    new = client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
    run(client, file)
    receiver.wait(1)
    ((_, headers, body),) = receiver.requests
    assert len(headers["webhook-signature"].split()) == 2
    for secret in (made.signing_secret, new.signing_secret):
        client.webhooks.unwrap(body, headers, secret=secret)
    newest = client.webhooks.rotate_secret(made.id)
    run(client, file)
    receiver.wait(2)
    _, headers, body = receiver.requests[1]
    client.webhooks.unwrap(body, headers, secret=newest.signing_secret)
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.unwrap(body, headers, secret=new.signing_secret)


def test_one_that_is_disabled_or_deleted_hears_nothing_more(world, receiver):
    server, client, file = world
    made = client.webhooks.create(name="x", url=receiver.url + "/", event_types=TYPES, extra_body={"status": "disabled"})
    quiet = run(client, file)
    assert rows(server, "SELECT * FROM deliveries WHERE job_id=?", quiet.id) == []
    client.webhooks.update(made.id, extra_body={"status": "enabled"})
    receiver.answers = [500] * 1000
    jobs = [run(client, file), run(client, file)]
    client.webhooks.update(made.id, extra_body={"status": "disabled"})
    assert rows(server, "SELECT * FROM deliveries WHERE state='pending'") == []
    client.webhooks.delete(made.id)
    assert jobs and rows(server, "SELECT * FROM webhook_endpoints WHERE id=?", made.id) == []


def test_a_server_that_is_killed_tells_the_end_afterwards(tmp_path, models):
    receiver = Receiver()
    options = ("--no-auth", "--outgoing", f"internal:{receiver.url}")
    server = Server(tmp_path / "data", models, *options).start()
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    file = client.files.create(file=("t.jsonl", chat_lines(12).encode()), purpose="fine-tune")
    made = client.webhooks.create(name="x", url=receiver.url + "/", event_types=TYPES)
    receiver.answers = [500] * 3
    job = run(client, file)
    receiver.wait(1)
    server.stop(9)
    server.start()
    receiver.wait(4)
    assert len({headers["webhook-id"] for _, headers, _ in receiver.requests}) == 1
    event = client.webhooks.unwrap(receiver.requests[-1][2], receiver.requests[-1][1], secret=made.signing_secret)
    assert (event.type, event.data.id) == (TYPES[0], job.id)
    receiver.close()
    assert server.stop() == 0


def ping(client, endpoint, **body):
    return client.post(f"/webhook_endpoints/{endpoint.id}/test", body=body, cast_to=object)


def test_an_endpoint_is_tested_without_a_job(world, receiver):
    server, client, _ = world
    made = client.webhooks.create(name="x", url=receiver.url + "/hook", event_types=TYPES[1:])
    told = ping(client, made)
    assert (told["object"], told["webhook_endpoint_id"], told["event_type"], told["delivered"], told["status"], told["error"]) == (
        "webhook_endpoint.test", made.id, TYPES[1], True, 200, None)
    (path, headers, body), = receiver.requests
    event = client.webhooks.unwrap(body, headers, secret=made.signing_secret)
    assert path == "/hook" and (event.id, event.type, event.data.id) == (told["event_id"], TYPES[1], "ftjob-test")
    client.webhooks.update(made.id, extra_body={"status": "disabled"})
    assert ping(client, made, event_type=TYPES[0])["event_type"] == TYPES[0]
    assert rows(server, "SELECT COUNT(*) FROM deliveries WHERE state='pending'") == [(0,)]


def test_a_test_tells_what_went_wrong(world, receiver):
    _, client, _ = world
    made = client.webhooks.create(name="x", url=receiver.url, event_types=TYPES)
    receiver.answers[:] = [500, 410, "cut"]
    for status in (500, 410, None):
        told = ping(client, made)
        assert not told["delivered"] and told["status"] == status and told["error"]
    nobody = client.webhooks.create(name="x", url="https://no.such.name.invalid/", event_types=TYPES)
    assert ping(client, nobody)["status"] is None
    for body, status in (({"event_type": "batch.completed"}, 422), ({"url": "x"}, 422)):
        with pytest.raises(openai.APIStatusError) as refused:
            ping(client, made, **body)
        assert refused.value.status_code == status
    with pytest.raises(openai.NotFoundError):
        client.post("/webhook_endpoints/we_none/test", body={}, cast_to=object)


def test_a_fifth_test_at_once_is_asked_to_wait(world, receiver):
    _, client, _ = world
    made = client.webhooks.create(name="x", url=receiver.url, event_types=TYPES)
    gate = threading.Event()
    receiver.answers[:] = [gate] * 4
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        pings = [pool.submit(ping, client, made) for _ in range(4)]
        try:
            receiver.wait(4)
            with pytest.raises(openai.APIStatusError) as refused:
                ping(client.with_options(max_retries=0), made)
        finally:
            gate.set()
    assert refused.value.status_code == 503 and refused.value.code == "server_busy" and refused.value.response.headers["Retry-After"] == "1"
    assert all(told.result()["delivered"] for told in pings)


def test_a_rotated_secret_signs_the_test_with_both(world, receiver):
    _, client, _ = world
    made = client.webhooks.create(name="x", url=receiver.url, event_types=TYPES)
    client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
    assert ping(client, made)["delivered"]
    (_, headers, body), = receiver.requests
    client.webhooks.unwrap(body, headers, secret=made.signing_secret)
