#!/usr/bin/env python3
"""Writes tests/fixtures/families: what transformers and PEFT compute on every model of families.py, for `make test` to compare with.

usage: build/venv-parity/bin/python tests/parity/make_goldens.py [TEXT]     families whose name has the text; all without

One JSON file a family: the versions that made it, some logits of each prompt's last token, and of full and LoRA training the loss of
every step and, in two of them, the gradient norm of every parameter. tests/e2e/test_families.py makes the same models
and compares."""
import json
import os
import pathlib
import sys
import tempfile
from importlib.metadata import version

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1")

import families  # noqa: E402
import family_rows  # noqa: E402
import models  # noqa: E402

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "fixtures/families"


def rounded(value):
    return float(f"{value:.8g}")


def training(comparison, lora):
    steps = comparison.reference(lora)
    return {"losses": [rounded(step.loss) for step in steps],
            "gradient_norms": {number: {name: rounded(norm) for name, norm in steps[int(number) - 1].gradients.items()}
                               for number in families.GOLDEN_STEPS}}


def golden(name, scratch):
    comparison = family_rows.Comparison(pathlib.Path(scratch), name, families.GOLDEN_SEED)
    model, prompts = models.load(comparison.folder), families.prompts(families.GOLDEN_SEED)
    logits = [models.last_logits(model, ids) for ids in prompts]
    return {
        "family": name, "seed": families.GOLDEN_SEED,
        "versions": {package: version(package) for package in ("torch", "transformers", "peft", "trl")},
        "options": {"full": comparison.options(False), "lora": comparison.options(True)},
        "largest_logits": [rounded(abs(values).max()) for values in logits],
        "logits": [[rounded(values[token]) for token in families.golden_tokens()] for values in logits],
        "full": training(comparison, False), "lora": training(comparison, True)}


def main():
    FOLDER.mkdir(exist_ok=True)
    for name in families.FAMILIES:
        if len(sys.argv) < 2 or sys.argv[1] in name:
            with tempfile.TemporaryDirectory() as scratch:
                families.golden_path(FOLDER, name).write_text(json.dumps(golden(name, scratch), separators=(",", ":")) + "\n")
            print(name)


if __name__ == "__main__":
    main()
