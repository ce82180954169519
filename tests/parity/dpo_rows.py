"""Twenty steps of Direct Preference Optimization in f32 beside TRL's DPOTrainer: tokens and masks, losses, rewards, gradient norms."""
import json
import random
import tempfile
from pathlib import Path

import attune
import models
import reference
import samples
import train_rows

PAIRS = 40
# Rewards are differences of sums of log-probabilities, which TRL adds in f32: their errors are absolute.
BOUND, NORM_BOUND, TOKENS_BOUND = 1e-5, 1e-4, 0
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


# name: shape, what makes a line, how the file has it, options
RUNS = {
    "DPO, full, strings": ("grouped heads, untied", strings, None, FULL),
    "DPO, full, conversations, no prompt, warm-up, decay": (
        "one key head, llama3 rope, tied", implicit_conversation, None, FULL | dict(warmup_ratio=0.2, weight_decay=0.1, beta=0.5)),
    "DPO, LoRA, strings, no prompt": ("tied, linear rope, head_dim 10, old dialect", implicit_strings, None, LORA),
    "DPO, LoRA, conversations with tools as OpenAI has them": ("grouped heads, untied", tool_conversation, as_openai_has_it, LORA | dict(beta=0.3)),
}

# ours: TRL's
REWARDS = {"rewards_chosen": "rewards/chosen", "rewards_rejected": "rewards/rejected", "reward_margin": "rewards/margins"}
LOGPS = {"logps_chosen": "logps/chosen", "logps_rejected": "logps/rejected"}
SHARES = {"reward_accuracy": "rewards/accuracies", "token_accuracy": "mean_token_accuracy"}


class Comparison:
    """One run and its reference, from the same lines and the same seed."""

    def __init__(self, scratch, name, seed):
        shape, make_line, reshape, options = RUNS[name]
        rng = random.Random(f"{seed} {name}")
        options = COMMON | options | {"seed": rng.randrange(1000)}
        scratch.mkdir()
        self.folder, self.data = models.make(scratch / "model", shape, seed), scratch / "lines.jsonl"
        lines = [make_line(rng) for _ in range(PAIRS)]
        self.data.write_text("".join(json.dumps(reshape(line) if reshape else line) + "\n" for line in lines))
        self.run = attune.Run(scratch / "out", self.folder, self.data, method="dpo", **options)
        model = models.load(self.folder).train()
        if options.get("lora"):
            model = train_rows.adapted(model, options)
        options = {name: value for name, value in options.items() if not name.startswith("lora")}
        self.trainer = reference.dpo_trainer(model, self.folder, lines, scratch / "trl", **options)
        self.pairs = [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in self.trainer.train_dataset]
        self.steps = reference.log_of(self.trainer)

    def count_differences(self):
        expected = [[(prompt + ids, [-100] * max(len(prompt), 1) + (ids if prompt else ids[1:])) for ids in both] for prompt, *both in self.pairs]
        ours = [[(line[name]["ids"], line[name]["labels"]) for name in ("chosen", "rejected")] for line in attune.shown_lines(self.folder, self.data)]
        return sum(mine != theirs for mine, theirs in zip(ours, expected, strict=True)), f"{PAIRS} pairs"

    def pairs_of(self, names):
        if len(self.run.steps) != len(self.steps):
            raise RuntimeError(f"{len(self.run.steps)} steps, the reference has {len(self.steps)}")
        return [(step[ours], other[theirs]) for step, other in zip(self.run.steps, self.steps) for ours, theirs in names.items()]

    def difference(self, names):
        return max(abs(ours - theirs) for ours, theirs in self.pairs_of(names)), f"{len(self.steps)} steps"

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
    table.measure(f"{name}: loss", BOUND, with_comparison, "difference", {"loss": "loss"})
    table.measure(f"{name}: rewards", BOUND, with_comparison, "difference", REWARDS)
    table.measure(f"{name}: log-probabilities, relative", BOUND, with_comparison, "relative", LOGPS)
    table.measure(f"{name}: accuracies", BOUND, with_comparison, "difference", SHARES)
    table.measure(f"{name}: gradient norm, relative", NORM_BOUND, with_comparison, "relative", {"grad_norm": "grad_norm"})


def measure(table, seed):
    table.heading("DPO, f32: largest difference over all steps, by TRL")
    with tempfile.TemporaryDirectory() as scratch:
        for number, name in enumerate(RUNS):
            measure_run(table, Path(scratch) / str(number), name, seed)
