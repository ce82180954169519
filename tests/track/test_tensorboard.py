"""Runs as TensorBoard's own reader sees them: `make track`.

TENSORBOARD_PYTHON names the interpreter of a virtual environment with tensorboard in it."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/api"))
from conftest import BINARY, chat_lines  # noqa: E402
from tiny_model import make_tiny_model  # noqa: E402

PYTHON = os.environ.get("TENSORBOARD_PYTHON")
pytestmark = pytest.mark.skipif(not PYTHON, reason="TENSORBOARD_PYTHON names no interpreter: make track")
READER = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
accumulator = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
for _ in sys.stdin:
    accumulator.Reload()
    print(json.dumps({tag: [(e.step, e.value, e.wall_time) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}), flush=True)
"""
TAGS = {"step": {"loss": "train/loss", "token_accuracy": "train/mean_token_accuracy",
                 "learning_rate": "train/learning_rate", "grad_norm": "train/grad_norm",
                 "trained_tokens": "train/num_tokens", "tokens_per_s": "train/tokens_per_second"},
        "valid": {"valid_loss": "eval/loss", "valid_mean_token_accuracy": "eval/mean_token_accuracy"},
        "checkpoint": {"full_valid_loss": "eval/full_loss",
                       "full_valid_mean_token_accuracy": "eval/full_mean_token_accuracy"}}
REWARDS = {"rewards_chosen": "rewards/chosen", "rewards_rejected": "rewards/rejected",
           "reward_accuracy": "rewards/accuracies",
           "reward_margin": "rewards/margins", "logps_chosen": "logps/chosen", "logps_rejected": "logps/rejected"}
for name, tag in REWARDS.items():
    TAGS["step"][name], TAGS["valid"]["valid_" + name] = "train/" + tag, "eval/" + tag


class Reader:
    """TensorBoard's reader in a process of its own, which looks again when it is asked."""

    def __init__(self, folder):
        self.process = subprocess.Popen([PYTHON, "-c", READER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)

    def look(self):
        print(file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    make_tiny_model(folder / "tiny")
    (folder / "train.jsonl").write_text(chat_lines(32))
    message = [{"role": "user", "content": "Say red."}]
    (folder / "pairs.jsonl").write_text("".join(json.dumps({
        "input": {"messages": message}, "preferred_output": [{"role": "assistant", "content": f"The word is {word}."}],
        "non_preferred_output": [{"role": "assistant", "content": "no."}]}) + "\n"
                                                for word in "red green blue small big old new quiet".split()))
    return folder


def command(world, out, *options, data="train.jsonl"):
    return [BINARY, "train", "--model", world / "tiny", "--train", world / data, "--valid", world / data, "--out", out,
            "--n-epochs", "6", "--batch-size", "4",
            "--no-packing", "--recovery-steps", "5", *options]


def events(out):
    """What the event logs say of each figure, the first attempt's word first: [(step, value)] by tag."""
    figures = {}
    for log in sorted((out / "run/attempts").glob("*/events.jsonl")):
        for line in log.read_text().splitlines(keepends=True):
            event = json.loads(line) if line.endswith("\n") else {}
            for name, tag in TAGS.get(event.get("kind"), {}).items():
                if event.get(name) is not None:
                    figures.setdefault(tag, {}).setdefault(event["step"], event[name])
    return {tag: sorted(steps.items()) for tag, steps in figures.items()}


def check(seen, out, repeated=()):
    """Every figure once and none missing. repeated: steps that two attempts did, whose speeds differ."""
    expected = events(out)
    assert set(seen) == set(expected) | {"train/epoch"}
    for tag, figures in expected.items():
        assert [step for step, *_ in seen[tag]] == [step for step, _ in figures], tag
        for (step, value, at), (_, wanted) in zip(seen[tag], figures):
            assert value == pytest.approx(wanted, rel=2e-7, abs=1e-30) or (tag == "train/tokens_per_second" and step in repeated), (tag, step)
            assert abs(at - time.time()) < 3600


def test_every_figure_of_a_run_is_there_once(tmp_path, world):
    subprocess.run(command(world, tmp_path / "out"), check=True, capture_output=True)
    reader = Reader(tmp_path / "out/run/tensorboard")
    seen = reader.look()
    check(seen, tmp_path / "out")
    assert len(seen["train/loss"]) == 48 and [step for step, *_ in seen["eval/full_loss"]] == [8, 16, 24, 32, 40, 48]
    reader.close()


def test_rewards_have_the_names_that_trl_gives_them(tmp_path, world):
    subprocess.run([*command(world, tmp_path / "out", "--method", "dpo", data="pairs.jsonl")], check=True,
                   capture_output=True)
    reader = Reader(tmp_path / "out/run/tensorboard")
    seen = reader.look()
    check(seen, tmp_path / "out")
    assert "train/rewards/margins" in seen and "eval/logps/chosen" in seen
    reader.close()


def test_a_killed_run_goes_on_without_a_gap_or_a_double(tmp_path, world):
    out, kills, repeated = tmp_path / "out", [4, 9, 17], set()
    reader = None
    for attempt, kill in enumerate(kills, 1):
        process = subprocess.Popen(command(world, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        log = out / f"run/attempts/{attempt:04}/events.jsonl"
        while not log.exists() or f'"kind": "step", "code": "", "step": {kill},' not in log.read_text():
            assert process.poll() is None, "it ended before it was to be killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        repeated |= set(range(kill - 10, kill + 20))
        reader = reader or Reader(out / "run/tensorboard")
        reader.look()  # while it is there: this one sees every file of the run
    subprocess.run(command(world, out), check=True, capture_output=True)
    has_events = [file.stat().st_size > 0 for file in sorted((out / "run/tensorboard").iterdir())]
    assert has_events == [False, False, False, True]
    late = Reader(out / "run/tensorboard")
    check(late.look(), out, repeated)
    check(reader.look(), out, repeated)
    reader.close()
    late.close()


def test_without_it_there_is_nothing(tmp_path, world):
    subprocess.run(command(world, tmp_path / "out", "--no-tensorboard"), check=True, capture_output=True)
    assert not (tmp_path / "out/run/tensorboard").exists()
