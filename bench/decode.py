#!/usr/bin/env python3
"""Replies per second beside transformers' generate, on one shape with random weights: `make bench`.

usage: decode.py [--shape 15M|135M] [--prompt N] [--reply N] [--seconds S] [--no-peer] [--out FILE.csv]

`attune bench decode` gives tokens per second for 1, 8 and 32 replies at once, the share of a read loop's speed that one reply's
reading of the weights reaches, and the share of the peak loop that prompts reach, both loops alternating with what they measure. The peer
runs behind it on the same cores: generate of the same shape, the same numbers of prompt and reply tokens, greedy, SDPA attention, in
bf16 and in f32; the better one counts. Rows go to bench/results with machine and date.
"""
import argparse
import csv
import datetime
import json
import pathlib
import shutil
import subprocess
import sys

import train

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEER = ROOT / "build/venv-parity/bin/python"
COUNTS = (1, 8, 32)
PEER_PROGRAM = """
import json, sys, time, torch, transformers
folder, prompt, reply, counts = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
config = transformers.AutoConfig.from_pretrained(folder)
for name in ("bfloat16", "float32"):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, name), attn_implementation="sdpa").eval()
    model.generation_config.eos_token_id = None
    for count in counts:
        ids = torch.randint(0, config.vocab_size, (count, prompt))
        def run(tokens):
            begin = time.perf_counter()
            with torch.inference_mode():
                model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)
            return time.perf_counter() - begin
        run(2)
        first, whole = min(run(1) for _ in range(2)), min(run(reply) for _ in range(2))
        print(json.dumps({"dtype": name, "sequences": count, "tokens_per_s": count * (reply - 1) / (whole - first), "prompt_per_s": count * prompt / first}), flush=True)
"""


def ours(folder, options):
    rows = {}
    for count in COUNTS:
        text = subprocess.run([ROOT / "build/attune", "bench", "decode", "--model", folder, "--sequences", str(count), "--prompt", str(options.prompt),
                               "--reply", str(options.reply), "--seconds", str(options.seconds)], check=True, capture_output=True, text=True).stdout
        values = text.splitlines()[-1].replace("%", "").split()
        rows[count] = dict(zip(("tokens_per_s", "gb_per_s", "read_gb_per_s", "share_of_read", "prompt_per_s", "share_of_peak"), map(float, values[1:])))
    return rows


def peer(folder, options):
    text = subprocess.run([PEER, "-c", PEER_PROGRAM, folder, str(options.prompt), str(options.reply), json.dumps(COUNTS)], check=True, capture_output=True,
                          text=True).stdout
    best = {}
    for row in map(json.loads, text.splitlines()):
        if row["tokens_per_s"] > best.get(row["sequences"], {"tokens_per_s": 0})["tokens_per_s"]:
            best[row["sequences"]] = row
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=train.SHAPES, default="135M")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--reply", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench/results/decode-cpu.csv")
    options = parser.parse_args()
    folder = ROOT / "build/bench-decode"
    shutil.rmtree(folder, ignore_errors=True)
    train.make_model(folder, options.shape)
    has_peer = PEER.exists() and not options.no_peer
    mine, theirs = ours(folder, options), peer(folder, options) if has_peer else {}
    print(f"{train.processor()}, {options.shape}, prompts of {options.prompt} tokens, replies of {options.reply}, random weights")
    print(f"{'at once':>7} {'tokens/s':>9} {'of read':>8} {'prompt/s':>9} {'of peak':>8} {'peer':>9} {'':8} {'ratio':>6}")
    rows = []
    for count in COUNTS:
        row = {"date": datetime.date.today().isoformat(), "machine": train.processor(), "shape": options.shape, "sequences": count, **mine[count]}
        other = theirs.get(count)
        row |= {"peer_tokens_per_s": round(other["tokens_per_s"], 1), "peer_dtype": other["dtype"]} if other else {"peer_tokens_per_s": "", "peer_dtype": ""}
        row["ratio"] = round(row["tokens_per_s"] / other["tokens_per_s"], 2) if other else ""
        rows.append(row)
        print(f"{count:7} {row['tokens_per_s']:9.1f} {row['share_of_read']:7.0f}% {row['prompt_per_s']:9.1f} {row['share_of_peak']:7.0f}% "
              f"{row['peer_tokens_per_s']:>9} {row['peer_dtype']:8} {row['ratio']:>6}")
    is_new = not options.out.exists()
    with open(options.out, "a", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
