"""Adapters of every kind beside PEFT's: first values, twenty steps, files both ways, and what they are merged into."""
import random
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

import attune
import forward_rows
import models
import reference
import samples
import train_rows

MERGE_BOUND = 1e-5
ROUNDING_BOUND = 1e-6  # of magnitudes, which are norms: torch has an order of sums of its own
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


UNTIED, TIED = MERGED["untied"], MERGED["tied"]
EVERYWHERE = train_rows.LINEAR_LAYERS + ["embed_tokens", "lm_head"]

# name: shape, what differs in PEFT's config, the same in attune's options
FAMILY = {
    "rsLoRA": (UNTIED, dict(use_rslora=True), dict(use_rslora=True)),
    "ranks and alphas by pattern": (
        UNTIED, dict(rank_pattern={"q_proj": 2, r"layers\.1\..*up_proj": 7}, alpha_pattern={"q_proj": 3, "down_proj": 20}),
        dict(rank_pattern=r"q_proj=2,layers\.1\..*up_proj=7", alpha_pattern="q_proj=3,down_proj=20")),
    "some modules of some layers": (
        TIED, dict(target_modules=["q_proj", "v_proj", "down_proj"], exclude_modules=["layers.0.self_attn.v_proj"], layers_to_transform=[0, 2]),
        dict(lora_target_modules="q_proj,v_proj,down_proj", exclude_modules="layers.0.self_attn.v_proj", layers_to_transform="0,2")),
    "embedding and head": (UNTIED, dict(target_modules=EVERYWHERE), dict(lora_target_modules=",".join(EVERYWHERE))),
    "embedding and head, tied": (TIED, dict(target_modules=EVERYWHERE), dict(lora_target_modules=",".join(EVERYWHERE))),
    "embedding, head and norms whole": (
        UNTIED, dict(modules_to_save=["embed_tokens", "lm_head", "norm"]), dict(modules_to_save="embed_tokens,lm_head,norm")),
    "DoRA": (UNTIED, dict(use_dora=True), dict(use_dora=True)),
    "DoRA on some modules, ranks by pattern": (
        TIED, dict(use_dora=True, target_modules=["q_proj", "v_proj", "down_proj"], rank_pattern={"v_proj": 7}),
        dict(use_dora=True, lora_target_modules="q_proj,v_proj,down_proj", rank_pattern="v_proj=7")),
    "tied head whole": (TIED, dict(modules_to_save=["lm_head"]), dict(modules_to_save="lm_head")),
}


class Kind:
    """One kind of adapter: PEFT's and attune's, from the same seed, data and base."""

    def __init__(self, scratch, name, seed):
        shape, config, options = FAMILY[name]
        rng = random.Random(f"{seed} {name}")
        scratch.mkdir()
        self.scratch, self.folder, self.data = scratch, models.make(scratch / "model", shape, seed), scratch / "lines.jsonl"
        self.lines, self.prompts = samples.write(self.data, "text", 40, rng), models.prompts(rng)
        self.seed, self.config = rng.randrange(1000), {"target_modules": train_rows.LINEAR_LAYERS} | config
        self.options = train_rows.LORA | train_rows.SINGLE | options | {"seed": self.seed}
        self.run = attune.Run(scratch / "out", self.folder, self.data, **self.options)
        self.model = self.wrapped().train()
        lines = reference.sft_trainer(models.load(self.folder), self.folder, self.lines, scratch / "trl", packing=False).train_dataset
        plain = {key: value for key, value in (train_rows.LORA | train_rows.SINGLE).items() if not key.startswith("lora")}
        self.steps = reference.train_plainly(self.model, list(lines), **plain, seed=self.seed)

    def wrapped(self):
        base = models.load(self.folder)
        torch.manual_seed(self.seed)
        return get_peft_model(base, LoraConfig(r=self.options["lora_r"], lora_alpha=self.options["lora_alpha"], task_type="CAUSAL_LM", **self.config))

    def first_values(self):
        """A run with rate 0 writes the adapter as it began."""
        run = attune.Run(self.scratch / "first", self.folder, self.data, **self.options | {"learning_rate": 0.0, "n_epochs": 1})
        ours = load_file(run.checkpoint / "adapter_model.safetensors")
        theirs = {name.replace(".default", "").replace(".modules_to_save", "").replace("magnitude_vector.weight", "magnitude_vector"): values
                  for name, values in self.wrapped().named_parameters() if values.requires_grad}
        if ours.keys() != theirs.keys():
            raise RuntimeError(f"names differ: {sorted(ours.keys() ^ theirs.keys())[:4]}")
        return max(float((ours[name] - values.detach()).abs().max()) for name, values in theirs.items())

    def compare(self, ours, theirs):
        if len(self.run.steps) != len(self.steps):
            raise RuntimeError(f"{len(self.run.steps)} steps, the reference has {len(self.steps)}")
        return train_rows.largest((step[ours], other[theirs]) for step, other in zip(self.run.steps, self.steps)), f"{len(self.steps)} steps"

    def loaded(self, adapter):
        return PeftModel.from_pretrained(models.load(self.folder), adapter).eval()

    def ours_in_peft(self):
        """Our adapter, run by attune and by PEFT."""
        with attune.Worker(self.folder, self.run.checkpoint) as worker:
            return forward_rows.logits_error(worker, self.loaded(self.run.checkpoint), self.prompts)

    def theirs_in_attune(self, dtype):
        """PEFT's trained adapter, written by PEFT in a type, run by attune and by PEFT."""
        folder = self.scratch / str(dtype)
        model = self.loaded_copy(dtype)
        model.save_pretrained(folder)
        with attune.Worker(self.folder, folder) as worker:
            return forward_rows.logits_error(worker, self.loaded(folder), self.prompts)

    def loaded_copy(self, dtype):
        model = self.wrapped()
        model.load_state_dict(self.model.state_dict())
        for name, values in model.named_parameters():
            if "lora_" in name:
                values.data = values.data.to(dtype)
        return model

    def merged(self):
        """Our merge of our adapter, loaded by transformers, beside base and adapter in PEFT."""
        out = self.scratch / "merged"
        attune.run("models", "merge", self.folder, self.run.checkpoint, "--out", out)
        loaded, adapted = models.load(out), self.loaded(self.run.checkpoint)
        return max(forward_rows.relative_error(models.last_logits(loaded, ids), models.last_logits(adapted, ids)) for ids in self.prompts)


def measure_kind(table, scratch, name, seed):
    made = {}

    def with_kind(method, *arguments):
        if not made:
            made["kind"] = None
            made["kind"] = Kind(scratch, name, seed)
        return getattr(made["kind"], method)(*arguments)

    table.measure(f"{name}: first values", ROUNDING_BOUND if "DoRA" in name else 0, with_kind, "first_values")
    table.measure(f"{name}: loss", train_rows.LOSS_BOUND, with_kind, "compare", "loss", 0)
    table.measure(f"{name}: gradient norm", train_rows.NORM_BOUND, with_kind, "compare", "grad_norm", 1)
    table.measure(f"{name}: our adapter in PEFT", MERGE_BOUND, with_kind, "ours_in_peft")
    table.measure(f"{name}: PEFT's adapter, f32", MERGE_BOUND, with_kind, "theirs_in_attune", torch.float32)
    table.measure(f"{name}: PEFT's adapter, bf16", MERGE_BOUND, with_kind, "theirs_in_attune", torch.bfloat16)
    table.measure(f"{name}: merged", MERGE_BOUND, with_kind, "merged")


def measure(table, seed):
    table.heading("adapters, f32: largest difference / largest value")
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, shape) in enumerate(MERGED.items()):
            measure_merge(table, Path(scratch) / str(number), name, shape, seed)
        for number, name in enumerate(FAMILY):
            measure_kind(table, Path(scratch) / f"kind {number}", name, seed)
