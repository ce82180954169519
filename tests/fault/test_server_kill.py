"""A service whose server and trainers are killed at any moment loses nothing: every job succeeds with the bits of one that was
left alone, every step is told once.

Seeds are printed; set ATTUNE_FAULT_SEED to take one back, ATTUNE_BIN to test another binary."""
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/api"))
from tiny_model import make_tiny_model  # noqa: E402

BIN = os.environ.get("ATTUNE_BIN", str(ROOT / "build/attune"))
SEED = int(os.environ.get("ATTUNE_FAULT_SEED", random.SystemRandom().randrange(1 << 30)))
STEPS = 60
LINES = "".join(json.dumps({"messages": [{"role": "user", "content": f"Say {i} and {i * 7 % 50}."}, {"role": "assistant", "content": f"The answer is {i}."}]}) + "\n"
                for i in range(40))


class Service:
    def __init__(self, folder, *options):
        self.folder, self.data, self.models, self.options = folder, folder / "data", folder / "models", options
        make_tiny_model(self.models / "test/tiny", hidden=64, layers=3)
        self.start()

    def start(self):
        self.process = subprocess.Popen([BIN, "serve", "--no-auth", "--data", self.data, "--models", self.models, "--port", "0", "--recovery-steps", "5", *self.options],
                                        stdout=subprocess.PIPE, stderr=open(self.folder / "server.log", "ab"))
        line = self.process.stdout.readline().decode()
        assert "http://" in line, (line, (self.folder / "server.log").read_text())
        self.url = re.search(r"http://[\d.]+:\d+", line).group(0)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.terminate()
        assert self.process.wait(timeout=30) == 0

    def call(self, method, path, body=None, headers=None):
        if isinstance(body, dict):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, body, headers or {}, method=method), timeout=30) as answer:
            content = answer.read()
        return json.loads(content) if answer.headers["Content-Type"].startswith("application/json") else content

    def upload(self):
        boundary = uuid.uuid4().hex
        body = "".join(f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n" for head, content in
                       (('name="purpose"', "fine-tune"), ('name="file"; filename="train.jsonl"', LINES))) + f"--{boundary}--\r\n"
        return self.call("POST", "/v1/files", body.encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"})["id"]

    def create(self, file_id):
        return self.call("POST", "/v1/fine_tuning/jobs", {"model": "test/tiny", "training_file": file_id, "seed": 5, "hyperparameters": {
            "n_epochs": STEPS // 20, "batch_size": 2, "learning_rate": 1e-3, "packing": False, "context_length": 64}})["id"]

    def job(self, job_id):
        return self.call("GET", f"/v1/fine_tuning/jobs/{job_id}")

    def wait(self, job_id):
        deadline = time.monotonic() + 180
        while (job := self.job(job_id))["status"] not in ("succeeded", "failed", "cancelled"):
            assert time.monotonic() < deadline, job
            time.sleep(0.05)
        assert job["status"] == "succeeded", job["error"]
        return job

    def trainer(self, job_id):
        """Pid of the newest attempt's process, once it is known."""
        attempts = self.data / "runs" / job_id / "attempts"
        while True:
            for identity in sorted(attempts.glob("*/identity.json"), reverse=True):
                try:
                    return int(json.loads(identity.read_text())["pid"]), identity.parent
                except ValueError:
                    pass
            time.sleep(0.005)

    def result(self, job_id):
        """Bytes of the last checkpoint's files by name, and the steps that the events tell."""
        last = self.call("GET", f"/v1/fine_tuning/jobs/{job_id}/checkpoints?limit=100")["data"][-1]
        files = {}
        for file_id in last["result_files"]:
            name = self.call("GET", f"/v1/files/{file_id}")["filename"].split("/")[1]
            files[name] = self.call("GET", f"/v1/files/{file_id}/content")
        events = self.call("GET", f"/v1/fine_tuning/jobs/{job_id}/events?limit=10000")["data"]
        assert len({event["id"] for event in events}) == len(events)
        steps = [(event["data"]["step"], event["data"]["train_loss"]) for event in events if event["type"] == "metrics" and "train_loss" in event["data"]]
        return files, steps

    def check(self, job_id, reference):
        assert self.wait(job_id)["trained_steps"] == STEPS
        files, steps = self.result(job_id)
        assert [step for step, _ in steps] == list(range(1, STEPS + 1))
        assert steps == reference[1]
        assert {name: content == reference[0][name] for name, content in files.items()} == {name: True for name in reference[0]}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    print(f"seed {SEED}")
    running = Service(tmp_path_factory.mktemp("fault"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def undisturbed(service):
    """A job that was left alone: its files, its steps, its seconds."""
    begin = time.monotonic()
    service.file = service.upload()
    job_id = service.create(service.file)
    service.wait(job_id)
    seconds = time.monotonic() - begin
    return *service.result(job_id), seconds


def kill_trainer(service, job_id, rng, span):
    """Kills the newest attempt's process after a random time; False when the job was over before."""
    pid, folder = service.trainer(job_id)
    time.sleep(rng.uniform(0, span))
    if (folder / "exit.json").exists():
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def test_ten_jobs_whose_trainer_is_killed_once(service, undisturbed):
    rng = random.Random(SEED)
    for _ in range(10):
        job_id = service.create(service.file)
        kill_trainer(service, job_id, rng, undisturbed[2])
        service.check(job_id, undisturbed)


def test_a_job_whose_trainer_is_killed_ten_times(service, undisturbed):
    """Each kill comes behind a new recovery point: without progress the job would rightly be given up after three attempts."""
    rng = random.Random(SEED + 1)
    job_id = service.create(service.file)
    seen, kills = set(), 0
    deadline = time.monotonic() + 180
    while kills < 10 and time.monotonic() < deadline and service.job(job_id)["status"] in ("queued", "running"):
        pid, folder = service.trainer(job_id)
        points = {p.name for p in (service.data / "runs" / job_id / "attempts").glob("*/recovery/step-*") if not p.name.endswith(".tmp")}
        if points - seen and not (folder / "exit.json").exists():
            time.sleep(rng.uniform(0, 0.02))
            try:
                os.kill(pid, signal.SIGKILL)
                kills += 1
                seen |= points
            except ProcessLookupError:
                pass
        time.sleep(0.002)
    service.check(job_id, undisturbed)
    print(f"trainer killed {kills} times")
    assert kills >= 8


def test_the_server_is_killed_ten_times_under_running_jobs(service, undisturbed):
    rng = random.Random(SEED + 2)
    jobs = [service.create(service.file) for _ in range(4)]
    for _ in range(10):
        time.sleep(rng.uniform(0, undisturbed[2] / 2))
        service.kill()
        service.start()
    for job_id in jobs:
        service.check(job_id, undisturbed)


def test_server_and_trainer_are_killed_together(service, undisturbed):
    rng = random.Random(SEED + 3)
    job_id = service.create(service.file)
    for _ in range(2):
        kill_trainer(service, job_id, rng, undisturbed[2] / 3)
        service.kill()
        service.start()
    service.check(job_id, undisturbed)


def test_a_second_server_on_the_same_data_is_refused(service):
    second = subprocess.run([BIN, "serve", "--no-auth", "--data", service.data, "--models", service.models, "--port", "0"], capture_output=True, text=True, timeout=30)
    assert second.returncode == 1 and "another" in second.stderr.lower()


def test_an_upload_cut_by_a_kill_leaves_nothing(service):
    before = service.call("GET", "/v1/files?limit=1000")["data"]
    host, port = service.url[7:].split(":")
    import socket
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 100000\r\n\r\n"
                           b"--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.jsonl\"\r\n\r\n" + b'{"text": "a"}\n' * 100)
        time.sleep(0.2)
        service.kill()
    service.start()
    assert service.call("GET", "/v1/files?limit=1000")["data"] == before
    assert list((service.data / "tmp").iterdir()) == []
    assert len(list((service.data / "files").iterdir())) >= len(before)
