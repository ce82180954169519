#!/usr/bin/env python3
"""Tiny models of every family on a device and on the processor: 100 steps each, losses within 5e-3; a run that is stopped goes on to the same losses; and runs
in few bytes a parameter and over weights of four bits.

usage: curves.py --attune PROGRAM [--device cuda] [--work DIR] [--steps N] [--only FAMILY] [--csv FILE] [--budget SECONDS] [--jobs N]

Each family is a row of the CSV as soon as it is known; families for which no time is left are named and count as failed.
"""
import argparse
import concurrent.futures
import csv
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

TABLE = threading.Lock()
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BASE = ROOT / "models/attune/world-3m"
SIZES = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=4096,
             max_position_embeddings=256, initializer_range=0.05, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=None)
FAMILIES = {
    "llama": {},
    "mistral": dict(sliding_window=40),
    "qwen2": dict(tie_word_embeddings=True),
    "qwen3": dict(tie_word_embeddings=True),
    "smollm3": dict(no_rope_layers=[1, 0], tie_word_embeddings=True),
    "phi3": dict(partial_rotary_factor=0.5, original_max_position_embeddings=256),
    "olmo2": {},
    "olmo3": dict(sliding_window=40, layer_types=["sliding_attention", "full_attention"]),
    "gemma": dict(hidden_activation="gelu_pytorch_tanh"),
    "gemma2": dict(query_pre_attn_scalar=16, sliding_window=40, attn_logit_softcapping=50.0, final_logit_softcapping=30.0),
    "gemma3_text": dict(query_pre_attn_scalar=16, sliding_window=40, sliding_window_pattern=2, rope_theta=1000000.0, rope_local_base_freq=10000.0),
    "mixtral": dict(num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48, norm_topk_prob=True),
    "gpt_oss": dict(num_local_experts=4, num_experts_per_tok=2, sliding_window=40, swiglu_limit=7.0),
}


def make_model(folder, family):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "special_tokens_map.json"):
        shutil.copy(BASE / name, folder / name)
    config = dict(SIZES, model_type=family, torch_dtype="float32", **FAMILIES[family])
    config["vocab_size"] = json.loads((BASE / "config.json").read_text())["vocab_size"]
    (folder / "config.json").write_text(json.dumps(config))
    return config["vocab_size"]


def make_data(path, vocab, steps):
    draw = random.Random(5)
    path.write_text("".join(json.dumps({"token_ids": [min(vocab - 1, 3 + int(draw.paretovariate(1.0))) for _ in range(draw.randint(20, 120))]}) + "\n"
                            for _ in range(steps * 4)))


def command(o, folder, device, out, *more):
    return [o.attune, "train", "--device", device, "--dtype", "float32", "--init", "random", "--model", folder / "model", "--train", folder / "train.jsonl",
            "--batch-size", "4", "--no-packing", "--n-epochs", "1", "--learning-rate", "1e-3", "--context-length", "128", "--seed", "3", "--threads", "4",
            "--out", out, *more]


def losses_of(out):
    seen = {}
    for path in sorted(out.glob("run/attempts/*/events.jsonl")):
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if event["kind"] == "step":
                seen[event["step"]] = event["loss"]
    return [seen[step] for step in sorted(seen)]


def resumed_from(out):
    """The step behind which the second attempt went on."""
    events = [json.loads(line) for line in (out / "run/attempts/0002/events.jsonl").read_text().splitlines()]
    return next(event["resumed_from_step"] for event in events if event["kind"] == "start")


def train(o, folder, device, out, *more):
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run(command(o, folder, device, out, *more), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{device} {folder.name}: {done.stderr.strip()[-400:]}")
    return losses_of(out)


def tell(o, name, steps, first, last, want, worst, ok, note=""):
    with TABLE:
        print(f"{name:12} {steps} steps, loss {first:.4f} to {last:.4f}, expected {want:.4f}, off by at most {worst:.1e}  {'ok' if ok else 'FAIL'} {note}", flush=True)
        if o.csv:
            is_new = not o.csv.exists()
            with open(o.csv, "a", newline="") as file:
                writer = csv.writer(file)
                if is_new:
                    writer.writerow(["family", "steps", "first_loss", "last_loss", "expected_last_loss", "largest_relative_difference", "ok", "note"])
                writer.writerow([name, steps, first, last, want, worst, int(ok), note])
    return ok


def train_both(o, folder, name, *more):
    """Losses on the device and on the processor, at the same time if there are jobs to spare."""
    if o.jobs == 1:
        return train(o, folder, o.device, folder / f"device{name}", *more), train(o, folder, "cpu", folder / f"cpu{name}", *more)
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        want = other.submit(train, o, folder, "cpu", folder / f"cpu{name}", *more)
        got = train(o, folder, o.device, folder / f"device{name}", *more)
        return got, want.result()


def compare(o, family):
    folder = o.work / family
    vocab = make_model(folder / "model", family)
    make_data(folder / "train.jsonl", vocab, o.steps)
    got, want = train_both(o, folder, "")
    worst = max(abs(a / b - 1) for a, b in zip(got, want))
    return tell(o, family, len(got), got[0], got[-1], want[-1], worst, len(got) == len(want) == o.steps and worst <= 5e-3)


def compare_short(o, optim):
    """A run in few bytes a parameter: the same random bits on both sides, but bf16 products, whose sums differ; losses within 5e-2."""
    folder = o.work / "llama"
    more = ("--dtype", "bfloat16", "--optim", optim)
    got, want = train_both(o, folder, f"-{optim}", *more)
    worst = max(abs(a / b - 1) for a, b in zip(got, want))
    return tell(o, optim, len(got), got[0], got[-1], want[-1], worst, len(got) == len(want) == o.steps and worst <= 5e-2)


def compare_nf4(o):
    """LoRA over the weights of a trained model as codes of four bits."""
    folder = o.work / "nf4"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(BASE, folder / "model")
    make_data(folder / "train.jsonl", json.loads((BASE / "config.json").read_text())["vocab_size"], o.steps)
    more = ("--init", "model", "--lora", "--quantization", "nf4")
    got, want = train_both(o, folder, "", *more)
    worst = max(abs(a / b - 1) for a, b in zip(got, want))
    return tell(o, "nf4", len(got), got[0], got[-1], want[-1], worst, len(got) == len(want) == o.steps and worst <= 5e-3)


def resume(o, name, how):
    """SIGTERM has the trainer write a recovery point, SIGKILL leaves what it wrote beside its steps; the next attempt goes on from there."""
    folder = o.work / "llama"
    more = ("--lora", "--lora-dropout", "0.1", "--recovery-steps", "5")
    whole = train(o, folder, o.device, folder / f"whole-{name}", *more)
    out = folder / name
    shutil.rmtree(out, ignore_errors=True)
    process = subprocess.Popen(command(o, folder, o.device, out, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    def is_far_enough():
        has_point = any(not path.name.endswith(".tmp") for path in out.glob("run/attempts/0001/recovery/step-*"))
        return len(losses_of(out)) >= o.steps // 3 and (how == signal.SIGTERM or has_point)

    while process.poll() is None and not is_far_enough():
        time.sleep(0.02)
    process.send_signal(how)
    process.wait()
    first = len(losses_of(out))
    done = subprocess.run(command(o, folder, o.device, out, *more), capture_output=True, text=True)
    both = losses_of(out)
    ok = done.returncode == 0 and both == whole and 0 < first < o.steps and bool(resumed_from(out))
    worst = max(abs(a / b - 1) for a, b in zip(both, whole))
    return tell(o, name, len(both), both[0], both[-1], whole[-1], worst, ok, f"stopped behind step {first} {done.stderr[-300:] if done.returncode else ''}")


def attempt(o, name, run):
    """A family that fails leaves the others their turn."""
    if time.monotonic() > o.until:
        return tell(o, name, 0, 0, 0, 0, 0, False, "no time was left")
    try:
        return run()
    except (RuntimeError, OSError, IndexError) as problem:
        return tell(o, name, 0, 0, 0, 0, 0, False, str(problem).replace("\n", " "))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attune", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/curves")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", choices=FAMILIES)
    parser.add_argument("--csv", type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=1, help="families at once")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds behind which no family begins")
    o = parser.parse_args()
    o.attune = str(pathlib.Path(o.attune).resolve())
    o.until = time.monotonic() + o.budget
    turns = [(family, lambda family=family: compare(o, family)) for family in ([o.only] if o.only else FAMILIES)]
    turns.append(("nf4", lambda: compare_nf4(o)))
    of_llama = [("resumed", lambda: resume(o, "resumed", signal.SIGTERM)), ("killed", lambda: resume(o, "killed", signal.SIGKILL))] + [(optim, lambda optim=optim: compare_short(o, optim)) for optim in ("adamw_bf16", "adamw_8bit")]
    if o.only and o.only != "llama":
        turns, of_llama = turns[:1], []
    with concurrent.futures.ThreadPoolExecutor(o.jobs) as pool:
        results = list(pool.map(lambda turn: attempt(o, *turn), turns))
        results += pool.map(lambda turn: attempt(o, *turn), of_llama)  # they take its folder
    print(f"curves: {sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
