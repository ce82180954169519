"""The fake W&B held against the real client, and our runs against those that the client makes: `make track`.

WANDB_PYTHON names the interpreter of a virtual environment with wandb in it."""
import json
import os
import pathlib
import subprocess
import urllib.parse

import pytest
from fake_wandb import ENTITY
from tracking import EXIT_CODES, KEY, Service, Wandb

PYTHON = os.environ.get("WANDB_PYTHON")
pytestmark = pytest.mark.skipif(not PYTHON, reason="WANDB_PYTHON names no interpreter: make track")
SCRIPT = pathlib.Path(__file__).with_name("wandb_run.py")


@pytest.fixture
def tracker():
    made = Wandb()
    yield made
    made.fake.close()


def run_client(folder, fake, told):
    """A run as the real client makes it, and as the fake has stored it."""
    folder.mkdir()
    environment = dict(os.environ, WANDB_BASE_URL=fake.url, WANDB_API_KEY=KEY, WANDB_DIR=str(folder), HOME=str(folder))
    run = subprocess.run([PYTHON, SCRIPT], input=json.dumps(told), capture_output=True, text=True, env=environment,
                         cwd=folder, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    assert not fake.strange, fake.strange
    assert run.stdout.splitlines()[-1] == f"{fake.url}/{told.get('entity') or ENTITY}/{urllib.parse.quote(told['project'])}/runs/{told['id']}"
    return fake.runs[told.get("entity") or ENTITY, told["project"], told["id"]]


def without(names, row):
    return {name: value for name, value in row.items() if name not in names}


CLOCK = ("_timestamp", "_runtime", "_wandb")


def content(run):
    """All of a stored run but its clock and what the client tells of itself."""
    return {"name": run.name, "tags": run.tags, "state": run.state, "config": without(["_wandb"], run.config),
            "history": [without(CLOCK, row) for row in run.history()],
            "summary": without(CLOCK, run.summary()), "console": run.console()}


@pytest.mark.parametrize("exit_code, state", [(0, "finished"), (1, "failed"), (255, "killed")])
def test_the_fake_stores_the_run_that_the_real_client_is_told(tmp_path, tracker, exit_code, state):
    run = run_client(tmp_path / "sdk", tracker.fake, {
        "project": "p q", "id": "ftjob-1", "name": "a run", "tags": ["red", "blue"],
        "config": {"model": "org/name", "learning_rate": 1e-5, "n_epochs": 3, "lora": False},
        "console": ["first", "second"], "exit_code": exit_code,
        "metrics": [[1, {"train_loss": 2.5, "epoch": 1}], [1, {"valid_loss": 2.25}], [2, {"train_loss": 2.125}],
                    [4, {"train_loss": 0, "valid_loss": -1e-9}]]})
    assert content(run) == {
        "name": "a run", "tags": ["red", "blue"], "state": state,
        "config": {"model": "org/name", "learning_rate": 1e-5, "n_epochs": 3, "lora": False},
        "history": [{"_step": 1, "train_loss": 2.5, "epoch": 1, "valid_loss": 2.25}, {"_step": 2, "train_loss": 2.125},
                    {"_step": 4, "train_loss": 0, "valid_loss": -1e-9}],
        "summary": {"_step": 4, "train_loss": 0, "valid_loss": -1e-9, "epoch": 1}, "console": ["first", "second"]}
    assert all(set(row) >= {"_timestamp", "_runtime"} for row in [*run.history(), run.summary()])
    assert set(run.summary()["_wandb"]) == {"runtime"}


STOPPED = """
import signal, time, wandb
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background has taken away
run = wandb.init(project="p", id="r")
try:
    for i in range(90):
        run.log({"x": i})
        time.sleep(1)
except KeyboardInterrupt:
    print("stopped")
"""


def test_the_real_client_ends_its_script_when_somebody_pressed_stop(tmp_path, tracker):
    environment = dict(os.environ, WANDB_BASE_URL=tracker.fake.url, WANDB_API_KEY=KEY, WANDB_DIR=str(tmp_path),
                       HOME=str(tmp_path), WANDB_SILENT="true")
    client = subprocess.Popen([PYTHON, "-c", STOPPED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env=environment, cwd=tmp_path)
    tracker.fake.wait(lambda fake: any(run.history() for run in fake.runs.values()))
    tracker.fake.is_stopped = True
    told, problem = client.communicate(timeout=300)
    assert "stopped" in told, problem[-3000:]
    (run,) = tracker.fake.runs.values()
    assert 0 < len(run.history()) < 90


def test_our_run_is_the_one_that_the_real_client_makes_of_the_same_job(tmp_path, tracker):
    service = Service(tmp_path, tracker.fake.url)
    job = service.create(tracker.integration())
    assert service.wait(job.id).status == "succeeded"
    service.told(job.id)
    told = service.job(job.id)
    ours = tracker.check(told)
    assert service.server.stop() == 0
    theirs = run_client(tmp_path / "sdk", tracker.fake, {
        "project": "sdk", "id": job.id, "name": "a run", "tags": ["red", "blue"], "config": told.params(),
        "console": told.console(),
        "metrics": [[step, metrics] for step, metrics, _ in told.metrics()],
        "exit_code": EXIT_CODES[told.row["state"]]})
    assert content(ours) == content(theirs)
    assert [set(row) for row in ours.history()] == [set(row) for row in theirs.history()]
    assert set(ours.summary()) == set(theirs.summary())
    print(f"\nwandb: {len(ours.history())} rows of history, {len(ours.console())} lines, {len(ours.config) - 1} values of config, equal to the real client's")
