#!/usr/bin/env python3
"""Training speed of two Llama shapes, full and LoRA, beside PyTorch + transformers + PEFT in the same run: `make
bench`.

usage: train.py [--shape 15M|135M] [--method full|lora] [--steps N] [--rounds N] [--no-peer]
                [--only-setting bf16 documents]
                [--under COMMAND] [--out FILE.csv]

Both train the same random weights on the same tokens in the same order: chats of GSM8K (of the demo's small world where
there is no ATTUNE_SHARED/data), packed to context 1024, two rows a step. Ours is `attune train` itself: what a user
gets, data and optimizer included. The peer runs bench/train_peer.py packed and padded, in each of its settings once,
and then in the fastest. Rounds take turns; told are medians over the steps behind the first, with loss and gradient
norm of a step beside them, and rows are appended to a CSV file in bench/results. Figures move with neighbours: compare
only what one run printed.

"GFLOP/token" is what the model's products and attention need, forward and backward: the head of supervised tokens
alone, attention of the pairs that see each other, no gradient of a frozen weight. "peak" is that work as a share of a
loop of bf16 multiply-adds on all cores, the best found before and after the rounds. It bounds the ratio: who is at 45 %
cannot be beaten by more than 2.2 times.
"""
import argparse
import csv
import datetime
import itertools
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM, PEER_PYTHON = ROOT / "build/attune", ROOT / "build/venv-parity/bin/python"
BASE = ROOT / "models/attune/world-3m"
SHARED = pathlib.Path(os.environ.get("ATTUNE_SHARED", ROOT / "../shared")) / "data"
SHAPES = {
    "15M": {"hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6,
            "num_key_value_heads": 6, "vocab_size": 32000},
    "135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "vocab_size": 49152},
}
CONTEXT, BATCH, RANK = 1024, 2, 16
LINE_TOKENS = {True: 190, False: 60}  # about, of GSM8K and of the small world
TEMPLATE = """{{- bos_token }}
{%- for message in messages %}
    {{- '\\n' + message['role'] + ': ' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}{{- message['content'] + eos_token }}{%- endgeneration %}
    {%- else %}
        {{- message['content'] }}
    {%- endif %}
{%- endfor %}
"""


def processor():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def measured(command, under=()):
    """Runs a command to its end: its standard output and the most memory it held, in MB."""
    process = subprocess.Popen([str(part) for part in [*under, *command]], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    out, log = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} {command[1]}: {log[-2000:]}")
    return out, round(usage.ru_maxrss / 1024)


def make_model(folder, shape, has_peer):
    tokenizer = SHARED / "tokenizers/llama2"
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy((tokenizer if tokenizer.is_dir() else BASE) / name, folder / name)
    if tokenizer.is_dir():
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    else:
        shutil.copy(BASE / "chat_template.jinja", folder)
    config = json.loads((BASE / "config.json").read_text())
    for name in ("head_dim", "bos_token_id", "eos_token_id", "pad_token_id"):
        config.pop(name)
    config.update(SHAPES[shape], max_position_embeddings=CONTEXT, tie_word_embeddings=True, initializer_range=0.02)
    (folder / "config.json").write_text(json.dumps(config))
    if has_peer:
        measured([PEER_PYTHON, ROOT / "bench/train_peer.py", "make", folder, folder])


def make_data(path, steps):
    gsm8k = SHARED / "gsm8k/train.jsonl"
    lines = steps * BATCH * CONTEXT // LINE_TOKENS[gsm8k.exists()]
    if not gsm8k.exists():
        subprocess.run([sys.executable, ROOT / "tools/corpus.py", "--lines", str(lines), "--seed", "3", "--out", path],
                       check=True, stdout=subprocess.DEVNULL)
        return
    problems = [json.loads(line) for line in gsm8k.read_text().split("\n")[:lines]]
    chats = [[("user", problem["question"]), ("assistant", problem["answer"])] for problem in problems]
    path.write_text("".join(json.dumps({"messages": [{"role": role, "content": content} for role, content in chat]})
                            + "\n" for chat in chats))


def documents(row):
    ends = [sum(row["lengths"][:i + 1]) for i in range(len(row["lengths"]))]
    return [{"ids": row["ids"][end - length:end], "labels": row["labels"][end - length:end]}
            for end, length in zip(ends, row["lengths"])]


def write_steps(folder):
    """The packed rows in the order in which we train on them, for the peer and for counting."""
    out, _ = measured([PROGRAM, "data", "rows", folder / "train.jsonl", "--model", folder / "model", "--epochs", 1,
                       "--seed", 1, "--context-length", CONTEXT])
    answers = [json.loads(line) for line in out.split("\n") if line]
    rows = {answer["row"]: documents(answer) for answer in answers if "row" in answer}
    order = next(answer["order"] for answer in answers if "epoch" in answer)
    steps = [[rows[i] for i in order[at:at + BATCH]] for at in range(0, len(order), BATCH)]
    (folder / "steps.json").write_text(json.dumps(steps))
    return steps


def token_gflop(shape, is_lora, steps):
    """Of the model's products and attention, for a token of these steps; an adapter's own products are left out."""
    size, lengths = SHAPES[shape], [len(document["ids"]) for step in steps for row in step for document in row]
    supervised = sum(label != -100 for step in steps for row in step for document in row
                     for label in document["labels"][1:])
    width, keys = size["hidden_size"], size["num_key_value_heads"] / size["num_attention_heads"]
    weights = size["num_hidden_layers"] * width * (2 * width + 2 * keys * width + 3 * size["intermediate_size"])
    products = (2 if is_lora else 3) * 2 * (weights * sum(lengths) + width * size["vocab_size"] * supervised)
    attention = 3 * 4 * size["num_hidden_layers"] * width * sum(length * (length + 1) / 2 for length in lengths)
    return (products + attention) * 1e-9 / sum(lengths)


def peak_gflops(under):
    """The loop of bf16 multiply-adds that `bench products` runs between its measurements."""
    out, _ = measured([PROGRAM, "bench", "products", "--tokens", 256, "--seconds", 0.1], under)
    return max(float(line.split()[-1]) for line in out.split("\n") if " x " in line and "%" in line)


def run_ours(folder, is_lora, init, under):
    shutil.rmtree(folder / "out", ignore_errors=True)
    lora = ["--lora", "--lora-r", RANK, "--lora-alpha", 2 * RANK] if is_lora else []
    _, memory = measured([PROGRAM, "train", "--model", folder / "model", "--init", init, "--train",
                          folder / "train.jsonl", "--context-length", CONTEXT,
                          "--batch-size", BATCH, "--n-epochs", 1, "--learning-rate", 1e-4, "--lr-scheduler-type",
                          "constant", "--seed", 1, "--out", folder / "out", *lora], under)
    events = [json.loads(line) for path in folder.glob("out/run/attempts/*/events.jsonl")
              for line in path.read_text().splitlines()]
    steps = [event for event in events if event["kind"] == "step"]
    return [{**step, "seconds": step["tokens"] / step["tokens_per_s"], "supervised": step["supervised_tokens"]}
            for step in steps], memory


def run_peer(folder, is_lora, kind, setting, under):
    lora = ["--lora", RANK] if is_lora else []
    out, memory = measured([PEER_PYTHON, ROOT / "bench/train_peer.py", "train", folder / "model", folder / "steps.json",
                            "--kind", kind,
                            "--precision", setting[0], "--attention", setting[1], *lora], under)
    return [json.loads(line) for line in out.split("\n") if line], memory


def summary(runs):
    """Of several runs of the same steps: medians, and the first step's loss and gradient norm."""
    told = [step for steps, _ in runs for step in (steps[1:] or steps) if step["tokens"] > CONTEXT * BATCH * 0.8
            or len(steps) < 3]
    first = runs[0][0][0]
    return {"tokens_per_s": round(statistics.median(step["tokens"] / step["seconds"] for step in told), 1),
            "supervised_per_s": round(statistics.median(step["supervised"] / step["seconds"] for step in told), 1),
            "loss": round(first["loss"], 4), "grad_norm": round(first["grad_norm"], 4),
            "peak_rss_mb": max(memory for _, memory in runs)}


def fastest(folder, is_lora, kind, options):
    """The peer's fastest setting, by a run of each, or the one that is asked for."""
    precisions, attentions = ["bf16"] if is_lora else ["autocast", "bf16"], ["documents",
                                                                             "mask"] if kind == "packed" else ["mask"]
    if options.only_setting:
        precisions, attentions = options.only_setting[:1], options.only_setting[1:] if kind == "packed" else attentions
    settings = itertools.product(precisions, attentions)
    runs = {setting: run_peer(folder, is_lora, kind, setting, options.under) for setting in settings}
    best = max(runs, key=lambda setting: summary([runs[setting]])["tokens_per_s"])
    return best, [runs[best]]


def compare(folder, shape, is_lora, options):
    has_peer = not options.no_peer
    shutil.rmtree(folder, ignore_errors=True)
    make_model(folder / "model", shape, has_peer)
    make_data(folder / "train.jsonl", options.steps)
    init = "model" if has_peer else "random"
    peak, gflop = peak_gflops(options.under), token_gflop(shape, is_lora, write_steps(folder))
    runs, setting = {"attune": [run_ours(folder, is_lora, init, options.under)]}, {"attune": ()}
    if has_peer:
        for kind in ("packed", "padded"):
            setting[kind], runs[kind] = fastest(folder, is_lora, kind, options)
    for _ in range(options.rounds - 1):
        runs["attune"].append(run_ours(folder, is_lora, init, options.under))
        for kind in [kind for kind in runs if kind != "attune"]:
            runs[kind].append(run_peer(folder, is_lora, kind, setting[kind], options.under))
    ours, peak = summary(runs["attune"])["tokens_per_s"], max(peak, peak_gflops(options.under))
    for who in runs:
        told = summary(runs[who])
        row = {"shape": shape, "method": f"lora r{RANK}" if is_lora else "full",
               "who": "attune" if who == "attune" else "pytorch",
               "setting": " ".join(["packed" if who == "attune" else who, *setting[who]]), **told}
        yield {**row, "ratio": "" if who == "attune" else round(ours / row["tokens_per_s"], 2),
               "gflop_per_token": round(gflop, 4),
               "peak_gflops": peak, "peak_share": round(told["tokens_per_s"] * gflop / peak, 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--method", choices=["full", "lora"], action="append")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peer", action="store_true", default=not PEER_PYTHON.exists())
    parser.add_argument("--only-setting", nargs=2, metavar=("PRECISION", "ATTENTION"),
                        help="the peer's, where an earlier run told the fastest")
    parser.add_argument("--under", type=str.split, default=[],
                        help="a command that runs what is measured, such as 'nice -n -10'")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench/results/train.csv")
    options = parser.parse_args()
    print(f"{processor()}, context {CONTEXT}, {BATCH} packed rows a step, random weights; ratio: ours over theirs")
    print(f"{'shape':6} {'method':9} {'who':8} {'setting':25} {'tokens/s':>9} {'supervised':>10} {'loss':>8} "
          f"{'grad norm':>10} {'peak MB':>8} {'ratio':>6} "
          f"{'GFLOP/token':>11} {'peak':>6}")
    for shape in options.shape or SHAPES:
        for method in options.method or ("full", "lora"):
            for row in compare(ROOT / "build/bench", shape, method == "lora", options):
                print(f"{row['shape']:6} {row['method']:9} {row['who']:8} {row['setting']:25} "
                      f"{row['tokens_per_s']:9.1f} {row['supervised_per_s']:10.1f} "
                      f"{row['loss']:8.4f} {row['grad_norm']:10.4f} {row['peak_rss_mb']:8} {row['ratio']:>6} "
                      f"{row['gflop_per_token']:11} {row['peak_share']:6.1%}", flush=True)
                is_new = not options.out.exists()
                with open(options.out, "a", newline="") as file:
                    writer = csv.DictWriter(file, ["date", "machine", *row])
                    if is_new:
                        writer.writeheader()
                    writer.writerow({"date": datetime.date.today().isoformat(), "machine": processor(), **row})


if __name__ == "__main__":
    main()
