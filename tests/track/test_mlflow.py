"""Jobs told to real MLflow servers, and read back through MLflow's own client: `make mlflow`.

MLFLOW_PYTHON names the interpreter of a virtual environment with mlflow in it."""
import json
import os
import pathlib
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request

import openai
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "api"))
from conftest import Server, chat_lines, wait_for_job  # noqa: E402
from tiny_model import make_tiny_model  # noqa: E402

PYTHON = os.environ["MLFLOW_PYTHON"]
READ_BACK = """
import json, sys, mlflow
client = mlflow.MlflowClient(sys.argv[1])
experiment = client.get_experiment_by_name(sys.argv[2])
runs = client.search_runs([experiment.experiment_id])
print(json.dumps({"version": mlflow.__version__, "runs": [{
    "name": run.info.run_name, "status": run.info.status, "start": run.info.start_time, "end": run.info.end_time, "params": run.data.params,
    "tags": run.data.tags, "metrics": [(m.key, m.step, m.value, m.timestamp) for key in run.data.metrics for m in client.get_metric_history(run.info.run_id, key)],
} for run in runs]}))
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Mlflow:
    def __init__(self, folder, *options, **environment):
        self.port, self.folder = free_port(), folder
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [PYTHON, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
                        "--artifacts-destination", str(folder / "artifacts"), "--workers", "1", *options]
        self.environment = dict(os.environ, MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", **environment)
        self.start()

    def start(self):
        self.log = open(self.folder / "mlflow.log", "ab")
        self.process = subprocess.Popen(self.command, cwd=self.folder, env=self.environment, stdout=self.log, stderr=self.log, start_new_session=True)
        for _ in range(600):
            try:
                assert urllib.request.urlopen(self.url + "/health", timeout=5).status == 200
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "mlflow.log").read_text()[-3000:]
                time.sleep(0.2)
        raise AssertionError("MLflow did not start")

    def stop(self):
        os.killpg(self.process.pid, 15)
        self.process.wait(timeout=60)

    def read_back(self, experiment, **environment):
        run = subprocess.run([PYTHON, "-c", READ_BACK, self.url, experiment], env=dict(self.environment, **environment), capture_output=True, text=True)
        assert run.returncode == 0, run.stderr[-3000:]
        return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    make_tiny_model(folder / "models/test/tiny")
    (folder / "key").write_text("0123456789abcdef" * 4)
    (folder / "key").chmod(0o600)

    class Service:
        def start(self, url):
            self.server = Server(folder / "data", folder / "models", "--no-auth", "--secret-key-file", folder / "key", "--outgoing", f"internal:{url}").start()
            self.client = openai.OpenAI(base_url=self.server.url + "/v1", api_key="none")
            self.file = self.client.files.create(file=("t.jsonl", chat_lines(24).encode()), purpose="fine-tune")
            return self

        def run(self, url, experiment, **config):
            integration = {"type": "mlflow", "mlflow": {"tracking_uri": url, "experiment_name": experiment, "run_name": "a run", "tags": {"team": "red"}, **config}}
            return self.client.fine_tuning.jobs.create(model="test/tiny", training_file=self.file.id, validation_file=self.file.id,
                                                       hyperparameters={"n_epochs": 3, "batch_size": 2}, extra_body={"integrations": [integration]})

        def told(self, job_id, state="done", timeout=120):
            deadline = time.monotonic() + timeout
            while self.rows("SELECT state FROM deliveries WHERE job_id=?", job_id) != [(state,)]:
                assert time.monotonic() < deadline, (self.server.data / "send.log").read_text()
                time.sleep(0.2)

        def rows(self, sql, *values):
            with sqlite3.connect(f"file:{self.server.data / 'attune.db'}?mode=ro", uri=True) as database:
                return database.execute(sql, values).fetchall()

        def metrics(self, job_id):
            rows = self.rows("SELECT step, data_json, created_ms FROM job_events WHERE job_id=? AND type='metrics'", job_id)
            return sorted((key, step, value, at) for step, data, at in rows for key, value in json.loads(data).items()
                          if isinstance(value, (int, float)) and key not in ("step", "total_steps"))

    return Service()


def check(service, told, job):
    (run,) = told["runs"]
    assert (run["name"], run["status"]) == ("a run", "FINISHED")
    assert run["tags"]["attune.job_id"] == job.id and run["tags"]["team"] == "red"
    assert run["params"]["model"] == "test/tiny" and run["params"]["n_epochs"] == "3" and run["params"]["learning_rate"] == "1e-05"
    metrics = sorted(tuple(metric) for metric in run["metrics"])
    assert metrics == service.metrics(job.id), "every number as we have it"
    print(f"\nMLflow {told['version']}: {len(metrics)} metrics of {len({m[0] for m in metrics})} names, all equal")


def test_a_run_is_read_back_equal_to_what_we_have(tmp_path, service):
    mlflow = Mlflow(tmp_path)
    service.start(mlflow.url)
    job = wait_for_job(service.client, service.run(mlflow.url, "plain").id)
    service.told(job.id)
    check(service, mlflow.read_back("plain"), job)
    second = wait_for_job(service.client, service.run(mlflow.url, "plain").id)
    service.told(second.id)
    assert len(mlflow.read_back("plain")["runs"]) == 2
    mlflow.stop()
    assert service.server.stop() == 0


def test_a_server_that_was_away_hears_everything_afterwards(tmp_path, service):
    mlflow = Mlflow(tmp_path)
    mlflow.stop()
    service.start(mlflow.url)
    job = wait_for_job(service.client, service.run(mlflow.url, "away").id)
    assert job.status == "succeeded" and service.rows("SELECT state FROM deliveries WHERE job_id=?", job.id) == [("pending",)]
    mlflow.start()
    service.told(job.id)
    check(service, mlflow.read_back("away"), job)
    mlflow.stop()
    assert service.server.stop() == 0


def test_basic_authentication(tmp_path, service):
    (tmp_path / "auth.ini").write_text(f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{tmp_path}/auth.db\nadmin_username = someone\n"
                                       "admin_password = long-password-4711\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n")
    mlflow = Mlflow(tmp_path, "--app-name", "basic-auth", MLFLOW_AUTH_CONFIG_PATH=str(tmp_path / "auth.ini"), MLFLOW_FLASK_SERVER_SECRET_KEY="x" * 32)
    service.start(mlflow.url)
    job = wait_for_job(service.client, service.run(mlflow.url, "closed", username="someone", password="long-password-4711").id)
    wrong = wait_for_job(service.client, service.run(mlflow.url, "closed", username="someone", password="wrong").id)
    service.told(job.id)
    service.told(wrong.id, "failed")
    check(service, mlflow.read_back("closed", MLFLOW_TRACKING_USERNAME="someone", MLFLOW_TRACKING_PASSWORD="long-password-4711"), job)
    assert wrong.status == "succeeded"
    warnings = [event.message for event in service.client.fine_tuning.jobs.list_events(wrong.id) if event.level == "warn" and "401" in event.message]
    assert len(warnings) == 1
    mlflow.stop()
    assert service.server.stop() == 0
