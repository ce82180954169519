"""A run on a device, by the program as people call it. Here the device is the emulated one of tests/cuda, which a build
with tests has."""
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/api"))
from conftest import BINARY  # noqa: E402

BASE = ROOT / "models/attune/world-3m"
os.environ["ATTUNE_EMULATED_GPUS"] = "1"
LIBRARY = pathlib.Path(BINARY).resolve().parent / "libattune_cuda.so"


def events_of(out):
    return [json.loads(line) for path in sorted(out.glob("run/attempts/*/events.jsonl"))
            for line in path.read_text().splitlines()]


@pytest.fixture
def run(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json",
                 "special_tokens_map.json"):
        shutil.copy(BASE / name, model / name)
    vocab = json.loads((BASE / "config.json").read_text())["vocab_size"]
    (model / "config.json").write_text(json.dumps(dict(model_type="llama", hidden_size=32, intermediate_size=48,
                                                       num_hidden_layers=2, num_attention_heads=2,
                                                       num_key_value_heads=1, head_dim=16, vocab_size=vocab,
                                                       max_position_embeddings=64,
                                                       initializer_range=0.1, tie_word_embeddings=True, bos_token_id=1,
                                                       eos_token_id=2)))
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps({"token_ids": [(i * j) % 97 + 3 for j in range(1, 14)]}) + "\n"
                            for i in range(1, 7)))

    def train(device, name, *words):
        command = [BINARY, "train", "--device", device, "--dtype", "float32", "--init", "random", "--model", model,
                   "--train", data, "--batch-size", "2",
                   "--n-epochs", "1", "--learning-rate", "1e-2", "--context-length", "32", "--no-packing", "--seed",
                   "3", "--threads", "1",
                   "--out", tmp_path / name, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=300), tmp_path / name

    return train


@pytest.mark.skipif(not LIBRARY.exists(), reason="this build has no libattune_cuda.so")
@pytest.mark.parametrize("words", [[], ["--lora", "--lora-r", "4", "--lora-dropout", "0.1"]], ids=["full", "lora"])
def test_a_run_on_a_device_is_that_of_the_processor(run, words):
    losses = []
    for device in ("cuda", "cpu"):
        done, out = run(device, device, *words)
        assert done.returncode == 0, done.stderr
        events = events_of(out)
        losses.append([event["loss"] for event in events if event["kind"] == "step"])
        receipt = json.loads(next(out.glob("run/receipt.json")).read_text())
        assert all(probe["verdict"] == "pass" for probe in receipt["probes"]), receipt["probes"]
    assert len(losses[0]) == 3 and losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.skipif(not LIBRARY.exists(), reason="this build has no libattune_cuda.so")
def test_replies_on_a_device_are_those_of_the_processor(run):
    done, _ = run("cpu", "base")
    assert done.returncode == 0, done.stderr
    base = done.stdout.strip()
    requests = [dict(id=i, prompt_ids=[3 + i, 9, 40], temperature=0, max_tokens=12) for i in range(4)]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    answers = []
    for device in ("cuda", "cpu"):
        done = subprocess.run([BINARY, "infer", "--model", base, "--device", device, "--dtype", "float32", "--threads",
                               "1"],
                              input=lines, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        answers.append([json.loads(line) for line in done.stdout.splitlines()])
    texts = [[[a.get("text", "") for a in answer if a.get("id") == i] for i in range(4)] for answer in answers]
    assert texts[0] == texts[1] and all(map(any, texts[0]))


def test_devices_are_listed_or_their_lack_explained():
    for gpus, count in (("0", 0), ("2", 2 if LIBRARY.exists() else 0)):
        words = dict(env=dict(os.environ, ATTUNE_EMULATED_GPUS=gpus), capture_output=True, text=True, timeout=60,
                     check=True)
        told = json.loads(subprocess.run([BINARY, "devices", "--json"], **words).stdout)
        assert [gpu["id"] for gpu in told["gpus"]] == [f"cuda:{i}" for i in range(count)]
        assert bool(told["why_no_gpu"]) == (count == 0)
        lines = subprocess.run([BINARY, "devices"], **words).stdout.splitlines()
        assert len(lines) == max(count, 1) and lines[0].startswith("device cuda:0: emulated" if count else "no GPU: ")


def test_a_device_that_is_not_there_is_said(run):
    done, _ = run("cuda:63", "none")
    assert done.returncode != 0 and "device cuda:63" in done.stderr, done.stderr
    done, _ = run("tpu", "none")
    assert done.returncode != 0 and "--device takes cpu, cuda or cuda:N" in done.stderr, done.stderr
