"""A service whose server and trainers are killed at any moment loses nothing: every job succeeds with the bits of one that was
left alone, every step is told once.

Seeds are printed; set ATTUNE_FAULT_SEED to take one back, ATTUNE_BIN to test another binary."""
import os
import random
import signal
import subprocess
import time

import pytest
from service import BIN, Service, chat_lines

SEED = int(os.environ.get("ATTUNE_FAULT_SEED", random.SystemRandom().randrange(1 << 30)))
STEPS = 60


def result(service, job_id):
    """The last checkpoint's files by name, and the steps that the events tell."""
    return {name: content for (step, name), content in service.checkpoint_files(job_id).items() if step == STEPS}, service.steps(job_id)


def check(service, job_id, reference):
    assert service.wait(job_id)["trained_steps"] == STEPS
    files, steps = result(service, job_id)
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
    service.file = service.upload(chat_lines(40))
    job_id = service.create(service.file)
    service.wait(job_id)
    seconds = time.monotonic() - begin
    return *result(service, job_id), seconds


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
        check(service, job_id, undisturbed)


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
    check(service, job_id, undisturbed)
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
        check(service, job_id, undisturbed)


def test_server_and_trainer_are_killed_together(service, undisturbed):
    rng = random.Random(SEED + 3)
    job_id = service.create(service.file)
    for _ in range(2):
        kill_trainer(service, job_id, rng, undisturbed[2] / 3)
        service.kill()
        service.start()
    check(service, job_id, undisturbed)


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
