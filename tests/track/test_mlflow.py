"""Jobs told to a real MLflow server, and read back through MLflow's own client: `make track`.

MLFLOW_PYTHON names the interpreter of a virtual environment with mlflow in it."""
import http.client
import json
import os
import socket
import ssl
import subprocess
import time
import urllib.request

import pytest
from fake_service import FakeService, Refused
from tracking import KEY, RESULT, Mlflow, Service, check_mlflow, kill_at_every_point, last_document, send

PYTHON = os.environ.get("MLFLOW_PYTHON")
pytestmark = pytest.mark.skipif(not PYTHON, reason="MLFLOW_PYTHON names no interpreter: make track")
READ_BACK = """
import json, sys, mlflow
client = mlflow.MlflowClient(sys.argv[1])
experiment = client.get_experiment_by_name(sys.argv[2])
runs = client.search_runs([experiment.experiment_id])
print(json.dumps({"version": mlflow.__version__, "runs": [{
    "name": run.info.run_name, "link": f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}", "status": run.info.status, "start": run.info.start_time, "end": run.info.end_time, "params": run.data.params,
    "tags": run.data.tags, "metrics": [(m.key, m.step, m.value, m.timestamp) for key in run.data.metrics for m in client.get_metric_history(run.info.run_id, key)],
} for run in runs]}))
"""

READ_RESULT = """
import json, pathlib, sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
folder = pathlib.Path(mlflow.MlflowClient(sys.argv[1]).download_artifacts(sys.argv[2], "result"))
run = mlflow.MlflowClient(sys.argv[1]).get_run(sys.argv[2])
print(json.dumps({"status": run.info.status, "files": {str(file.relative_to(folder)): file.read_bytes().hex() for file in folder.rglob("*") if file.is_file()}}))
"""
BEARER = """
import flask, werkzeug.datastructures
def authenticate():
    if flask.request.headers.get("Authorization") == "Bearer TOKEN":
        return werkzeug.datastructures.Authorization("basic", {"username": "someone", "password": "TOKEN"})
    return flask.make_response("no", 401)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """The real one, on a database of its own."""

    def __init__(self, folder, *options, certificate=None, **environment):
        self.port, self.folder, self.certificate = free_port(), folder, certificate
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.port}"
        self.command = [PYTHON, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
                        "--artifacts-destination", str(folder / "artifacts"), "--workers", "1", *options]
        self.environment = dict(os.environ, MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
                                **environment)
        self.start()

    def start(self):
        self.log = open(self.folder / "mlflow.log", "ab")
        self.process = subprocess.Popen(self.command, cwd=self.folder, env=self.environment, stdout=self.log,
                                        stderr=self.log, start_new_session=True)
        for _ in range(600):
            try:
                trust = ssl.create_default_context(cafile=self.certificate) if self.certificate else None
                assert urllib.request.urlopen(self.url + "/health", timeout=5, context=trust).status == 200
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "mlflow.log").read_text()[-3000:]
                time.sleep(0.2)
        raise AssertionError("MLflow did not start")

    def stop(self):
        os.killpg(self.process.pid, 15)
        self.process.wait(timeout=60)

    def read_back(self, experiment, script=READ_BACK, **environment):
        run = subprocess.run([PYTHON, "-c", script, self.url, experiment], env=dict(self.environment, **environment),
                             capture_output=True, text=True)
        assert run.returncode == 0, run.stderr[-3000:]
        return json.loads(run.stdout.splitlines()[-1])


class Proxy(FakeService):
    """Stands before the real server, to be told to misbehave."""

    def __init__(self, server):
        self.upstream = server
        super().__init__()

    def reply(self, handler, method, path, query, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream.port, timeout=60)
        connection.request(method, path + ("?" + query if query else ""), body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = json.loads(answer.read())
        connection.close()
        if answer.status != 200:
            raise Refused(answer.status, content["error_code"])
        return content


class Real:
    """A run of the real server, seen through the proxy; each in an experiment of its own."""
    count = 0

    def __init__(self, server):
        Real.count += 1
        self.server, self.fake, self.experiment = server, Proxy(server), f"number {Real.count}"

    def integration(self, **config):
        return {"type": "mlflow", "mlflow": {"tracking_uri": self.fake.url, "experiment_name": self.experiment,
                                             "run_name": "a run", "tags": {"team": "red"}, **config}}

    def check(self, told, **environment):
        back = self.server.read_back(self.experiment, **environment)
        (run,) = [run for run in back["runs"] if run["tags"]["attune.job_id"] == told.id]
        assert (run["name"], run["status"], run["tags"]["team"]) == ("a run", "FINISHED", "red")
        assert run["end"] >= run["start"] > 1e12
        check_mlflow(told, run["params"], run["metrics"])
        assert [link.partition("/#/")[1] + link.partition("/#/")[2] for link in told.links] == [run["link"]]
        print(f"\nMLflow {back['version']}: {len(run['metrics'])} metrics of {len({m[0] for m in run['metrics']})} names, all equal")
        return back["runs"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("mlflow"))
    yield running
    running.stop()


def test_runs_are_read_back_equal_to_what_we_have(tmp_path, server):
    tracker = Real(server)
    service = Service(tmp_path, tracker.fake.url)
    for count in (1, 2):
        job = service.create(tracker.integration())
        assert service.wait(job.id).status == "succeeded"
        service.told(job.id)
        assert len(tracker.check(service.job(job.id))) == count
    assert service.server.stop() == 0


def test_a_sender_killed_at_any_of_ten_points_leaves_no_gap_and_no_double(tmp_path, server):
    kill_at_every_point(tmp_path, lambda: Real(server), Mlflow.points)


def test_a_server_that_was_away_hears_everything_afterwards(tmp_path, server):
    tracker = Real(server)
    server.stop()
    service = Service(tmp_path, server.url)
    job = service.create(tracker.integration(tracking_uri=server.url))
    assert service.wait(job.id).status == "succeeded"
    assert service.rows("SELECT state FROM deliveries WHERE job_id=?", job.id) == [("pending",)]
    server.start()
    service.told(job.id)
    tracker.check(service.job(job.id))
    assert service.server.stop() == 0


def read_result(server, told, **environment):
    """The result of a run that a sender has told of, as MLflow's own client downloads it."""
    assert told[-1]["end"] == "ok", told
    run_id = [line["external"]["run_id"] for line in told if "external" in line][-1]
    back = server.read_back(run_id, READ_RESULT, **environment)
    return back["status"], {name: bytes.fromhex(text) for name, text in back["files"].items()}


def document(folder, server, secrets, **config):
    (folder / "result").mkdir()
    made = last_document(folder / "result", server.url, secrets, experiment_name=f"of {folder.name}",
                         log_artifacts=True, **config)
    made["config"]["tracking_uri"] = server.url
    return made


def test_the_result_is_read_back_as_artifacts(tmp_path, server):
    assert read_result(server, send(document(tmp_path, server, {}))) == ("FINISHED", RESULT)


def test_a_certificate_of_ones_own_is_trusted_when_it_is_given_and_not_else(tmp_path):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1",
                    "-keyout", tmp_path / "k.pem", "-out", tmp_path / "c.pem"], check=True, capture_output=True)
    version = subprocess.run([PYTHON, "-c", "import mlflow; print(mlflow.__version__)"], capture_output=True, text=True,
                             check=True).stdout
    options = ["--uvicorn-opts", f"--ssl-keyfile {tmp_path}/k.pem --ssl-certfile {tmp_path}/c.pem"] if version[0] >= "3" else \
        ["--gunicorn-opts", f"--keyfile {tmp_path}/k.pem --certfile {tmp_path}/c.pem"]
    server = Server(tmp_path, *options, certificate=tmp_path / "c.pem")
    told = document(tmp_path, server, {"certificate_file": (tmp_path / "c.pem").read_text()})
    back = read_result(server, send(told), MLFLOW_TRACKING_SERVER_CERT_PATH=str(tmp_path / "c.pem"))
    assert back == ("FINISHED", RESULT)
    refused = send({**told, "secrets": {}})[-1]
    assert refused["end"] == "retry" and "certificate" in refused["message"]
    server.stop()


def test_a_bearer_token(tmp_path):
    (tmp_path / "bearer_of_test.py").write_text(BEARER.replace("TOKEN", KEY))
    (tmp_path / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{tmp_path}/auth.db\nadmin_username = someone\n"
                                       f"admin_password = {KEY}\nauthorization_function = bearer_of_test:authenticate\n")
    server = Server(tmp_path, "--app-name", "basic-auth", MLFLOW_AUTH_CONFIG_PATH=str(tmp_path / "auth.ini"),
                    MLFLOW_FLASK_SERVER_SECRET_KEY="x" * 32, PYTHONPATH=str(tmp_path))
    told = document(tmp_path, server, {"token": KEY})
    assert read_result(server, send(told), MLFLOW_TRACKING_TOKEN=KEY) == ("FINISHED", RESULT)
    refused = send({**told, "secrets": {"token": "wrong"}})[-1]
    assert refused["end"] == "failed" and "401" in refused["message"]
    server.stop()


def test_basic_authentication(tmp_path):
    (tmp_path / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{tmp_path}/auth.db\nadmin_username = someone\n"
                                       f"admin_password = {KEY}\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n")
    server = Server(tmp_path, "--app-name", "basic-auth", MLFLOW_AUTH_CONFIG_PATH=str(tmp_path / "auth.ini"),
                    MLFLOW_FLASK_SERVER_SECRET_KEY="x" * 32)
    tracker = Real(server)
    service = Service(tmp_path, server.url)
    job = service.create(tracker.integration(tracking_uri=server.url, username="someone", password=KEY))
    wrong = service.create(tracker.integration(tracking_uri=server.url, username="someone", password="wrong"))
    assert service.wait(job.id).status == service.wait(wrong.id).status == "succeeded"
    service.told(job.id)
    service.told(wrong.id, "failed")
    tracker.check(service.job(job.id), MLFLOW_TRACKING_USERNAME="someone", MLFLOW_TRACKING_PASSWORD=KEY)
    warnings = [event.message for event in service.client.fine_tuning.jobs.list_events(wrong.id)
                if event.level == "warn" and "401" in event.message]
    assert len(warnings) == 1
    server.stop()
    assert service.server.stop() == 0
