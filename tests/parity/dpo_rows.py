"""Twenty steps of Direct Preference Optimization in f32 beside TRL's DPOTrainer: tokens and masks, losses, rewards, gradient norms."""
import json
import random
import tempfile
from pathlib import Path

import torch
from peft import PeftModel

import attune
import models
import reference
import samples
import train_rows

PAIRS = 40
# Rewards are differences of sums of log-probabilities, which TRL adds in f32: their errors are absolute.
BOUND, MARGIN_BOUND, NORM_BOUND, TOKENS_BOUND = 1e-5, 2e-6, 1e-4, 0
COMMON = dict(batch_size=4, n_epochs=2, context_length=512)
FULL, LORA = dict(learning_rate=2e-4), dict(lora=True, lora_r=4, lora_alpha=8.0, learning_rate=2e-3)


def strings(rng):
    prompt = samples.sentence(rng, 2, 12)
    return {"prompt": prompt, "chosen": rng.choice(("", " ")) + samples.sentence(rng, 1, 12), "rejected": rng.choice(("", " ")) + samples.sentence(rng, 1, 12)}


def implicit_strings(rng):
    line = strings(rng)
    return {name: f"{line['prompt']} {line[name]}" for name in ("chosen", "rejected")}


def conversation(rng):
    turns = samples.chat(rng)["messages"]
    turns.pop()
    return {"prompt": turns, "chosen": [{"role": "assistant", "content": samples.sentence(rng, 1, 9)}],
            "rejected": [{"role": "assistant", "content": samples.sentence(rng, 1, 9)}]}


def implicit_conversation(rng):
    line = conversation(rng)
    return {name: line["prompt"] + line[name] for name in ("chosen", "rejected")}


def tool_conversation(rng):
    return conversation(rng) | {"tools": samples.TOOLS}


def as_openai_has_it(line):
    return {"input": {"messages": line["prompt"], "tools": line.get("tools"), "parallel_tool_calls": True},
            "preferred_output": line["chosen"], "non_preferred_output": line["rejected"]}


# name: shape, what makes a line, how the file has it, whether an adapter is there already, TRL's micro-batches a step, options
RUNS = {
    "DPO, full, strings, cut": ("grouped heads, untied", strings, None, False, 1, FULL | dict(context_length=20, over_length="truncate", n_epochs=3)),
    "DPO, full, chats, no prompt, warm-up": (
        "one key head, llama3 rope, tied", implicit_conversation, None, False, 1, FULL | dict(warmup_ratio=0.2, weight_decay=0.1, beta=0.2)),
    "DPO, LoRA, strings, no prompt, accumulated": ("tied, linear rope, head_dim 10, old dialect", implicit_strings, None, False, 2, LORA),
    "DPO, LoRA, chats, tools, OpenAI's lines": ("grouped heads, untied", tool_conversation, as_openai_has_it, False, 1, LORA | dict(beta=0.3)),
    "DPO, an adapter trained on, strings": ("llama3 rope, untied, old dialect", strings, None, True, 1, LORA | dict(learning_rate=5e-4)),
}

# ours: TRL's
REWARDS = {"rewards_chosen": "rewards/chosen", "rewards_rejected": "rewards/rejected", "reward_margin": "rewards/margins"}
LOGPS = {"logps_chosen": "logps/chosen", "logps_rejected": "logps/rejected"}
SHARES = {"reward_accuracy": "rewards/accuracies", "token_accuracy": "mean_token_accuracy"}


def write_adapter(folder, out, options):
    """An adapter that does something from the first step on."""
    model = train_rows.adapted(models.load(folder), options)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "lora_B" in name:
                values.normal_(std=0.02)
    model.save_pretrained(out)
    return out


def first_label(line):
    return next(index for index, label in enumerate(line["labels"]) if label != -100)


class Comparison:
    """One run and its reference, from the same lines and the same seed."""

    def __init__(self, scratch, name, seed):
        shape, make_line, reshape, has_adapter, self.accumulation, options = RUNS[name]
        rng = random.Random(f"{seed} {name}")
        options = COMMON | options | {"seed": rng.randrange(1000)}
        self.beta = options.get("beta", 0.1)
        scratch.mkdir()
        self.folder, self.data = models.make(scratch / "model", shape, seed), scratch / "lines.jsonl"
        lines = [make_line(rng) for _ in range(PAIRS)]
        self.data.write_text("".join(json.dumps(reshape(line) if reshape else line) + "\n" for line in lines))
        adapter = {"adapter": write_adapter(self.folder, scratch / "adapter", options)} if has_adapter else {}
        self.run = attune.Run(scratch / "out", self.folder, self.data, method="dpo", **options, **adapter)
        model = models.load(self.folder).train()
        if has_adapter:
            model = PeftModel.from_pretrained(model, adapter["adapter"], is_trainable=True)
        elif options.get("lora"):
            model = train_rows.adapted(model, options)
        self.length = options["context_length"]
        options = {name: value for name, value in options.items() if not name.startswith("lora") and name != "over_length"}
        self.trainer = reference.dpo_trainer(model, self.folder, lines, scratch / "trl", accumulation=self.accumulation, **options)
        self.pairs = [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in self.trainer.train_dataset]
        self.steps = reference.log_of(self.trainer)

    def count_differences(self):
        """Lines are shown whole; those whose prompt alone fills the context train in neither."""
        expected = [[(prompt + ids, [-100] * max(len(prompt), 1) + (ids if prompt else ids[1:])) for ids in both] for prompt, *both in self.pairs]
        shown = [line for line in attune.shown_lines(self.folder, self.data) if first_label(line["chosen"]) < self.length]
        ours = [[(line[name]["ids"], line[name]["labels"]) for name in ("chosen", "rejected")] for line in shown]
        return sum(mine != theirs for mine, theirs in zip(ours, expected, strict=True)), f"{len(ours)} of {PAIRS} pairs"

    def pairs_of(self, names):
        if len(self.run.steps) != len(self.steps):
            raise RuntimeError(f"{len(self.run.steps)} steps, the reference has {len(self.steps)}")
        return [(step[ours], other[theirs]) for step, other in zip(self.run.steps, self.steps) for ours, theirs in names.items()]

    def difference(self, names):
        return max(abs(ours - theirs) for ours, theirs in self.pairs_of(names)), f"{len(self.steps)} steps"

    def margin_difference(self, names):
        """Losses and rewards are made of differences of log-probabilities, times beta: their errors are held against beta times those."""
        ours = [max(abs(step[name]) for name in LOGPS) for step in self.run.steps for _ in names]
        return max(abs(a - b) / (self.beta * scale) for (a, b), scale in zip(self.pairs_of(names), ours, strict=True)), f"{len(self.steps)} steps"

    def share_difference(self):
        """TRL's accuracy of tokens is the mean of its micro-batches': ours is that of the step."""
        return self.difference(SHARES if self.accumulation == 1 else {"reward_accuracy": SHARES["reward_accuracy"]})

    def relative(self, names):
        return train_rows.largest(self.pairs_of(names)), f"{len(self.steps)} steps"


def measure_run(table, scratch, name, seed):
    made = {}

    def with_comparison(method, *arguments):
        if not made:  # an error here is the first row's; the others fail for want of it
            made["run"] = None
            made["run"] = Comparison(scratch, name, seed)
        return getattr(made["run"], method)(*arguments)

    table.measure(f"{name}: tokens and masks", TOKENS_BOUND, with_comparison, "count_differences")
    table.measure(f"{name}: loss", MARGIN_BOUND, with_comparison, "margin_difference", {"loss": "loss"})
    table.measure(f"{name}: rewards", MARGIN_BOUND, with_comparison, "margin_difference", REWARDS)
    table.measure(f"{name}: log-probabilities", BOUND, with_comparison, "relative", LOGPS)
    table.measure(f"{name}: accuracies", BOUND, with_comparison, "share_difference")
    table.measure(f"{name}: gradient norm", NORM_BOUND, with_comparison, "relative", {"grad_norm": "grad_norm"})


def measure(table, seed):
    table.heading("DPO, f32, by TRL: largest difference over all steps (of logps and norms relative, of losses and rewards to beta · logps)")
    with tempfile.TemporaryDirectory() as scratch:
        for number, name in enumerate(RUNS):
            measure_run(table, Path(scratch) / str(number), name, seed)
