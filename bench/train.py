#!/usr/bin/env python3
"""Training speed of two Llama shapes with random weights, full and LoRA: `make bench`.

usage: train.py [--shape 15M|135M] [--steps N] [--out FILE.csv]

Each run is `attune train` itself on packed text of the demo's small world, context 1024: what a user gets, data and optimizer included. Prints
median tokens per second over the steps behind the first, with loss and gradient norm beside it, and appends rows to a CSV file in
bench/results with the machine and the date. Figures move with neighbours: compare only what one run printed.
"""
import argparse
import csv
import datetime
import json
import pathlib
import platform
import resource
import shutil
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BASE = ROOT / "models/attune/world-3m"
SHAPES = {
    "15M": {"hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6, "num_key_value_heads": 6, "vocab_size": 32000},
    "135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152},
}
CONTEXT, BATCH = 1024, 2


def processor():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def make_model(folder, shape):
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "special_tokens_map.json"):
        shutil.copy(BASE / name, folder / name)
    config = json.loads((BASE / "config.json").read_text())
    config.pop("head_dim", None)
    config.update(SHAPES[shape], max_position_embeddings=CONTEXT, tie_word_embeddings=True, initializer_range=0.02)
    (folder / "config.json").write_text(json.dumps(config))


def make_data(path, steps):
    """Enough lines for that many steps; a line of the small world has about 70 tokens."""
    lines = steps * BATCH * CONTEXT // 60
    subprocess.run([sys.executable, ROOT / "tools/corpus.py", "--lines", str(lines), "--seed", "3", "--out", path], check=True, stdout=subprocess.DEVNULL)


def run(shape, is_lora, steps, folder):
    shutil.rmtree(folder, ignore_errors=True)
    make_model(folder / "model", shape)
    make_data(folder / "train.jsonl", steps)
    lora = ["--lora", "--lora-r", "16", "--lora-alpha", "32"] if is_lora else []
    process = subprocess.Popen([ROOT / "build/attune", "train", "--model", folder / "model", "--init", "random", "--train", folder / "train.jsonl",
                                "--context-length", str(CONTEXT), "--batch-size", str(BATCH), "--n-epochs", "1", "--learning-rate", "1e-4", "--seed", "1",
                                "--out", folder / "out", *lora], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, log = process.communicate()
    if process.returncode:
        sys.exit(log.decode())
    events = [json.loads(line) for path in folder.glob("out/run/attempts/*/events.jsonl") for line in path.read_text().splitlines()]
    told = [e for e in events if e["kind"] == "step"]
    full = [e for e in told[1:] if e["tokens"] > CONTEXT * BATCH * 0.8] or told
    return {"shape": shape, "kind": "lora r16" if is_lora else "full", "steps": len(told), "tokens_per_s": round(statistics.median(e["tokens_per_s"] for e in full), 1),
            "loss": round(told[-1]["loss"], 4), "grad_norm": round(told[-1]["grad_norm"], 4),
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench/results/train-cpu.csv")
    options = parser.parse_args()
    rows = []
    print(f"{processor()}, context {CONTEXT} packed, {BATCH} rows a step, random weights")
    print(f"{'shape':6} {'kind':9} {'tokens/s':>9} {'loss':>8} {'grad norm':>10}  peak RSS (largest so far)")
    for shape in options.shape or SHAPES:
        for is_lora in (False, True):
            row = run(shape, is_lora, options.steps, ROOT / "build/bench")
            rows.append({"date": datetime.date.today().isoformat(), "machine": processor(), **row})
            print(f"{shape:6} {row['kind']:9} {row['tokens_per_s']:9.1f} {row['loss']:8.4f} {row['grad_norm']:10.4f}  {row['peak_rss_mb']} MB", flush=True)
    is_new = not options.out.exists()
    with open(options.out, "a", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
