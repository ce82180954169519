"""The inference worker alone: lines in, lines out, and a clean end (no leak, when it was built with sanitizers)."""
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/api"))
from tiny_model import make_tiny_model  # noqa: E402

BINARY = pathlib.Path(os.environ.get("ATTUNE_BIN", ROOT / "build/test/attune" if (ROOT / "build/test/attune").exists()
                                     else ROOT / "build/attune"))
GREEDY = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def talk(folder, *requests, status=0):
    """All requests at once, then the end of the input: the lines that come back."""
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in requests)
    run = subprocess.run([BINARY, "infer", "--model", folder], input=text, capture_output=True, text=True, timeout=120)
    assert run.returncode == status, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()], run.stderr


def reply(lines, number):
    mine = [line for line in lines if line.get("id") == number]
    return "".join(line.get("text", "") for line in mine), mine[-1]


def test_requests_that_run_at_once_get_what_they_get_alone(folder):
    requests = [{"id": i, "prompt": "Once upon a time " * (i + 1), **GREEDY, "temperature": i % 2, "seed": 4}
                for i in range(5)]
    together, _ = talk(folder, *requests)
    assert together[0] == {"ready": True, "context_length": 256}
    for request in requests:
        alone, _ = talk(folder, request)
        text, last = reply(together, request["id"])
        assert text and (text, last) == reply(alone, request["id"])
        assert last["done"] and 0 < last["completion_tokens"] <= 12


def test_an_input_that_ends_lets_running_requests_finish(folder):
    lines, _ = talk(folder, {"id": 1, "messages": [{"role": "user", "content": "Say red."}], "n": 40, "temperature": 1,
                             "max_tokens": 5})
    assert {line["choice"] for line in lines if "finish_reason" in line} == set(range(40))
    assert lines[-1]["done"]


def test_a_request_for_many_does_not_keep_the_others_waiting(folder):
    lines, _ = talk(folder, {"id": 1, "prompt": "x", "max_tokens": 40, "n": 128, "temperature": 1},
                    {"id": 2, "prompt": "x", "max_tokens": 3})
    before = lines[:next(i for i, line in enumerate(lines) if line.get("id") == 2 and "done" in line)]
    assert len([line for line in before if "finish_reason" in line and line["id"] == 1]) < 64, "all of 128 had to begin first"


def test_a_cancelled_request_is_over(folder):
    lines, _ = talk(folder, {"id": 1, "prompt": "x", "max_tokens": 250, "n": 30}, {"id": 1, "cancel": True},
                    {"id": 2, "prompt": "x", **GREEDY})
    assert not [line for line in lines if line.get("id") == 1 and "done" in line] and reply(lines, 2)[1]["done"]


@pytest.mark.parametrize("request_line, said", [
    ("not json", "JSON"), ("[]", "id"), ("{}", "id"), ({"id": -5}, "id"), ({"id": 1}, "messages"),
    ({"id": 1, "prompt": 5}, "messages"),
    ({"id": 1, "prompt_ids": []}, "no tokens"), ({"id": 1, "prompt": "x", "n": 0}, "n must be"),
    ({"id": 1, "prompt": "x", "n": 1000}, "n must be"),
    ({"id": 1, "prompt_ids": [1, "x"]}, "token id"), ({"id": 1, "prompt_ids": [99999]}, "vocabulary"),
    ({"id": 1, "prompt_ids": [-1]}, "token id"),
    ({"id": 1, "prompt_ids": [5] * 256}, "256"), ({"id": 1, "messages": []}, ""), ({"id": 1, "messages": [5]}, ""),
    ({"id": 1, "messages": [{"role": "user", "content": {"a": 1}}]}, ""), ({"id": 1, "logits": True}, "ids"),
    ({"id": 1, "logits": True, "ids": []}, "1 to"),
])
def test_what_cannot_be_answered_is_an_error_and_the_next_is_answered(folder, request_line, said):
    lines, _ = talk(folder, request_line, {"id": 7, "prompt": "x", **GREEDY})
    error = next(line["error"] for line in lines if "error" in line)
    assert said in error["message"] and set(error) == {"code", "message", "param"}
    assert reply(lines, 7)[1]["done"]


def test_a_model_that_does_not_open_is_fatal_with_the_reason(folder, tmp_path):
    lines, told = talk(tmp_path, status=1)
    assert "fatal" in lines[0] and lines[0]["fatal"]["message"] in told
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes()[:1000 if file.suffix == ".safetensors" else None])
    lines, _ = talk(broken, status=1)
    assert "model.safetensors" in lines[0]["fatal"]["message"]


def test_a_reader_that_leaves_ends_the_worker(folder):
    with subprocess.Popen([BINARY, "infer", "--model", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
        worker.stdout.readline()
        worker.stdout.close()
        worker.stdin.write(json.dumps({"id": 1, "prompt": "x", "max_tokens": 200, "n": 100}).encode() + b"\n")
        worker.stdin.flush()
        assert worker.wait(timeout=120) == 0, worker.stderr.read()
