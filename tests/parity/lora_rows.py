"""Adapters: what they are merged into, beside PEFT's merge and the adapter itself."""
import random
import tempfile
from pathlib import Path

from peft import PeftModel

import attune
import forward_rows
import models
import samples
import train_rows

MERGE_BOUND = 1e-5
MERGED = {"untied": "grouped heads, untied", "tied": "tied, linear rope, head_dim 10, old dialect"}


def greedy(logits, ids):
    """The tokens that follow, each the likeliest of logits(ids)."""
    whole = list(ids)
    while len(whole) < len(ids) + forward_rows.CONTINUATION:
        whole.append(int(logits(whole).argmax()))
    return whole[len(ids):]


class Merged:
    """A trained adapter, merged by attune and by PEFT."""

    def __init__(self, scratch, shape, seed):
        scratch.mkdir()
        self.folder, data, rng = models.make(scratch / "model", shape, seed), scratch / "lines.jsonl", random.Random(f"{seed} {shape}")
        samples.write(data, "text", 40, rng)
        self.adapter = attune.Run(scratch / "out", self.folder, data, **train_rows.LORA | train_rows.SINGLE).checkpoint
        self.out, self.prompts = scratch / "merged", models.prompts(rng)
        attune.run("models", "merge", self.folder, self.adapter, "--out", self.out)
        self.loaded = models.load(self.out)

    def beside_adapter(self):
        """The merged model and base with adapter, both run by attune."""
        with attune.Worker(self.out) as merged, attune.Worker(self.folder, self.adapter) as adapted:
            return max(forward_rows.relative_error(merged.logits(ids), adapted.logits(ids)) for ids in self.prompts)

    def beside_transformers(self):
        """Base with adapter, run by attune, and the merged model as transformers loads it."""
        with attune.Worker(self.folder, self.adapter) as adapted:
            return forward_rows.logits_error(adapted, self.loaded, self.prompts)

    def beside_peft(self):
        """Every weight of merge_and_unload."""
        model = PeftModel.from_pretrained(models.load(self.folder), self.adapter).merge_and_unload()
        ours, theirs = self.loaded.state_dict(), model.state_dict()
        if ours.keys() != theirs.keys():
            raise RuntimeError(f"names differ: {sorted(ours.keys() ^ theirs.keys())[:4]}")
        return max(float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()) for name in theirs)

    def texts_that_differ(self):
        """Greedy continuations: the merged model and base with adapter, by attune, beside transformers' of the merged model."""
        with attune.Worker(self.out) as merged, attune.Worker(self.folder, self.adapter) as adapted:
            texts = [(greedy(merged.logits, ids), greedy(adapted.logits, ids), greedy(lambda ids: models.last_logits(self.loaded, ids), ids))
                     for ids in self.prompts[1:4]]
        return sum(not ours == plain == theirs for ours, plain, theirs in texts)


def measure_merge(table, scratch, name, shape, seed):
    made = {}

    def with_merged(method):
        if not made:
            made["merged"] = None
            made["merged"] = Merged(scratch, shape, seed)
        return getattr(made["merged"], method)()

    table.measure(f"merged, {name}: logits beside base and adapter", MERGE_BOUND, with_merged, "beside_adapter")
    table.measure(f"merged, {name}: logits beside transformers'", MERGE_BOUND, with_merged, "beside_transformers")
    table.measure(f"merged, {name}: weights beside PEFT's merge", MERGE_BOUND, with_merged, "beside_peft")
    table.measure(f"merged, {name}: greedy texts that differ", 0, with_merged, "texts_that_differ")


def measure(table, seed):
    table.heading("adapters, f32: largest difference / largest value")
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, shape) in enumerate(MERGED.items()):
            measure_merge(table, Path(scratch) / str(number), name, shape, seed)
