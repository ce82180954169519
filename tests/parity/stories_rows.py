"""A hundred steps of a trained model, stories260K, on GSM8K: attune's LoRA job beside PEFT and TRL's SFTTrainer, from the same seed."""
import json
import shutil
import tempfile
from pathlib import Path

import attune
import models
import reference
import sft_data
import train_rows

STEPS, LOSS_BOUND = 100, 1e-4
OPTIONS = dict(lora=True, lora_r=8, lora_alpha=16.0, learning_rate=2e-3, batch_size=2, n_epochs=1, context_length=256, packing=False,
               warmup_ratio=0.05, lr_scheduler_type="cosine")


def make_model(folder):
    """The folder as it is, but that transformers is told to read the tokenizer file and not to rebuild it from a class's rules."""
    folder.mkdir()
    for path in (sft_data.SHARED / "stories260K/hf").iterdir():
        shutil.copyfile(path, folder / path.name)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


def write_lines(path):
    with open(sft_data.SHARED / "gsm8k/train.jsonl") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(STEPS * OPTIONS["batch_size"]))]
    lines = [{"text": row["question"] + "\n" + row["answer"]} for row in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def largest_difference(scratch, seed):
    folder, options = make_model(scratch / "model"), OPTIONS | {"seed": seed % 1000}
    lines = write_lines(scratch / "lines.jsonl")
    run = attune.Run(scratch / "out", folder, scratch / "lines.jsonl", over_length="truncate", **options)
    model = train_rows.adapted(models.load(folder).train(), options)
    options = {name: value for name, value in options.items() if not name.startswith("lora")}
    steps = reference.train_with_trl(reference.sft_trainer(model, folder, lines, scratch / "trl", **options))
    if not len(run.steps) == len(steps) == STEPS:
        raise RuntimeError(f"{len(run.steps)} steps, the reference has {len(steps)}")
    fallen = f"loss from {steps[0][0]:.3f} to {steps[-1][0]:.3f}"
    return max(abs(ours["loss"] - theirs[0]) for ours, theirs in zip(run.steps, steps)), fallen


def measure(table, seed):
    table.heading("a trained model, f32: largest difference of a step's loss")
    if sft_data.SHARED is None:
        print("skipped: there is no shared data (set ATTUNE_SHARED to the folder that holds data/)")
        return
    with tempfile.TemporaryDirectory() as scratch:
        table.measure(f"stories260K, LoRA, {STEPS} steps, by PEFT and TRL", LOSS_BOUND, largest_difference, Path(scratch), seed)
