"""Twenty optimizer steps in f32 beside PyTorch: losses, gradient norms, rates; and the results, loaded by transformers and PEFT."""
import random
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model

import attune
import forward_rows
import models
import reference
import samples

LOSS_BOUND, NORM_BOUND, RATE_BOUND, RESULT_BOUND = 1e-5, 1e-4, 1e-12, 1e-4
LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

FULL, LORA = dict(learning_rate=3e-4), dict(lora=True, lora_r=4, lora_alpha=10.0, learning_rate=3e-3)
SINGLE = dict(packing=False, batch_size=4, n_epochs=2)
PACKED = dict(packing=True, context_length=192, batch_size=2, n_epochs=2)

# name: shape, kind of lines, count, whether TRL's own trainer is the reference, options
RUNS = {
    "full, chats, unpacked": ("grouped heads, untied", "chat", 40, False, FULL | SINGLE),
    "full, chats, unpacked, by TRL": ("one key head, llama3 rope, tied", "chat", 40, True, FULL | SINGLE),
    "full, chats, packed, by TRL": ("grouped heads, untied", "chat", 90, True, FULL | PACKED),
    "full, prompts, packed, warm-up, cosine, decay, no clipping": (
        "tied, linear rope, head_dim 10, old dialect", "prompt", 120, False,
        FULL | PACKED | dict(warmup_ratio=0.2, lr_scheduler_type="cosine", weight_decay=0.1, max_grad_norm=0.0)),
    "full, text, packed, constant rate": ("llama3 rope, untied, old dialect", "text", 100, False, FULL | PACKED | dict(lr_scheduler_type="constant")),
    "LoRA, chats, unpacked": ("one key head, llama3 rope, tied", "chat", 40, False, LORA | SINGLE),
    "LoRA, prompts, packed, warm-up to a constant rate, decay, by TRL": (
        "grouped heads, untied", "prompt", 120, True, LORA | PACKED | dict(warmup_ratio=0.1, lr_scheduler_type="constant_with_warmup", weight_decay=0.05)),
    "LoRA, text, packed, bf16 base": ("bf16 weights, tied", "text", 100, False, LORA | PACKED),
}


def adapted(model, options, targets=LINEAR_LAYERS):
    """PEFT's adapter, its A drawn from the seed as attune documents it."""
    torch.manual_seed(options["seed"])
    return get_peft_model(model, LoraConfig(r=options["lora_r"], lora_alpha=options["lora_alpha"], target_modules=targets,
                                            task_type="CAUSAL_LM"))


def largest(pairs):
    return max(abs(ours - theirs) / max(abs(theirs), 1e-30) if theirs else abs(ours) for ours, theirs in pairs)


class Comparison:
    """One run and its reference, from the same files and the same seed."""

    def __init__(self, scratch, name, seed):
        shape, kind, count, is_trl, options = RUNS[name]
        rng = random.Random(f"{seed} {name}")
        options = options | {"seed": rng.randrange(1000)}
        scratch.mkdir()
        self.folder = models.make(scratch / "model", shape, seed)
        self.data = scratch / "lines.jsonl"
        self.lines = samples.write(self.data, kind, count, rng)
        self.run = attune.Run(scratch / "out", self.folder, self.data, **options)
        self.is_lora, self.prompts = options.get("lora", False), models.prompts(rng)
        self.steps = self.reference_steps(scratch, is_trl, options)

    def reference_steps(self, scratch, is_trl, options):
        model = models.load(self.folder).train()
        if self.is_lora:
            model = adapted(model, options)
        options = {name: value for name, value in options.items() if not name.startswith("lora")}
        trainer = reference.sft_trainer(model, self.folder, self.lines, scratch / "trl", **options)
        self.model = model
        return reference.train_with_trl(trainer) if is_trl else reference.train_plainly(model, list(trainer.train_dataset), **options)

    def compare(self, ours, theirs):
        if len(self.run.steps) != len(self.steps):
            raise RuntimeError(f"{len(self.run.steps)} steps, the reference has {len(self.steps)}")
        return largest((step[ours], other[theirs]) for step, other in zip(self.run.steps, self.steps)), f"{len(self.steps)} steps"

    def loaded_result(self):
        if not self.is_lora:
            return models.load(self.run.checkpoint)
        return PeftModel.from_pretrained(models.load(self.folder), self.run.checkpoint).eval()

    def result_error(self):
        """Our own forward pass on our result against the result as transformers or PEFT loads it."""
        where = (self.folder, self.run.checkpoint) if self.is_lora else (self.run.checkpoint,)
        with attune.Worker(*where) as worker:
            return forward_rows.logits_error(worker, self.loaded_result(), self.prompts)

    def trained_error(self):
        """Our result against the reference's, both run by transformers."""
        loaded, trained = self.loaded_result(), self.model.eval()
        return max(forward_rows.relative_error(models.last_logits(loaded, ids), models.last_logits(trained, ids)) for ids in self.prompts)


def measure_run(table, scratch, name, seed):
    made = {}

    def with_comparison(method, *arguments):
        if not made:  # an error here is the first row's; the others fail for want of it
            made["run"] = None
            made["run"] = Comparison(scratch, name, seed)
        return getattr(made["run"], method)(*arguments)

    table.measure(f"{name}: loss", LOSS_BOUND, with_comparison, "compare", "loss", 0)
    table.measure(f"{name}: gradient norm", NORM_BOUND, with_comparison, "compare", "grad_norm", 1)
    table.measure(f"{name}: learning rate", RATE_BOUND, with_comparison, "compare", "learning_rate", 2)
    table.measure(f"{name}: the result beside the reference's", RESULT_BOUND, with_comparison, "trained_error")
    table.measure(f"{name}: the result, loaded", forward_rows.LOGITS_BOUND, with_comparison, "result_error")


def measure(table, seed):
    table.heading("training, f32: largest relative difference over all steps")
    with tempfile.TemporaryDirectory() as scratch:
        for number, name in enumerate(RUNS):
            measure_run(table, Path(scratch) / str(number), name, seed)
