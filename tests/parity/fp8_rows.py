"""Products in eight bits beside PyTorch's float8 casts, and runs in eight bits beside the same in bf16.

The reference is transformers' model with its linear layers replaced by what stands here: torchao's tensorwise dynamic
scaling written out, with the gradient of the weight as without it. What is not in eight bits is in f32, where both
sides' operands seldom fall to two sides of a rounding, and steps have one document each, so that both quantize the same
tensors."""
import tempfile
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import torch

import attune
import families
import models
import reference
from family_rows import file_norms, gradients_error
from nf4_rows import DEMO, last_valid_loss
from train_rows import adapted

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
FAMILIES = ("Llama with biases", "Qwen3")
STEPS = 2
OPTIONS = dict(packing=False, batch_size=1, n_epochs=1, context_length=families.CONTEXT, dtype="float32")
FULL, LORA = dict(learning_rate=3e-4), dict(lora=True, lora_r=4, lora_alpha=10.0, learning_rate=3e-3)

# A sum in another order may carry a number over the middle of two codes, by a sixteenth, and later steps add to what
# follows of it: so the first step is compared. The rows tell beside it how far the reference without eight bits is.
LOSS_BOUND, GRADIENT_BOUND = 2e-4, 0.1
CURVE_BOUND, VALID_BOUND = 0.05, 0.05


def quantized(values, dtype):
    """Codes of a tensor, as numbers of f32, and what they are to be multiplied by."""
    most = torch.finfo(dtype).max
    scale = (most / values.abs().max().double().clamp(min=1e-12)).float()
    return (values.float() * scale).clamp(-most, most).to(dtype).float(), scale.reciprocal()


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        (left, x_scale), (right, w_scale) = quantized(x, E4M3), quantized(weight, E4M3)
        return (left @ right.T) * (x_scale * w_scale)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        (left, scale), (right, w_scale) = quantized(gradient, E5M2), quantized(weight, E4M3)
        of_weight = gradient.flatten(0, -2).float().T @ x.flatten(0, -2).float() if ctx.needs_input_grad[1] else None
        return ((left @ right) * (scale * w_scale)).to(x.dtype), of_weight


class Linear(torch.nn.Linear):
    def forward(self, x):
        y = Product.apply(x, self.weight)
        return y if self.bias is None else y + self.bias


def in_eight_bits(model):
    for layer in model.model.layers:
        for module in layer.modules():
            if type(module) is torch.nn.Linear:
                module.__class__ = Linear
    return model


class Comparison:
    def __init__(self, scratch, name, seed):
        scratch.mkdir()
        self.scratch, self.family, self.seed = scratch, families.FAMILIES[name], seed
        self.folder, self.data = families.make(scratch / "model", name, seed), scratch / "lines.jsonl"
        self.lines = families.write_examples(self.data, seed)[:STEPS]
        self.data.write_text("".join(self.data.read_text().splitlines(keepends=True)[:STEPS]))
        self.runs, self.references = {}, {}

    def options(self, lora):
        return OPTIONS | (LORA if lora else FULL) | {"seed": self.seed % 1000}

    def run(self, lora, fp8):
        if (lora, fp8) not in self.runs:
            self.runs[lora, fp8] = attune.Run(self.scratch / f"run {lora} {fp8}", self.folder, self.data, gradient_norms=True, fp8=fp8, **self.options(lora))
        return self.runs[lora, fp8]

    @cached_property
    def rows(self):
        return [{"input_ids": line["token_ids"], "labels": line["labels"]} for line in self.lines]

    def reference(self, lora, fp8):
        if (lora, fp8) not in self.references:
            model = models.load(self.folder).train()
            model = in_eight_bits(model) if fp8 else model
            if lora:
                model = adapted(model, self.options(lora), self.family.lora_targets)
            options = {name: value for name, value in self.options(lora).items() if not name.startswith(("lora", "dtype", "packing"))}
            self.references[lora, fp8] = reference.train_plainly(model, self.rows, norms=file_norms(self.family), **options)
        return self.references[lora, fp8]

    def loss(self, lora):
        def error(fp8):
            return abs(self.run(lora, True).steps[0]["loss"] / self.reference(lora, fp8)[0][0] - 1)

        return error(True), f"f32's {error(False):.1e}"

    def gradients(self, lora):
        def error(fp8):
            first = SimpleNamespace(steps=self.run(lora, True).steps[:1])
            return gradients_error(first, self.reference(lora, fp8)[:1])

        worst, where = error(True)
        return worst, f"{where}; f32's {error(False)[0]:.1e}"


class Demo:
    """LoRA on the bundled model with the demo's data, in fp8 and in bf16."""

    def __init__(self, scratch):
        self.steps, self.valid = {}, {}
        for fp8 in (False, True):
            run = attune.Run(scratch / f"demo {fp8}", attune.BUNDLED, attune.ROOT / "demo/train.jsonl",
                             valid=attune.ROOT / "demo/valid.jsonl", fp8=fp8, **DEMO | dict(dtype="bfloat16", n_epochs=4))
            self.steps[fp8] = [step["loss"] for step in run.steps]
            self.valid[fp8] = last_valid_loss(scratch / f"demo {fp8}")

    def curve(self):
        sixteen, eight = (sum(self.steps[fp8]) / len(self.steps[fp8]) for fp8 in (False, True))
        return abs(eight - sixteen), f"bf16 {sixteen:.4f}, fp8 {eight:.4f}, {len(self.steps[True])} steps"

    def validation(self):
        return abs(self.valid[True] - self.valid[False]), f"bf16 {self.valid[False]:.4f}, fp8 {self.valid[True]:.4f}"


def measure(table, seed):
    table.heading("fp8: beside torch's float8 casts, and beside bf16")
    with tempfile.TemporaryDirectory() as scratch:
        for family in FAMILIES:
            made = {}

            def with_comparison(method, lora, family=family, made=made):
                if not made:
                    made["both"] = None
                    made["both"] = Comparison(Path(scratch) / family, family, seed)
                return getattr(made["both"], method)(lora)

            for kind, lora in (("full", False), ("LoRA", True)):
                table.measure(f"fp8, {family}, {kind}: first loss", LOSS_BOUND, with_comparison, "loss", lora)
                table.measure(f"fp8, {family}, {kind}: norms of all gradients, first step", GRADIENT_BOUND, with_comparison, "gradients", lora)
        made = []

        def with_demo(method):
            if not made:
                made.append(Demo(Path(scratch)))
            return getattr(made[0], method)()

        table.measure("fp8, LoRA on the bundled model: mean loss of all steps beside bf16's, nats", CURVE_BOUND, with_demo, "curve")
        table.measure("fp8, LoRA on the bundled model: validation loss beside bf16's, nats", VALID_BOUND, with_demo, "validation")
