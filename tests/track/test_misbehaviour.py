"""Trackers that are away, slow, answer with errors, garbage or half of an answer: the job succeeds, one warning tells
of it, and its trainer never touches the network: every process of the server runs under strace."""
import json
import os
import re
import shutil
import time

import pytest
from tracking import KEY, Mlflow, Service, Wandb

import conftest  # which tracking has made importable

FAULTS = ["away", "slow", 500, 401, "garbage", "half"]
TRACED = "%network,clone,clone3,fork,vfork"


def troubled(tracker, fault):
    if fault == "away":
        tracker.fake.close()
    elif fault == "slow":
        tracker.fake.reply = lambda *_: time.sleep(600)
    else:
        tracker.fake.misbehave = [fault] * 100000
    return tracker


@pytest.fixture
def traced(tmp_path, monkeypatch):
    """The servers of this test, and all that they start, leave a trace of each thread: trace.<id>."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    (tmp_path / "traces").mkdir()
    wrapper = tmp_path / "attune"
    wrapper.write_text(
        f"#!/bin/sh\nexec strace -D -ff -qq -o {tmp_path}/traces/trace -e trace={TRACED} -e signal=none {conftest.BINARY} \"$@\"\n")
    wrapper.chmod(0o755)
    monkeypatch.setattr(conftest, "BINARY", wrapper)
    monkeypatch.setenv("ASAN_OPTIONS", os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0")  # it traces, too, and there is one tracer
    return tmp_path / "traces"


def calls_of(traces, process):
    """What a process and its threads asked of the network; their other children are not theirs."""
    text = (traces / f"trace.{process}").read_text()
    for thread in re.findall(r"clone3?\(.*CLONE_THREAD.* = (\d+)", text):
        text += (traces / f"trace.{thread}").read_text()
    return [line for line in text.splitlines() if not re.match(r"(clone3?|v?fork)\(|\+\+\+|---", line)]


def warnings_of(service, job_id):
    return [message
            for message, in service.rows(
                "SELECT message FROM job_events WHERE job_id=? AND level='warn' AND message LIKE '%integrations%'",
                job_id)]


def test_a_tracker_in_trouble_costs_one_warning_and_the_trainer_nothing(tmp_path, traced):
    trackers = {f"mlflow {fault}": troubled(Mlflow(), fault) for fault in FAULTS}
    wandb = troubled(Wandb(), "half")
    trackers["wandb half"] = wandb
    service = Service(tmp_path, wandb.fake.url, *(tracker.fake.url for tracker in trackers.values()))
    jobs = {name: service.create(tracker.integration(), n_epochs=1).id for name, tracker in trackers.items()}
    for name, job in jobs.items():
        assert service.wait(job).status == "succeeded", name
    deadline = time.monotonic() + 240  # of which the slow one takes three times 30 s
    while not all(warnings_of(service, job) for job in jobs.values()) and time.monotonic() < deadline:
        time.sleep(0.5)
    for name, job in jobs.items():
        (warning,) = warnings_of(service, job)
        assert KEY not in warning and ("given up" if "401" in name else "tried again") in warning, (name, warning)
        print(f"{name}: {warning}")
    assert service.server.stop() == 0
    identities = {job: json.loads((service.server.data / f"runs/{job}/attempts/0001/identity.json").read_text())["pid"]
                  for job in jobs.values()}
    trainers = {job: calls_of(traced, pid) for job, pid in identities.items()}
    assert not any(trainers.values()), trainers
    everybody = "".join(path.read_text() for path in traced.iterdir())
    assert len(re.findall(r"^connect\(.*AF_INET", everybody, re.M)) >= 3 * len(jobs) - 3, "the senders are in these traces"
    for tracker in trackers.values():
        if tracker is not trackers["mlflow away"]:
            tracker.fake.close()
