#!/usr/bin/env python3
"""Tokenizing speed on one core, by tokenizer family, against Hugging Face's tokenizers on the same texts in the same
run.

usage: tokenizer.py [--runs N] [--only TEXT] [--no-peer] [--out FILE.csv]

Texts: GSM8K's questions and answers, English prose by the paragraph (Python's language reference), Alpaca's answers.
Both sides work on one thread and count processor time, so neighbours on the machine do not matter much; medians of N
runs over all texts. Ours gets each text by itself and tells spans; of theirs the faster of encode, text by text, and
encode_batch_fast, a thousand together and without spans, is taken. The ids of every text are compared: a difference
ends the bench. Set ATTUNE_SHARED to the folder that holds data/ for the Llama 3, Qwen and other tokenizers; the peer
needs build/venv-parity (make parity).
"""
import argparse
import array
import json
import pathlib
import subprocess
import sys

import material

PEER = '''
import json, statistics, sys, time, array
from tokenizers import Tokenizer
tokenizer, texts = Tokenizer.from_file(sys.argv[1]), [json.loads(line)["text"] for line in open(sys.argv[2])]
ids, runs = sys.argv[3], int(sys.argv[4])
def one_by_one():
    for text in texts:
        tokenizer.encode(text, add_special_tokens=False)
def in_batches():
    for i in range(0, len(texts), 1000):
        tokenizer.encode_batch_fast(texts[i:i + 1000], add_special_tokens=False)
def seconds(encode):
    begin = time.process_time()
    encode()
    return time.process_time() - begin
best = min(statistics.median(seconds(encode) for _ in range(runs)) for encode in (one_by_one, in_batches))
out = array.array("i")
for text in texts:
    out.extend(tokenizer.encode(text, add_special_tokens=False).ids + [-1])
open(ids, "wb").write(out.tobytes())
print(json.dumps({"seconds": best}))
'''


def compare(texts, ours, theirs):
    a, b = array.array("i", ours.read_bytes()), array.array("i", theirs.read_bytes())
    if a == b:
        return
    text = next(i for i in range(len(texts)) if split(a)[i] != split(b)[i])
    sys.exit(f"ids differ: {texts[text]!r}: {split(a)[text]} and {split(b)[text]}")


def split(ids):
    out = [[]]
    for i in ids:
        out.append([]) if i < 0 else out[-1].append(i)
    return out


def run(command, **rest):
    got = subprocess.run([str(part) for part in command], capture_output=True, text=True, **rest)
    if got.returncode:
        sys.exit(got.stderr[-2000:])
    return json.loads(got.stdout)


def measure(folder, name, tokenizer, text_name, texts, options):
    lines, ours, theirs = folder / f"{text_name}.jsonl", folder / "ours", folder / "theirs"
    lines.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))
    got = run([material.ATTUNE, "bench", "tokenize", "--tokenizer", tokenizer, "--runs", options.runs, "--ids", ours,
               lines])
    row = {"tokenizer": name, "text": text_name, "bytes": got["bytes"], "tokens": got["tokens"],
           "open_s": round(got["open_seconds"], 3),
           "first_mb_per_s": round(got["bytes"] / got["first_seconds"] / 1e6, 1),
           "mb_per_s": round(got["bytes"] / got["seconds"] / 1e6, 1), "peer_mb_per_s": "", "ratio": ""}
    if material.PEER.exists() and not options.no_peer:
        peer = run([material.PEER, "-c", PEER, tokenizer / "tokenizer.json", lines, theirs, min(options.runs, 3)],
                   env={"TOKENIZERS_PARALLELISM": "false"})
        compare(texts, ours, theirs)
        row.update(peer_mb_per_s=round(got["bytes"] / peer["seconds"] / 1e6, 2),
                   ratio=round(peer["seconds"] / got["seconds"], 1))
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="", help="tokenizers whose name has this in it")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    folder = material.ROOT / "build/bench-tokenize"
    folder.mkdir(parents=True, exist_ok=True)
    problems = material.gsm8k()
    texts = {"gsm8k": [problem[part] for problem in problems for part in ("question", "answer")],
             "prose": material.prose(), "alpaca": material.answers(),
             "world": [line["text"] for line in material.world_lines(20000)]}
    rows = []
    print(f"{material.processor()}; MB per second of processor time, one thread, and the ratio to tokenizers'")
    print(f"{'tokenizer':12} {'text':8} {'MB':>6} {'tokens':>9} {'open s':>7} {'first':>7} {'then':>7} {'theirs':>7} "
          f"{'ratio':>6}")
    for name, tokenizer in material.tokenizers():
        for text_name, list_of_texts in texts.items():
            if options.only not in name or not list_of_texts or (text_name == "world" and name != "world-3m"):
                continue
            row = measure(folder, name, tokenizer, text_name, list_of_texts, options)
            rows.append(row)
            print(f"{name:12} {text_name:8} {row['bytes'] / 1e6:6.1f} {row['tokens']:9} {row['open_s']:7.3f} "
                  f"{row['first_mb_per_s']:7.1f} {row['mb_per_s']:7.1f} "
                  f"{row['peer_mb_per_s'] or '-':>7} {row['ratio'] or '-':>6}", flush=True)
    material.record("tokenize", rows, options.out)


if __name__ == "__main__":
    main()
