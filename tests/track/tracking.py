"""What the tests of senders share: a service with jobs that are told, and the two trackers as these tests see them:
what a job's request names, and the run that a tracker has stored against what our database has."""
import base64
import concurrent.futures
import json
import pathlib
import sqlite3
import subprocess
import sys
import time

import openai

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "api"))
from conftest import BINARY, Server, chat_lines, check_response, wait_for_job  # noqa: E402
from fake_mlflow import FakeMlflow  # noqa: E402
from fake_wandb import ENTITY, FakeWandb  # noqa: E402
from tiny_model import make_tiny_model  # noqa: E402

KEY = "CANARY" + "k" * 40
NOT_METRICS = ("step", "total_steps")
EXIT_CODES = {"succeeded": 0, "failed": 1, "cancelled": 255}


class Service:
    """A server of ours that may reach these trackers (a W&B is the first), a file, and its database."""

    def __init__(self, folder, *urls):
        make_tiny_model(folder / "models/test/tiny")
        (folder / "key").write_text("0123456789abcdef" * 4)
        (folder / "key").chmod(0o600)
        self.server = Server(folder / "data", folder / "models", "--no-auth", "--secret-key-file", folder / "key",
                             "--outgoing", ", ".join(f"internal:{url}" for url in urls), "--wandb-url", urls[0])
        self.start()
        self.file = self.client.files.create(file=("t.jsonl", chat_lines(24).encode()), purpose="fine-tune")

    def start(self):
        self.server.start()
        self.client = openai.OpenAI(base_url=self.server.url + "/v1", api_key="none")
        self.client._client.event_hooks = {"response": [check_response]}
        return self

    def create(self, *integrations, n_epochs=2):
        return self.start_job(self.file, integrations, n_epochs)

    def create_endless(self, *integrations):
        """A job that nobody sees the end of: 60,000 steps, for what happens while it trains."""
        lines = chat_lines(2400).encode()
        return self.start_job(self.client.files.create(file=("long.jsonl", lines), purpose="fine-tune"), integrations,
                              n_epochs=100)

    def start_job(self, file, integrations, n_epochs):
        return self.client.fine_tuning.jobs.create(
            model="test/tiny", training_file=file.id, validation_file=self.file.id,
            hyperparameters={"n_epochs": n_epochs, "batch_size": 4, "packing": False},
            extra_body={"integrations": integrations})

    def wait(self, job_id):
        return wait_for_job(self.client, job_id)

    def told(self, job_id, state="done", timeout=180):
        deadline = time.monotonic() + timeout
        while self.rows("SELECT DISTINCT state FROM deliveries WHERE job_id=?", job_id) != [(state,)]:
            assert time.monotonic() < deadline, f"{self.rows('SELECT * FROM deliveries')} {self.rows('SELECT seq, message FROM job_events')[-5:]}"
            time.sleep(0.1)

    def rows(self, sql, *values):
        with sqlite3.connect(f"file:{self.server.data / 'attune.db'}?mode=ro", uri=True) as database:
            return database.execute(sql, values).fetchall()

    def job(self, job_id):
        """What was told of a job, as the database has it."""
        return Told(self, job_id)


class Told:
    def __init__(self, service, job_id):
        columns = "state, model, training_file, validation_file, seed, hyperparameters_json, started_ms"
        row, = service.rows(f"SELECT {columns} FROM jobs WHERE id=?", job_id)
        self.id, self.row = job_id, dict(zip(columns.split(", "), row))
        told = service.rows("SELECT kind, type, step, message, data_json, created_ms FROM job_events WHERE job_id=? "
                            "AND COALESCE(code, '') NOT LIKE 'integration!_%' ESCAPE '!' ORDER BY seq", job_id)
        self.events = [(kind, type, step, message, json.loads(data or "{}"), at)
                       for kind, type, step, message, data, at in told]
        links = service.rows("SELECT message FROM job_events WHERE job_id=? "
                             "AND code LIKE 'integration!_%!_run' ESCAPE '!'", job_id)
        self.links = [message.rpartition(" ")[2] for message, in links]

    def params(self):
        params = {name: self.row[name] for name in ("model", "training_file", "validation_file", "seed")}
        params.update(json.loads(self.row["hyperparameters_json"]), method="supervised")
        for kind, _, _, _, data, _ in self.events:
            if kind == "start":
                params.update({name: value
                               for name, value in data.items()
                               if name not in ("step", "resumed_from_step", "disk_bytes")})
        return params

    def metrics(self):
        """(step, {name: number}, time) of each event that has some."""
        def numbers(data):
            return {name: value for name, value in data.items()
                    if isinstance(value, (int, float)) and name not in NOT_METRICS}

        return [(step, numbers(data), at) for _, type, step, _, data, at in self.events if type == "metrics"]

    def steps(self):
        """One row for each step, in the order in which they came."""
        rows = {}
        for step, metrics, at in self.metrics():
            rows.setdefault(step, {}).update(metrics, _step=step, _timestamp=at / 1000,
                                             _runtime=(at - self.row["started_ms"]) / 1000)
        return list(rows.values())

    def summary(self):
        latest = {}
        for row in self.steps():
            latest.update(row)
        return {**latest, "_wandb": {"runtime": int(latest["_runtime"])}}

    def console(self):
        return [message for _, _, _, message, _, _ in self.events]


class Wandb:
    """points: the nth request and when in it a sender dies: before anything is done, with the answer lost, after the
    answer."""
    kind = "wandb"
    points = [(n, when) for n in range(3) for when in ("killed before", "killed", "killed after")] + [(3, "killed")]

    def __init__(self):
        self.fake = FakeWandb(key=KEY)

    def integration(self, **config):
        return {"type": "wandb",
                "wandb": {"project": "a project", "name": "a run", "tags": ["red", "blue"], "api_key": KEY, **config}}

    def check(self, told, state="finished"):
        (place, run), = self.fake.runs.items()
        assert place == (ENTITY, "a project", told.id)
        assert (run.name, run.tags, run.state) == ("a run", ["red", "blue"], state)
        assert {name: value for name, value in run.config.items() if name != "_wandb"} == told.params()
        assert "t" in run.config["_wandb"]
        assert run.history() == told.steps() and len(run.history()) > 5
        assert run.summary() == told.summary()
        assert run.console() == told.console()
        assert f"{self.fake.url}/{ENTITY}/a%20project/runs/{told.id}" in told.links, told.links
        assert not self.fake.strange and all(status is None for status in self.fake.misbehave)
        return run


class Mlflow:
    kind = "mlflow"
    points = [(n, "killed") for n in range(7)] + [(2, "killed before"), (2, "killed after"), (5, "killed after")]

    def __init__(self):
        self.fake = FakeMlflow(authorization="Basic " + base64.b64encode(f"{KEY}:{KEY}".encode()).decode())

    def integration(self, **config):
        return {"type": "mlflow", "mlflow": {"tracking_uri": self.fake.url + "/prefix/", "experiment_name": "tests",
                                             "run_name": "a run", "tags": {"team": "red"},
                                             "username": KEY, "password": KEY, **config}}

    def check(self, told, state="FINISHED"):
        run, = self.fake.runs.values()
        assert (run["name"], run["status"], self.fake.experiments["tests"]) == ("a run", state, run["experiment_id"])
        assert run["tags"] == {"attune.job_id": told.id, "mlflow.source.name": "attune", "team": "red"}
        check_mlflow(told, run["params"], run["metrics"])
        (run_id,) = self.fake.runs
        assert f"{self.fake.url}/prefix/#/experiments/{run['experiment_id']}/runs/{run_id}" in told.links, told.links
        assert not self.fake.misbehave
        return run


def check_mlflow(told, params, metrics):
    """Numbers and names as a tracking server gives them back: every one once, nothing else."""
    assert params == {name: str(value) if not isinstance(value, (bool, float)) else json.dumps(value)
                      for name, value in told.params().items()}
    ours = sorted((name, step, float(value), at) for step, values, at in told.metrics()
                  for name, value in values.items())
    assert sorted(map(tuple, metrics)) == ours and len(ours) > 12


def send(document):
    """`attune send` alone: what it tells, line by line."""
    run = subprocess.run([BINARY, "send"], input=json.dumps(document), capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


RESULT = {"adapter_model.safetensors": bytes(range(256)) * 300, "adapter_config.json": b"{}",
          "chat template.jinja": b"x", "tokenizer.json": b"[]"}


def last_document(folder, url, secrets=None, **config):
    """What the last sender of a job with a result is told; MLflow is below /prefix of the fake one's URL."""
    for name, data in RESULT.items():
        (folder / name).write_bytes(data)
    (folder / "MANIFEST").write_text(json.dumps({"kind": "lora",
                                                 "files": [{"name": name, "bytes": len(data), "sha256": "0" * 64}
                                                           for name, data in RESULT.items()]}))
    return {"kind": "mlflow", "job": {"id": "ftjob-1", "state": "succeeded", "finished_ms": 2, "started_ms": 1},
            "config": {"tracking_uri": url + "/prefix", **config},
            "external": {}, "after_seq": 1, "is_last": True, "events": [],
            "secrets": {"username": KEY, "password": KEY} if secrets is None else secrets,
            "operator": {"origins": f"internal:{url}"}, "result": {"folder": str(folder)}}


def killed_at(folder, tracker, n, when):
    folder.mkdir()
    try:
        tracker.fake.misbehave = [None] * n + [when]
        service = Service(folder, tracker.fake.url)
        tracker.fake.kill_senders_of(service.server)
        job = service.create(tracker.integration())
        assert service.wait(job.id).status == "succeeded"
        service.told(job.id)
        tracker.check(service.job(job.id))
        assert service.server.stop() == 0
    except AssertionError as wrong:
        raise AssertionError(f"{when}, request {n}") from wrong
    finally:
        tracker.fake.close()


def kill_at_every_point(folder, make_tracker, points=None):
    """A job for each point at which its sender dies; the run is what the job did all the same."""
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(killed_at, folder / f"{n} {when}", make_tracker(), n, when)
                     for n, when in points or make_tracker.points]:
            done.result()
