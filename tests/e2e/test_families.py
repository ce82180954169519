"""Every model family against what transformers and PEFT computed on the same weights: tests/fixtures/families, by
tests/parity/make_goldens.py."""
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/parity"))

import families  # noqa: E402

GOLDENS = ROOT / "tests/fixtures/families"
TEST_BUILD = ROOT / "build/test/attune"
BIN = os.environ.get("ATTUNE_BIN", str(TEST_BUILD if TEST_BUILD.exists() else ROOT / "build/attune"))
LOGITS_BOUND, LOSS_BOUND, NORM_BOUND = 1e-4, 1e-5, 1e-4
SMALL_SHARE = 1e-3  # of the whole gradient's norm: smaller norms are compared on that scale

KINDS = [pytest.param(name, lora, id=f"{name}, {'LoRA' if lora else 'full'}") for name in families.FAMILIES
         for lora in (False, True)]


def golden(name):
    return json.loads(families.golden_path(GOLDENS, name).read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of the models made so far, by name."""
    folders = {}

    def make(name):
        if name not in folders:
            folder = tmp_path_factory.mktemp("family")
            families.make(folder / "model", name, families.GOLDEN_SEED)
            families.write_examples(folder / "lines.jsonl", families.GOLDEN_SEED)
            folders[name] = folder
        return folders[name]
    return make


def flags(options):
    for name, value in options.items():
        flag = name.replace("_", "-")
        yield from ([f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool)
                    else [f"--{flag}", str(value)])


def worst_norm(ours, theirs, whole):
    assert ours.keys() == theirs.keys()
    return max((abs(ours[name] - norm) / max(norm, SMALL_SHARE * whole), name) for name, norm in theirs.items())


@pytest.mark.parametrize("name", families.FAMILIES)
def test_the_logits_are_the_references(name, made):
    expected, prompts = golden(name), families.prompts(families.GOLDEN_SEED)
    asked = "".join(json.dumps({"id": i, "ids": ids, "logits": True}) + "\n" for i, ids in enumerate(prompts))
    run = subprocess.run([BIN, "infer", "--model", made(name) / "model", "--dtype", "float32", "--threads", "2"],
                         input=asked, capture_output=True,
                         text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    answers = {answer["id"]: answer["logits"]
               for answer in map(json.loads, run.stdout.splitlines()) if "logits" in answer}
    for i, (values, largest) in enumerate(zip(expected["logits"], expected["largest_logits"], strict=True)):
        error = max(abs(answers[i][token] - value) for token, value in zip(families.golden_tokens(), values, strict=True)) / largest
        assert error <= LOGITS_BOUND, f"prompt {i}: {error:.2g}"


@pytest.mark.parametrize("name, lora", KINDS)
def test_training_is_the_references(name, lora, made, tmp_path):
    expected, kind = golden(name), "lora" if lora else "full"
    run = subprocess.run([BIN, "train", "--model", made(name) / "model", "--train", made(name) / "lines.jsonl", "--out", tmp_path / "out", "--dtype", "float32",
                          "--threads", "2", "--gradient-norms", *flags(expected["options"][kind])], capture_output=True,
                         text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    events = map(json.loads, (tmp_path / "out/run/attempts/0001/events.jsonl").read_text().splitlines())
    steps = [event for event in events if event["kind"] == "step"]
    told = expected[kind]
    assert len(steps) == len(told["losses"])
    for step, loss in zip(steps, told["losses"], strict=True):
        assert abs(step["loss"] - loss) <= LOSS_BOUND * loss, f"step {step['step']}: loss {step['loss']} is not {loss}"
    for number, norms in told["gradient_norms"].items():
        step = steps[int(number) - 1]
        assert abs(sum(norm * norm for norm in step["gradient_norms"].values()) ** 0.5 - step["grad_norm"]) <= 1e-6 * step["grad_norm"]
        error, where = worst_norm(step["gradient_norms"], norms, step["grad_norm"])
        assert error <= NORM_BOUND, f"step {number}: {where}: {error:.2g}"
