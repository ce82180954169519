"""Every model family in one line: the largest errors of logits, losses and (over the first steps) the gradient norms of all parameters,
in f32, and of losses in bf16.

The models are those of families.py, drawn anew. Both sides train on the same packed, ragged, masked rows for about 20 optimizer steps
with warm-up, weight decay and clipping, full and LoRA; in f32 the reference cuts each step into two micro-batches. attune trains
twice in f32: with room for everything, and with so little that it computes activations again and cuts steps into micro-batches of one
row. A mixture of experts trains with its load-balance loss, as TRL has it."""
import random
import tempfile
from functools import cached_property
from pathlib import Path

import attune
import families
import forward_rows
import models
import reference
from train_rows import LOSS_BOUND, NORM_BOUND, adapted, largest

BF16_BOUND = 5e-3
TRAINING = dict(packing=True, context_length=families.CONTEXT, batch_size=4, n_epochs=2, warmup_ratio=0.1, weight_decay=0.3)
FULL, LORA = dict(learning_rate=3e-4), dict(lora=True, lora_r=4, lora_alpha=10.0, learning_rate=3e-3)
SMALL_SHARE = 1e-3       # of the whole gradient's norm: smaller norms are compared on that scale
GRADIENT_STEPS = 8       # AdamW divides by the gradient's own size: later steps compare the growth of roundings
ROOM = 0.25              # of the activations that a full plan keeps; twice that for experts, whose steps are not cut


def split_experts(name, gradient, family):
    """transformers holds all experts in one tensor; the files of Mixtral and Qwen3-MoE have three matrices for each."""
    if family.experts == "mixtral":
        name = name.replace(".mlp.gate.", ".block_sparse_moe.gate.")
    if family.experts not in ("mixtral", "qwen3_moe") or ".mlp.experts." not in name:
        return {name: gradient}
    folder, (gate, up, down) = ("block_sparse_moe", ("w1", "w3", "w2")) if family.experts == "mixtral" else ("mlp", families.MLP)
    stem, _, last = name.partition("mlp.experts.")
    parts = {down: gradient} if last == "down_proj" else dict(zip((gate, up), gradient.chunk(2, dim=1)))
    return {f"{stem}{folder}.experts.{expert}.{part}.weight": values[expert] for part, values in parts.items() for expert in range(len(values))}


def file_norms(family):
    """The norms of all gradients, under the names and in the parts that files have."""
    def norms(model):
        return {name: values.norm().item() for parameter, tensor in model.named_parameters() if tensor.grad is not None
                for name, values in split_experts(parameter.replace(".default.", "."), tensor.grad, family).items()}
    return norms


def gradients_error(run, steps):
    worst, where = 0.0, ""
    for number, (ours, theirs) in enumerate(zip(run.steps[:GRADIENT_STEPS], steps[:GRADIENT_STEPS], strict=True)):
        if ours["gradient_norms"].keys() != theirs.gradients.keys():
            raise RuntimeError(f"trained parameters differ: {sorted(ours['gradient_norms'].keys() ^ theirs.gradients.keys())[:4]}")
        for name, norm in theirs.gradients.items():
            error = abs(ours["gradient_norms"][name] - norm) / max(norm, SMALL_SHARE * theirs.grad_norm)
            if not error <= worst:
                worst, where = error, f"{name}, step {number + 1}"
    return worst, where


def losses_error(run, steps):
    return largest((ours["loss"], theirs[0]) for ours, theirs in zip(run.steps, steps, strict=True))


class Comparison:
    """One family: runs are made when a column first asks for them."""

    def __init__(self, scratch, name, seed):
        self.scratch, self.family, self.seed = scratch, families.FAMILIES[name], seed
        self.folder = families.make(scratch / "model", name, seed)
        self.data = scratch / "lines.jsonl"
        self.lines = families.write_examples(self.data, seed)
        self.runs, self.references, self.run_count = {}, {}, 0
        # The load balance of experts is a mean over the tokens of a micro-batch: another grouping is another loss.
        self.micro_batches = 1 if self.family.experts else None if self.family.batches == "alone" else 2

    def options(self, lora):
        return TRAINING | (LORA if lora else FULL) | {"seed": self.seed % 1000}

    def run(self, lora, **more):
        key = (lora, *more.items())
        if key not in self.runs:
            out = self.scratch / f"run {self.run_count}"
            self.run_count += 1
            self.runs[key] = attune.Run(out, self.folder, self.data, gradient_norms=True, **self.options(lora) | more)
        return self.runs[key]

    def narrow_run(self, lora):
        plan = self.run(lora).plan
        kept = next(region["bytes"] for region in plan["regions"] if region["name"] == "kept activations")
        return self.run(lora, memory_bytes=plan["total_bytes"] - int((1 - (2 * ROOM if self.family.experts else ROOM)) * kept))

    @cached_property
    def trainer(self):
        """TRL's, which also says which documents make a packed row."""
        lines = [{"input_ids": line["token_ids"], "labels": line["labels"]} for line in self.lines]
        options = {name: value for name, value in self.options(False).items() if not name.startswith("lora")}
        return reference.sft_trainer(models.load(self.folder).train(), self.folder, lines, self.scratch / "trl", accumulation=self.micro_batches or 1, **options)

    @cached_property
    def rows(self):
        return list(self.trainer.train_dataset)

    def reference(self, lora, is_bf16=False):
        if (lora, is_bf16) not in self.references:
            micro_batches = 1 if is_bf16 and self.micro_batches == 2 else self.micro_batches
            model, options = models.load(self.folder).train(), self.options(lora)
            if lora:
                model = adapted(model, options, self.family.lora_targets)
            self.references[lora, is_bf16] = reference.train_plainly(
                model, self.rows, accumulation=micro_batches, is_bf16=is_bf16, norms=file_norms(self.family), **options)
        return self.references[lora, is_bf16]

    def logits(self):
        return forward_rows.measure_logits(self.folder, "cpu", families.prompts(self.seed))

    def loss(self):
        return largest([(self.run(False).steps[0]["loss"], self.reference(False)[0].loss)])

    def gradients(self):
        return max((gradients_error(self.run(lora), self.reference(lora)) for lora in (False, True)), key=lambda found: found[0])

    def losses(self, lora):
        run, narrow = self.run(lora), self.narrow_run(lora)
        error = losses_error(run, self.reference(lora))
        if not self.family.experts or narrow.plan["tokens"] == run.plan["tokens"]:
            error = max(error, losses_error(narrow, self.reference(lora)))
        if not lora and self.family.batches == "packed":
            error = max(error, losses_error(run, reference.train_with_trl(self.trainer)))
        return error

    def bf16_losses(self, lora):
        return losses_error(self.run(lora, dtype="bfloat16"), self.reference(lora, is_bf16=True))


COLUMNS = {
    "logits": (forward_rows.LOGITS_BOUND, Comparison.logits),
    "loss": (LOSS_BOUND, Comparison.loss),
    "grad norms": (NORM_BOUND, Comparison.gradients),
    "20 full": (LOSS_BOUND, lambda comparison: comparison.losses(False)),
    "20 LoRA": (LOSS_BOUND, lambda comparison: comparison.losses(True)),
    "bf16 full": (BF16_BOUND, lambda comparison: comparison.bf16_losses(False)),
    "bf16 LoRA": (BF16_BOUND, lambda comparison: comparison.bf16_losses(True)),
}


def measure(table, seed):
    table.columns_heading("model families", {title: bound for title, (bound, _) in COLUMNS.items()})
    rng = random.Random(seed)
    for name in families.FAMILIES:
        family_seed = rng.randrange(1 << 31)
        with tempfile.TemporaryDirectory() as scratch:
            table.line(name, COLUMNS, lambda: Comparison(Path(scratch), name, family_seed))
