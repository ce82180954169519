"""Weights of four bits beside bitsandbytes on the CPU: what is written and read, and QLoRA runs."""
import json
import logging
import random
import shutil
import tempfile
from pathlib import Path

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of a package that it could load

import bitsandbytes
import torch
from peft import prepare_model_for_kbit_training
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import attune
import forward_rows
import models
import reference
import samples
import train_rows

LOSS_BOUND, VALID_BOUND = 1e-5, 0.05
SHAPES = ("grouped heads, untied", "one key head, llama3 rope, tied", "bf16 weights, tied")
QLORA = train_rows.LORA | train_rows.SINGLE | dict(n_epochs=2)
DEMO = dict(lora=True, lora_r=16, lora_alpha=32, learning_rate=3e-3, n_epochs=4, batch_size=8, packing=False, context_length=128)


def load_quantized(folder, is_nested=True):
    """transformers' model, its linear layers quantized by bitsandbytes while it loads, or as they are on disk."""
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=is_nested,
                                bnb_4bit_compute_dtype=torch.float32)
    given = {} if "quantization_config" in json.loads((folder / "config.json").read_text()) else {"quantization_config": config}
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="eager", **given)


def in_f32(folder):
    """What is not quantized goes to f32, as PEFT has it for training."""
    return prepare_model_for_kbit_training(load_quantized(folder), use_gradient_checkpointing=False)


def copy_tokenizer(folder, out):
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        shutil.copy(folder / name, out / name)


def numbers_of(module):
    """What the codes of a layer stand for, in f32. They are asked for as one row: bitsandbytes 0.50's AVX-512 code takes wrong scales for
    matrices whose rows are a multiple of 16 wide but not of 64."""
    state = module.weight.quant_state
    shape, state.shape, state.dtype = state.shape, torch.Size((1, state.shape.numel())), torch.float32
    return bitsandbytes.functional.dequantize_4bit(module.weight.data, state).reshape(shape)


def dequantized(folder, out, is_nested=True):
    """A folder of what bitsandbytes' codes for the model in `folder` stand for."""
    weights = {f"{name}.weight": numbers_of(module) for name, module in load_quantized(folder, is_nested).named_modules()
               if isinstance(module, bitsandbytes.nn.Linear4bit)}
    model = models.load(folder)
    model.load_state_dict(weights, strict=False)
    model.save_pretrained(out)
    copy_tokenizer(folder, out)
    return out


class Quantized:
    """A random model and what both make of it."""

    def __init__(self, scratch, shape, seed):
        scratch.mkdir()
        self.scratch, self.rng = scratch, random.Random(f"{seed} {shape} nf4")
        self.folder, self.prompts = models.make(scratch / "model", shape, seed), models.prompts(self.rng)
        self.ours, self.theirs, self.plain = scratch / "ours", scratch / "theirs", scratch / "not nested"
        attune.run("models", "quantize", self.folder, "--out", self.ours, "--dtype", "float32")
        for out, is_nested in ((self.theirs, True), (self.plain, False)):
            load_quantized(self.folder, is_nested).save_pretrained(out)
            copy_tokenizer(self.folder, out)

    def bytes_that_differ(self):
        ours, theirs = load_file(self.ours / "model.safetensors"), load_file(self.theirs / "model.safetensors")
        if ours.keys() != theirs.keys():
            raise RuntimeError(f"names differ: {sorted(ours.keys() ^ theirs.keys())[:4]}")
        count = 0
        for name in ours:
            if ours[name].dtype != theirs[name].dtype or ours[name].shape != theirs[name].shape:
                raise RuntimeError(f"{name}: {ours[name].dtype} {ours[name].shape}, bitsandbytes {theirs[name].dtype} {theirs[name].shape}")
            count += int((ours[name].reshape(-1).view(torch.uint8) != theirs[name].reshape(-1).view(torch.uint8)).sum())
        return count, f"{len(ours)} tensors"

    def logits_that_differ(self, folder, is_nested):
        """Products over codes beside the same over the numbers that bitsandbytes makes of them: equal only if every weight is."""
        numbers = dequantized(self.folder, self.scratch / f"numbers {is_nested}", is_nested)
        with attune.Worker(folder) as codes, attune.Worker(numbers) as plain:
            return sum(int((codes.logits(ids) != plain.logits(ids)).sum()) for ids in self.prompts)

    def loaded_by_transformers(self):
        """Our folder, run by attune and by transformers with bitsandbytes (in training mode: its fast path for inference is bf16)."""
        with attune.Worker(self.ours) as worker:
            return forward_rows.logits_error(worker, in_f32(self.ours).train(), self.prompts)


class Trained:
    """A QLoRA run beside PEFT's over bitsandbytes' layers, and over ordinary ones that hold the same numbers."""

    def __init__(self, scratch, shape, seed):
        scratch.mkdir()
        self.scratch, rng = scratch, random.Random(f"{seed} qlora")
        self.folder, self.data = models.make(scratch / "model", shape, seed), scratch / "lines.jsonl"
        self.options = QLORA | {"seed": rng.randrange(1000)}
        self.lines = samples.write(self.data, "chat", 40, rng)
        self.run = attune.Run(scratch / "out", self.folder, self.data, quantization="nf4", **self.options)

    def compare(self, model):
        options = {name: value for name, value in self.options.items() if not name.startswith("lora")}
        trainer = reference.sft_trainer(models.load(self.folder), self.folder, self.lines, self.scratch / "trl", **options)
        steps = reference.train_plainly(train_rows.adapted(model.train(), self.options), list(trainer.train_dataset), **options)
        if len(self.run.steps) != len(steps):
            raise RuntimeError(f"{len(self.run.steps)} steps, the reference has {len(steps)}")
        return train_rows.largest((ours["loss"], loss) for ours, (loss, *_) in zip(self.run.steps, steps)), f"{len(steps)} steps"

    def beside_numbers(self):
        return self.compare(models.load(dequantized(self.folder, self.scratch / "numbers")))

    def beside_bitsandbytes(self):
        return self.compare(in_f32(self.folder))


def last_valid_loss(out):
    events = [json.loads(line) for line in (out / "run/attempts/0001/events.jsonl").read_text().splitlines()]
    return [event["full_valid_loss"] for event in events if event["kind"] == "checkpoint"][-1]


def demo_difference(scratch):
    """Validation loss of the demo's data on the bundled model: QLoRA less LoRA, in nats."""
    losses = {}
    for quantization in ("none", "nf4"):
        out = scratch / quantization
        attune.Run(out, attune.BUNDLED, attune.ROOT / "demo/train.jsonl", valid=attune.ROOT / "demo/valid.jsonl", dtype="auto",
                   quantization=quantization, **DEMO)
        losses[quantization] = last_valid_loss(out)
    return abs(losses["nf4"] - losses["none"]), f"LoRA {losses['none']:.4f}, QLoRA {losses['nf4']:.4f}"


def measure(table, seed):
    table.heading("NF4: bitsandbytes on the CPU")
    with tempfile.TemporaryDirectory() as scratch:
        for number, shape in enumerate(SHAPES):
            made = {}

            def with_models(method, *names, shape=shape, number=number, made=made):
                if not made:
                    made["both"] = None
                    made["both"] = Quantized(Path(scratch) / str(number), shape, seed)
                return getattr(made["both"], method)(*(getattr(made["both"], name) if isinstance(name, str) else name for name in names))

            table.measure(f"NF4, {shape}: bytes that differ from bitsandbytes'", 0, with_models, "bytes_that_differ")
            table.measure(f"NF4, {shape}: logits over codes and over their numbers", 0, with_models, "logits_that_differ", "theirs", True)
            table.measure(f"NF4, {shape}: the same, not double quantized", 0, with_models, "logits_that_differ", "plain", False)
            if shape != "bf16 weights, tied":  # its rows are 112 wide, see numbers_of
                table.measure(f"NF4, {shape}: our folder, loaded by transformers", forward_rows.LOGITS_BOUND, with_models,
                              "loaded_by_transformers")
        runs = {}

        def with_run(method):
            if not runs:
                runs["run"] = None
                runs["run"] = Trained(Path(scratch) / "run", SHAPES[0], seed)
            return getattr(runs["run"], method)()

        table.measure("QLoRA: loss beside PEFT on what the codes stand for", LOSS_BOUND, with_run, "beside_numbers")
        table.measure("QLoRA: loss beside PEFT on bitsandbytes' layers", LOSS_BOUND, with_run, "beside_bitsandbytes")
        table.measure("QLoRA on the bundled model: validation loss beside LoRA's, nats", VALID_BOUND, demo_difference, Path(scratch))
