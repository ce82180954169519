#!/usr/bin/env python3
"""A training file of 100 MB: upload to `processed`, then template, tokens, mask and packed rows, against the Python
stack in the same run.

usage: ingest.py [--megabytes N] [--peer-megabytes N] [--runs N] [--no-peer] [--only TEXT] [--out FILE.csv]

upload: one multipart POST from this process to a server on this machine, until the answer says `processed`: by then
every line is checked, the bytes are hashed and on the disk. prepare: `attune bench prepare`, from the file to packed
rows in a fresh cache, opening the tokenizer included, on all cores; it is what a job does between its start and its
model. The peer, on a part of the same file because of its pace: datasets reads the JSONL, transformers'
apply_chat_template with assistant mask on all cores (num_proc), TRL's pack_dataset; imports and the tokenizer's opening
are not counted. Both are given as MB of JSONL a second.
"""
import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

import material

PEER = '''
import os, sys, time
from datasets import load_dataset
from transformers import AutoTokenizer
from trl import pack_dataset
model, data, cache = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(model)
def encode(row):
    got = tokenizer.apply_chat_template(row["messages"], tokenize=True, return_dict=True,
                                        return_assistant_tokens_mask=True)
    return {"input_ids": got["input_ids"], "completion_mask": got["assistant_masks"]}
begin = time.time()
rows = load_dataset("json", data_files=data, split="train", cache_dir=cache)
rows = rows.map(encode, remove_columns=["messages"], num_proc=os.cpu_count())
packed = pack_dataset(rows, 1024, "bfd")
print("peer", time.time() - begin, len(packed))
'''


def write_data(path, megabytes):
    count = 0
    chats = material.chats(int(megabytes * 1700))
    with open(path, "w") as file:
        for chat in chats:
            count += file.write(json.dumps(chat, ensure_ascii=False) + "\n")
            if count >= megabytes * 1e6:
                return
    sys.exit(f"{path} came out at {count} bytes")


def upload_seconds(server, data):
    begin = time.monotonic()
    got = server.upload(data)
    if got["status"] != "processed":
        sys.exit(f"the file is {got}")
    return time.monotonic() - begin


def prepare(model, data, cache):
    shutil.rmtree(cache, ignore_errors=True)
    got = subprocess.run([material.ATTUNE, "bench", "prepare", "--model", model, "--cache", cache, data],
                         capture_output=True, text=True)
    if got.returncode:
        sys.exit(got.stderr)
    return json.loads(got.stdout)


def peer(model, data, cache):
    shutil.rmtree(cache, ignore_errors=True)
    got = subprocess.run([material.PEER, "-c", PEER, model, data, cache], capture_output=True, text=True,
                         env={"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": str(cache),
                              "TOKENIZERS_PARALLELISM": "false"})
    found = [line.split() for line in got.stdout.splitlines() if line.startswith("peer ")]
    if not found:
        sys.exit(got.stderr[-3000:])
    return float(found[0][1]), int(found[0][2])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--peer-megabytes", type=float, default=5)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="", help="tokenizers whose name has this in it")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    folder = material.ROOT / "build/bench-ingest"
    server = material.Server(folder, material.ROOT / "models")
    data, part = folder / "data.jsonl", folder / "part.jsonl"
    write_data(data, options.megabytes)
    write_data(part, options.peer_megabytes)
    size, part_size = data.stat().st_size, part.stat().st_size
    print(f"{material.processor()}; {size / 1e6:.0f} MB of JSONL; medians of {options.runs}")
    uploads = [upload_seconds(server, data) for _ in range(options.runs)]
    server.close()
    upload = statistics.median(uploads)
    print(f"upload to processed: {upload:.2f} s ({min(uploads):.2f} to {max(uploads):.2f}), {size / upload / 1e6:.0f} "
          "MB/s", flush=True)
    rows = []
    for name, tokenizer in material.tokenizers():
        if options.only not in name:
            continue
        material.make_text_model(folder / name, tokenizer)
        ours = sorted((prepare(folder / name, data, folder / "cache") for _ in range(options.runs)),
                      key=lambda got: got["seconds"])[options.runs // 2]
        row = {"tokenizer": name, "bytes": size, "upload_s": round(upload, 3), "prepare_s": round(ours["seconds"], 3),
               "processor_s": round(ours["processor_seconds"], 3), "threads": ours["threads"],
               "tokens": ours["tokens"], "rows": ours["rows"], "mb_per_s": round(size / ours["seconds"] / 1e6, 1),
               "peer_mb_per_s": "", "ratio": ""}
        if material.PEER.exists() and not options.no_peer:
            seconds, packed = peer(folder / name, part, folder / "peer")
            check = prepare(folder / name, part, folder / "cache")["rows"]
            if packed != check:
                sys.exit(f"{name}: {check} rows of the part, the peer makes {packed}")
            row.update(peer_mb_per_s=round(part_size / seconds / 1e6, 2),
                       ratio=round(size / ours["seconds"] * seconds / part_size, 1))
        rows.append(row)
        print(f"prepare with {name:12} {row['prepare_s']:6.2f} s, {row['processor_s']:.2f} s of processor time, "
              f"{row['tokens']} tokens in {row['rows']} rows, {row['mb_per_s']} MB/s; "
              f"theirs {row['peer_mb_per_s'] or '-'} MB/s, ratio {row['ratio'] or '-'}", flush=True)
    material.record("ingest", rows, options.out)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
