"""What trains, token by token, against TRL's preparation; an adapter's first values against PEFT's."""
import random
import tempfile
from pathlib import Path

from safetensors.torch import load_file

import attune
import models
import reference
import samples
import train_rows

LINES = 12
SHAPE = "grouped heads, untied"


def count_differences(scratch, kind, seed):
    """`attune data show` against SFTTrainer's data set: lines whose ids or labels differ."""
    folder, data = models.make(scratch / f"{kind} model", SHAPE, seed), scratch / f"{kind}.jsonl"
    lines = samples.write(data, kind, LINES, random.Random(f"{seed} {kind}"))
    rows = reference.sft_trainer(models.load(folder), folder, lines, scratch / "trl", packing=False, context_length=None).train_dataset
    expected = [(row["input_ids"], [-100] + row["labels"][1:]) for row in rows]
    ours = [(line["ids"], line["labels"]) for line in attune.shown_lines(folder, data)]
    return sum(mine != theirs for mine, theirs in zip(ours, expected, strict=True))


def measure_first_values(scratch, seed):
    """A run with rate 0 writes the adapter as it began."""
    folder, data = models.make(scratch / "model", SHAPE, seed), scratch / "lines.jsonl"
    samples.write(data, "text", 4, random.Random(seed))
    options = train_rows.LORA | {"learning_rate": 0.0, "n_epochs": 1, "seed": seed % 1000}
    written = load_file(attune.Run(scratch / "out", folder, data, **options).checkpoint / "adapter_model.safetensors")
    drawn = {name.replace(".default", ""): values for name, values in train_rows.adapted(models.load(folder), options).named_parameters()
             if values.requires_grad}
    if written.keys() != drawn.keys():
        raise RuntimeError(f"names differ: {sorted(written.keys() ^ drawn.keys())[:4]}")
    return max(float((written[name] - values.detach()).abs().max()) for name, values in drawn.items())


def measure(table, seed):
    table.heading("data: how many differ; first values: largest difference")
    with tempfile.TemporaryDirectory() as scratch:
        for kind in samples.KINDS:
            table.measure(f"tokens and labels of {LINES} lines, {kind}, by TRL", 0, count_differences, Path(scratch), kind, seed)
        table.measure("first values of an adapter, by PEFT", 0, measure_first_values, Path(scratch), seed)
