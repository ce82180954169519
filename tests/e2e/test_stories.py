"""Fine-tuning a real small Llama (stories260K) on GSM8K text lowers its validation loss, full and LoRA. Needs the
shared data."""
import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("ATTUNE_SHARED", ROOT.parent / "shared")) / "data"
BIN = os.environ.get("ATTUNE_BIN", str(ROOT / "build/attune"))

pytestmark = pytest.mark.skipif(not SHARED.exists(),
                                reason=f"{SHARED} is not here (set ATTUNE_SHARED to the folder that holds data/)")


def lines_of(name, count):
    with open(SHARED / "gsm8k" / name) as file:
        for line, _ in zip(file, range(count)):
            row = json.loads(line)
            yield json.dumps({"text": row["question"] + "\n" + row["answer"]}) + "\n"


@pytest.mark.parametrize("options",
                         [["--learning-rate", "1e-3"], ["--lora", "--learning-rate", "5e-3", "--lora-r", "16", "--lora-alpha", "32"]], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_validation_loss_falls(options, dtype, tmp_path):
    (tmp_path / "train.jsonl").write_text("".join(lines_of("train.jsonl", 100)))
    (tmp_path / "valid.jsonl").write_text("".join(lines_of("test.jsonl", 16)))
    out = tmp_path / "out"
    subprocess.run([BIN, "train", "--model", SHARED / "stories260K/hf", "--train", tmp_path / "train.jsonl", "--valid", tmp_path / "valid.jsonl",
                    "--n-epochs", "2", "--batch-size", "4", "--context-length", "512", "--over-length", "truncate", "--dtype", dtype, "--eval-steps", "5",
                    "--out", out, *options], check=True, capture_output=True, timeout=300)
    events = [json.loads(line) for path in out.glob("run/attempts/*/events.jsonl")
              for line in path.read_text().splitlines()]
    losses = [e["valid_loss"] for e in events if e["kind"] == "valid"]
    full = [e["full_valid_loss"] for e in events if e["kind"] == "checkpoint"]
    print(f"stories260K {options[0]} {dtype}: valid_loss {losses[0]:.4f} → {losses[-1]:.4f}, full {full}")
    assert len(losses) >= 5 and losses[-1] < 0.9 * losses[0]
    assert full[-1] < full[0]
