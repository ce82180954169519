"""Server, trainer or both are killed, or the trainer is stopped past its lease, at named points between a job's claim and its end:
the job ends with the bits and the events of one that was left alone. How long each took is printed: below ten seconds where nothing
else runs.

Whoever reaches the point first waits there (fault.h), so what happens to both happens exactly then. make test takes a sample of the
scenarios, make fault all of them."""
import os
import pathlib
import random
import signal
import threading
import time

import pytest
from service import FULL, GONE, Ledger, Service, chat_lines, check_disk, faults

SEED = int(os.environ.get("ATTUNE_FAULT_SEED", random.SystemRandom().randrange(1 << 30)))
SAMPLE = 5

# Who waits, and where. The job has 8 steps, a recovery point every 2 and a checkpoint every 4.
POINTS = {
    "claimed": "program=serve call=mkdir path=*/attempts/0001",
    "forked, no identity stored": "program=serve call=fork nth=2 when=after",  # the first looks for devices
    "identity stored, not told to go": "program=serve call=write path=pipe:* data=g nth=2",
    "told to go": "program=serve call=write path=pipe:* data=g nth=2 when=after",
    "mid-epoch": "program=train call=pwrite path=*/heartbeat nth=4",
    "checkpoint is written": "program=train call=write,pwrite path=*/checkpoints/*.tmp/*.safetensors nth=2",
    "checkpoint without MANIFEST": "program=train call=create path=*/checkpoints/*.tmp/MANIFEST*",
    "checkpoint without row": "program=serve call=link path=*/data/files/file-*",
    "new recovery point, old one not deleted": "program=train call=unlink path=*/recovery/step-????????",
    "final checkpoint is written": "program=train call=write,pwrite path=*/checkpoints/step-00000008.tmp/*.safetensors",
    "all is written, not succeeded": "program=train call=create path=*/exit.json*",
    "cancel is asked for": "program=serve call=rename path=*/control nth=2 when=after",
    "recovery at start": "program=serve call=fdatasync path=*/attune.db-wal",
}
ACTIONS = ["kill the server", "kill the trainer", "kill both", "stop the trainer past its lease"]
SCENARIOS = [(point, action) for point in POINTS for action in ACTIONS]


def trainers_of(server):
    """Its children that train, or have been forked to do so; others look at files or devices, and end when they like."""
    return [int(child) for child in pathlib.Path(f"/proc/{server}/task/{server}/children").read_text().split()
            if {b"train", b"serve"} & set(command_of(child).split(b"\0"))]


def command_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # it has ended


def send(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, condition
        time.sleep(0.005)
    return found


def is_stopped(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


class Scenario:
    def __init__(self, service, point, action):
        self.service, self.action, self.rule = service, action, POINTS[point]
        self.is_cancelled, self.is_recovery = point.startswith("cancel"), point.startswith("recovery")
        self.waits_in_server = "program=serve" in self.rule
        self.mark = service.folder / "mark"
        self.mark.unlink(missing_ok=True)
        self.ledger = Ledger()

    def begin(self):
        """The job, until somebody waits at the point."""
        service, rule = self.service, faults(f"{self.rule} do=stop mark={self.mark}")
        if not self.is_recovery:
            service.start(env=rule)
        else:
            service.start()
        file_id = self.ledger.upload(service, chat_lines(8))
        self.ledger.create(service, file_id, epochs=2)
        self.job_id = next(iter(self.ledger.jobs))
        if self.is_cancelled:
            self.in_background(lambda: (service.trainer(self.job_id), service.call("POST", f"/v1/fine_tuning/jobs/{self.job_id}/cancel")))
        if self.is_recovery:
            pid, _ = service.trainer(self.job_id)
            send(pid, signal.SIGKILL)
            service.kill()
            self.in_background(lambda: service.start(env=rule, must=False))
        wait_until(self.mark.exists)
        self.server = service.process.pid
        self.trainers = trainers_of(self.server)
        self.waiting = self.server if self.waits_in_server else self.trainers[0]
        wait_until(lambda: is_stopped(self.waiting))

    def in_background(self, work):
        def run():
            try:
                work()
            except (*GONE, AssertionError):
                pass  # the server was killed under it
        self.thread = threading.Thread(target=run)
        self.thread.start()

    def act(self):
        if self.action == "stop the trainer past its lease":
            for pid in self.trainers:
                send(pid, signal.SIGSTOP)
            if self.waits_in_server:
                send(self.server, signal.SIGCONT)
            if not self.trainers and not self.is_cancelled:
                pid, _ = self.service.trainer(self.job_id)
                send(pid, signal.SIGSTOP)
            return
        if self.action in ("kill the trainer", "kill both"):
            for pid in self.trainers:
                send(pid, signal.SIGKILL)
        if self.action in ("kill the server", "kill both"):
            self.service.kill()
        send(self.waiting, signal.SIGCONT)

    def finish(self):
        if hasattr(self, "thread"):
            self.thread.join()
        if self.action in ("kill the server", "kill both"):
            self.service.start()

    def check(self, reference):
        service = self.service
        self.ledger.check(service)
        job = service.job(self.job_id)
        if self.is_cancelled:
            assert job["status"] == "cancelled"
        else:
            assert job["status"] == "succeeded" and service.steps(self.job_id) == reference[1]
            assert service.checkpoint_files(self.job_id) == reference[0]
        service.stop()
        check_disk(service.data)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    running = Service(tmp_path_factory.mktemp("points"), "--hung-seconds", "2", model={"hidden": 32, "layers": 2}, recovery_steps=2)
    yield running


@pytest.fixture(scope="module")
def reference(service):
    job_id = service.create(service.upload(chat_lines(8)), epochs=2)
    service.wait(job_id)
    result = service.checkpoint_files(job_id), service.steps(job_id)
    service.stop()
    return result


@pytest.mark.parametrize("point, action", SCENARIOS if FULL else random.Random(SEED).sample(SCENARIOS, SAMPLE))
def test_a_job_ends_as_if_nothing_had_happened(service, reference, tmp_path, point, action):
    service.data = tmp_path / "data"
    scenario = Scenario(service, point, action)
    begin = time.monotonic()
    scenario.begin()
    scenario.act()
    scenario.finish()
    scenario.check(reference)
    print(f"{point}, {action}: {time.monotonic() - begin:.1f} s")
