"""Integrations of jobs: what nobody hears. tests/track has what is heard."""
import json
import os
import pathlib
import sqlite3
import subprocess
import sys

import openai
import pytest
from conftest import ROOT, Server, chat_lines, check_response, wait_for, wait_for_job

sys.path.insert(0, str(ROOT / "tests/track"))
from fake_mlflow import FakeMlflow  # noqa: E402


@pytest.fixture
def mlflow():
    fake = FakeMlflow()
    yield fake
    fake.close()


def start(folder, models, fake, *options):
    (folder / "key").write_text("0123456789abcdef" * 4)
    (folder / "key").chmod(0o600)
    server = Server(folder / "data", models, "--no-auth", "--secret-key-file", folder / "key", "--outgoing", f"internal:{fake.url}", *options).start()
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)  # whose types know Weights & Biases alone
    client._client.event_hooks = {"response": [check_response]}
    return server, client, client.files.create(file=("t.jsonl", chat_lines(24).encode()), purpose="fine-tune")


def create(client, file, fake, secrets=None, **options):
    config = {"tracking_uri": fake.url + "/prefix/", "experiment_name": "attune tests", "run_name": "first", "tags": {"team": "red"}, **(secrets or {})}
    return client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, validation_file=file.id, hyperparameters={"n_epochs": 2, "batch_size": 4},
                                          extra_body={"integrations": [{"type": "mlflow", "mlflow": config}]}, **options)


def stored_metrics(server, job_id):
    """Every number of the job's metrics events, as the database has them."""
    with sqlite3.connect(f"file:{server.data / 'attune.db'}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT step, data_json, created_ms FROM job_events WHERE job_id=? AND type='metrics'", (job_id,)).fetchall()
    return sorted((key, step, float(value), at) for step, data, at in rows for key, value in json.loads(data).items()
                  if isinstance(value, (int, float)) and key not in ("step", "total_steps"))


def state_of(server, job_id):
    with sqlite3.connect(f"file:{server.data / 'attune.db'}?mode=ro", uri=True) as database:
        return database.execute("SELECT state, failures FROM deliveries WHERE job_id=?", (job_id,)).fetchone(), \
            database.execute("SELECT COUNT(*) FROM secrets WHERE owner=?", (job_id,)).fetchone()[0]


def wait_for_state(server, job_id, state):
    wait_for(lambda: state_of(server, job_id)[0][0] == state, lambda: state_of(server, job_id))


@pytest.mark.parametrize("misbehaviour, code", [("401", "UNAUTHENTICATED"), ("garbage", "something else than JSON")])
def test_a_service_that_refuses_costs_one_warning_and_nothing_else(tmp_path, models, mlflow, misbehaviour, code):
    if misbehaviour == "401":
        mlflow.authorization = "Bearer another"
    else:
        mlflow.misbehave = ["garbage"] * 1000
    server, client, file = start(tmp_path, models, mlflow)
    job = create(client, file, mlflow, {"token": "CANARYtoken"})
    assert wait_for_job(client, job.id).status == "succeeded"
    if misbehaviour == "401":
        wait_for_state(server, job.id, "failed")
        warnings = [event.message for event in client.fine_tuning.jobs.list_events(job.id) if event.level == "warn" and "integrations" in event.message]
        assert len(warnings) == 1 and code in warnings[0] and "CANARY" not in warnings[0]
        assert state_of(server, job.id)[1] == 0
    assert server.stop() == 0
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"CANARY" not in path.read_bytes(), path


def test_a_certificate_of_ones_own_is_trusted_when_it_is_given_and_not_else(tmp_path, models):
    pem = tmp_path / "server.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=test",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "k.pem", "-out", tmp_path / "c.pem"], check=True, capture_output=True)
    certificate = (tmp_path / "c.pem").read_text()
    pem.write_text(certificate + (tmp_path / "k.pem").read_text())
    fake = FakeMlflow(certificate=pem)
    server, client, file = start(tmp_path, models, fake)
    trusted, untrusted = create(client, file, fake, {"certificate_file": certificate}), create(client, file, fake)
    assert wait_for_job(client, trusted.id).status == wait_for_job(client, untrusted.id).status == "succeeded"
    wait_for_state(server, trusted.id, "done")
    (run,) = fake.runs.values()
    assert run["tags"]["attune.job_id"] == trusted.id and sorted(run["metrics"]) == stored_metrics(server, trusted.id)
    wait_for(lambda: [event for event in client.fine_tuning.jobs.list_events(untrusted.id) if "certificate" in event.message])
    assert state_of(server, untrusted.id)[0][0] == "pending"
    fake.close()
    assert server.stop() == 0


def test_what_the_operator_does_not_list_is_not_reached(tmp_path, models, mlflow):
    server, client, file = start(tmp_path, models, mlflow)
    other = FakeMlflow()
    for target in (other.url, "http://169.254.169.254", mlflow.url.replace("127.0.0.1", "localhost"), mlflow.url.replace("127.0.0.1", "2130706433"),
                   mlflow.url.replace("http", "https"), mlflow.url.replace("//", "//a:b@"), "file:///etc/passwd"):
        mlflow_like = type("Target", (), {"url": target})
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            create(client, file, mlflow_like)
        assert refused.value.param.startswith("integrations.0.mlflow.tracking_uri")
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, extra_body={"integrations": [{"type": "comet", "comet": {"project": "p"}}]})
    assert "comet is not there yet" in refused.value.message
    assert other.requests == mlflow.requests == [] and not client.fine_tuning.jobs.list().data
    other.close()
    assert server.stop() == 0


def test_a_redirect_is_not_followed(tmp_path, models, mlflow):
    elsewhere = FakeMlflow()
    mlflow.get_experiments_get_by_name = lambda fields: (_ for _ in ()).throw(AssertionError("not reached"))
    original = mlflow.answer

    def redirect(handler):
        mlflow.requests.append((handler.command, handler.path, dict(handler.headers), b""))
        handler.send_response(307)
        handler.send_header("Location", elsewhere.url + handler.path)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    mlflow.answer = redirect
    server, client, file = start(tmp_path, models, mlflow)
    job = create(client, file, mlflow, {"token": "CANARYtoken"})
    assert wait_for_job(client, job.id).status == "succeeded"
    wait_for_state(server, job.id, "failed")
    assert mlflow.requests and not elsewhere.requests and original
    elsewhere.close()
    assert server.stop() == 0


def test_the_senders_command_line_and_environment_hold_no_secret(tmp_path, models, mlflow):
    original, seen = mlflow.answer, []

    def look(handler):
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if b"\0send\0" in (process / "cmdline").read_bytes():
                    seen.append((process / "cmdline").read_bytes() + (process / "environ").read_bytes() + (process / "limits").read_bytes())
            except OSError:
                continue
        original(handler)

    mlflow.answer = look
    server, client, file = start(tmp_path, models, mlflow)
    job = create(client, file, mlflow, {"token": "CANARYtoken"})
    assert wait_for_job(client, job.id).status == "succeeded"
    wait_for_state(server, job.id, "done")
    assert seen and not [text for text in seen if b"CANARY" in text]
    assert any(request[2].get("Authorization") == "Bearer CANARYtoken" for request in mlflow.requests)
    assert server.stop() == 0 and os.path.exists(server.data / "attune.db")
