import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time

import openai
import pytest

from contract import Contract
from tiny_model import make_tiny_model

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("ATTUNE_BIN", ROOT / "build/test/attune" if (ROOT / "build/test/attune").exists() else ROOT / "build/attune"))
CONTRACT = Contract()
CONFIG = tempfile.TemporaryDirectory(prefix="attune-config-")  # where servers make their master key; gone with the tests
os.environ["XDG_CONFIG_HOME"] = CONFIG.name
os.environ.setdefault("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1")


class Server:
    """A server on a free port; stop() and start() again on the same data folder."""

    def __init__(self, data, models, *options):
        self.data, self.models, self.options, self.process = pathlib.Path(data), pathlib.Path(models), options, None

    def start(self):
        self.log = open(self.data.parent / "server.log", "ab")
        self.process = subprocess.Popen([BINARY, "serve", "--data", self.data, "--models", self.models, "--port", "0", *self.options],
                                        stdout=subprocess.PIPE, stderr=self.log)
        line = self.process.stdout.readline().decode()
        found = re.search(r"http://([\d.]+:\d+)", line)
        assert found, f"the server did not start: {line}{(self.data.parent / 'server.log').read_text()}"
        self.url = f"http://{found.group(1)}"
        return self

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(timeout=30)
        return self.process.returncode


def check_response(response):
    """An httpx hook: every answer that an SDK gets is held against the contract."""
    if "event-stream" in response.headers.get("content-type", ""):
        return
    if response.headers.get("content-type", "").startswith("application/octet-stream"):
        CONTRACT.check(response.request.method, response.request.url.path, response.status_code, "application/octet-stream", "")
        return
    response.read()
    CONTRACT.check(response.request.method, response.request.url.path, response.status_code, response.headers["content-type"], response.text)


@pytest.fixture(scope="session", autouse=True)
def no_trainer_outlives_the_tests(tmp_path_factory):
    """Trainers outlive their server on purpose; those of these tests' folders end here."""
    yield
    folder = str(tmp_path_factory.getbasetemp()).encode()
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if len(words) > 3 and words[1] == b"train" and words[3].startswith(folder):
                os.kill(int(process.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue


@pytest.fixture(scope="session")
def contract():
    return CONTRACT


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make_tiny_model(folder / "test/tiny")
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory, models):
    data = tmp_path_factory.mktemp("service") / "data"
    running = Server(data, models, "--no-auth").start()
    yield running
    doctor = subprocess.run([BINARY, "doctor", "--data", data, "--hashes"], capture_output=True, text=True)  # beside it, as it runs
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert running.stop() == 0


def make_client(server, key="none", **options):
    """The stock SDK; strict: an answer that its own types do not take raises."""
    client = openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0, _strict_response_validation=True, **options)
    client._client.event_hooks = {"response": [check_response]}
    return client


def ask(server, method, path, body=None, **headers):
    """One request without the SDK: status, headers, bytes. A header's underscores are hyphens."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if method != "HEAD":
        CONTRACT.check(method, re.sub("/+", "/", path.partition("?")[0]), answer.status, answer.headers["Content-Type"], content.decode(errors="replace"))
    return answer.status, answer.headers, content


@pytest.fixture(scope="session")
def client(server):
    return make_client(server)


def chat_lines(count, words="red green blue small big old new quiet loud warm".split()):
    lines = []
    for i in range(count):
        word = words[i % len(words)]
        lines.append(json.dumps({"messages": [{"role": "user", "content": f"Say {word}."}, {"role": "assistant", "content": f"The word is {word}."}]}))
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def training_file(client):
    return client.files.create(file=("train.jsonl", chat_lines(24).encode()), purpose="fine-tune")


def wait_for(condition, what=lambda: "", timeout=600):
    """What the condition gives when it holds. The time says nothing about attune: it is for a machine that is busy."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what()}"
        time.sleep(0.05)
    return value


def job_in(client, job_id, *states):
    """The job, when it is in one of these states."""
    job = client.fine_tuning.jobs.retrieve(job_id)
    return job if job.status in states else None


def wait_for_job(client, job_id):
    return wait_for(lambda: job_in(client, job_id, "succeeded", "failed", "cancelled"), lambda: client.fine_tuning.jobs.retrieve(job_id))


def make_key(data, *options):
    """Of a data folder that needs no server."""
    return subprocess.run([BINARY, "keys", "create", "--data", data, *options], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="session")
def finished_job(client, training_file):
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, validation_file=training_file.id, suffix="done", seed=3,
                                         hyperparameters={"n_epochs": 2, "batch_size": 4},
                                         extra_body={"hyperparameters": {"n_epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "context_length": 64,
                                                                         "lora": True, "packing": False}})
    job = wait_for_job(client, job.id)
    assert job.status == "succeeded", job.error
    return job


def pytest_collection_modifyitems(items):
    """The coverage is judged when everything else has run; a part of the suite cannot be."""
    last = [item for item in items if item.path.name == "test_coverage.py"]
    rest = [item for item in items if item.path.name != "test_coverage.py"]
    here = set(pathlib.Path(__file__).parent.glob("test_*.py"))
    if not here <= {item.path for item in items}:
        for item in last:
            item.add_marker(pytest.mark.skip(reason="only a part of tests/api runs"))
    items[:] = rest + last


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(CONTRACT.report())
