"""attune prepare: what the server asks about a job and a file, held against what training then does."""
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/api"))
from conftest import BINARY, chat_lines  # noqa: E402
from tiny_model import make_tiny_model  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def prepare(*words, job=None):
    run = subprocess.run([BINARY, "prepare", *map(str, words)], input=job, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def train(out, model, file, *options):
    subprocess.run([BINARY, "train", "--model", model, "--train", file, "--out", out, *map(str, options)], check=True,
                   capture_output=True, timeout=300)
    events = [json.loads(line) for line in (out / "run/attempts/0001/events.jsonl").read_text().splitlines()]
    return (out / "run/job.json").read_text(), events


@pytest.mark.parametrize("options", [[], ["--no-packing"], ["--lora", "--lora-r", 4, "--batch-size", 2],
                                     ["--context-length", 20, "--over-length", "truncate"]])
def test_an_estimate_is_what_the_run_reports(tmp_path, model, options):
    file = tmp_path / "train.jsonl"
    file.write_text(chat_lines(30))
    job, events = train(tmp_path / "out", model, file, "--valid", file, "--n-epochs", 2, "--checkpoint-steps", 3,
                        *options)
    start = next(event for event in events if event["kind"] == "start")
    steps = [event for event in events if event["kind"] == "step"]
    plan = json.loads((tmp_path / "out/run/plan.json").read_text())
    told = prepare("--estimate", job=job)["estimate"]
    assert (told["total_steps"], told["steps_per_epoch"], told["rows"]) == (
        start["total_steps"], start["steps_per_epoch"], start["train_rows"])
    assert told["training_data"]["tokens"] == start["train_tokens"]
    assert told["training_data"]["supervised_tokens"] == start["supervised_tokens"]
    assert told["trained_tokens"] == steps[-1]["trained_tokens"]
    assert told["trainable_parameters"] == start["trainable_parameters"]
    assert told["memory_bytes"].pop("total") == sum(told["memory_bytes"].values()) == plan["total_bytes"]
    assert told["micro_batch_tokens"] == plan["tokens"]
    assert told["estimated_seconds"] > 0 and 0 < told["probe"]["share"] <= 1
    folders = list((tmp_path / "out/run/attempts/0001/checkpoints").iterdir())
    written = sum(path.stat().st_size for folder in folders for path in folder.iterdir())
    assert written <= told["disk_bytes"]["checkpoints"] <= written + len(folders) * (1 << 17)
    assert told["disk_bytes"].pop("total") == sum(told["disk_bytes"].values())
    warned = {event["code"] for event in events if event.get("level") == "warn"}
    assert warned <= {warning["code"] for warning in told["warnings"]}
    assert "validation_is_training" in {warning["code"] for warning in told["warnings"]}


def test_an_estimate_leaves_nothing_but_the_shared_tokens(tmp_path, model):
    file = tmp_path / "train.jsonl"
    file.write_text(chat_lines(30))
    job = json.loads(train(tmp_path / "out", model, file)[0])
    job["cache"] = str(tmp_path / "cache")
    before = sorted(tmp_path.rglob("*"))
    prepare("--estimate", "--memory-bytes", 256 << 20, job=json.dumps(job))
    new = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
    assert {path.name for path in new} - {"cache", "tokens.bin", "index.bin", "summary.json"} == {
        path.name for path in (tmp_path / "cache").iterdir()}


def test_what_is_wrong_is_answered_with_code_and_param(tmp_path, model):
    file = tmp_path / "train.jsonl"
    file.write_text(chat_lines(30))
    job = json.loads(train(tmp_path / "out", model, file)[0])
    job["hyperparameters"]["context_length"] = 16
    error = prepare("--estimate", job=json.dumps(job))["error"]
    assert error["param"] == "training_file" and "longer than context_length 16" in error["message"]
    assert prepare("--estimate", job="{")["error"]["code"] and prepare("--estimate", job="")["error"]["message"]
    job["model"]["path"] = str(tmp_path / "nothing")
    assert "nothing" in prepare("--estimate", job=json.dumps(job))["error"]["message"]


def test_a_preview_agrees_with_data_show(tmp_path, model):
    file = tmp_path / "train.jsonl"
    file.write_text(chat_lines(3) + '{"messages": []}\n')
    shown = [json.loads(line)
             for line in subprocess.run([BINARY, "data", "show", file, "--model", model, "--json"], capture_output=True, text=True, check=True).stdout.splitlines()]
    lines = prepare("--preview", file, "--model", model, "--line", 2, "--count", 9)["lines"]
    assert [line["line"] for line in lines] == [2, 3, 4]
    for line in lines[:2]:
        other = shown[line["line"] - 1]
        assert [token["id"] for token in line["tokens"]] == other["ids"]
        assert [token["id"] if token["trained"] else -100 for token in line["tokens"]] == other["labels"]
        assert line["text"] == "".join(token["text"] for token in line["tokens"])
        assert line["token_count"] == len(line["tokens"])
        assert line["trained_count"] == sum(token["trained"] for token in line["tokens"])
    assert lines[2] == {"line": 4, "error": shown[3]["error"]}
    assert prepare("--preview", file, "--model", model, "--line", 5)["error"] == {
        "code": "not_found", "message": "The file has nothing in line 5.", "param": "line"}
