#!/usr/bin/env python3
"""Seconds from the POST of a job to the start of its first optimizer step, against the Python stack on the same model
and data.

usage: first_step.py [--runs N] [--no-peer] [--only TEXT] [--out FILE.csv]

attune: a running server, a file that is uploaded, a LoRA job with packing; the `start` event's time is when the first
step begins, on the wall clock of this machine. "first" is a new server's first job, whose model and tokens nobody has
read; "warm" the jobs behind it, with the same file and with another one. The peer: a new Python process that imports
TRL, loads model, tokenizer and data and calls SFTTrainer.train, as such a job is run by hand or by a service that
starts a container; it ends when its first step begins. Files of both are in the page cache. Needs build/venv-parity
(make parity) for the peer.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import time

import material

STEP_WAIT_S = 60
PEER = '''
import sys, time
began, model, data = float(sys.argv[1]), sys.argv[2], sys.argv[3]
import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer
class First(TrainerCallback):
    def on_step_begin(self, args, state, control, **rest):
        print("first step after", time.time() - began, flush=True)
        import os; os._exit(0)
config = SFTConfig(output_dir=sys.argv[4], per_device_train_batch_size=1, max_length=512, packing=True, report_to=[],
                   use_cpu=True, bf16=True, save_strategy="no", learning_rate=1e-4, gradient_checkpointing=False)
SFTTrainer(model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16),
           processing_class=AutoTokenizer.from_pretrained(model), args=config,
           train_dataset=load_dataset("json", data_files=data, split="train", cache_dir=sys.argv[4]),
           peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
           callbacks=[First()]).train()
'''


def start_of(path):
    if not path.exists():
        return None
    for line in path.read_text().splitlines():
        if '"start"' in line and (event := json.loads(line))["kind"] == "start":
            return event["time"] / 1000
    return None


def job_seconds(server, model, file_id):
    begin = time.time()
    job = server.call("POST", "/fine_tuning/jobs", {"model": model, "training_file": file_id,
                                                    "hyperparameters": {"n_epochs": 1, "batch_size": 1,
                                                                        "context_length": 512, "learning_rate": 1e-4,
                                                                        "lora": True, "lora_r": 16, "lora_alpha": 32}})
    events = server.data / "runs" / job["id"] / "attempts/0001/events.jsonl"
    while (started := start_of(events)) is None and time.time() - begin < STEP_WAIT_S:
        time.sleep(0.005)
    if started is None:
        raise SystemExit(f"job {job['id']} did not start: {server.call('GET', '/fine_tuning/jobs/' + job['id'])}")
    server.call("POST", f"/fine_tuning/jobs/{job['id']}/cancel", {})
    while server.call("GET", f"/fine_tuning/jobs/{job['id']}")["status"] not in ("cancelled", "succeeded", "failed"):
        time.sleep(0.05)
    while not events.with_name("exit.json").exists():
        time.sleep(0.05)
    return started - begin


def write_lines(path, has_template, count):
    lines = material.chats(count)
    if not has_template:
        lines = [{"text": line["messages"][0]["content"]} for line in lines]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def measure(model, has_template, folder, runs):
    os.sync()  # the model was written a moment ago: its pages are not to stand in front of the job's
    server = material.Server(folder / "server", folder / "models")
    try:
        data = [folder / "server" / f"{i}.jsonl" for i in range(runs + 1)]
        for i, path in enumerate(data):
            write_lines(path, has_template, 200 + i)
        first_file = server.upload(data[0])["id"]
        first = job_seconds(server, model, first_file)
        same = [job_seconds(server, model, first_file) for _ in range(runs)]
        other = [job_seconds(server, model, server.upload(path)["id"]) for path in data[1:]]
    finally:
        server.close()
    return first, same, other


def peer_seconds(model, data, folder):
    script = folder / "peer.py"
    script.write_text(PEER)
    shutil.rmtree(folder / "peer", ignore_errors=True)
    got = subprocess.run([material.PEER, script, str(time.time()), model, data, folder / "peer"], capture_output=True,
                         text=True,
                         env={"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": str(folder),
                              "TOKENIZERS_PARALLELISM": "true"})
    found = [line for line in got.stdout.splitlines() if line.startswith("first step after")]
    if not found:
        raise SystemExit(got.stderr[-3000:])
    return float(found[0].split()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--out", type=material.pathlib.Path)
    options = parser.parse_args()
    folder = material.ROOT / "build/bench-first-step"
    shutil.rmtree(folder, ignore_errors=True)
    models = folder / "models/bench"
    models.mkdir(parents=True)
    material.make_model(models / "135M", "135M")
    stories = material.SHARED / "stories260K/hf"
    small = "stories260K" if stories.exists() else "world-3m"
    (models / small).symlink_to(stories if stories.exists() else material.WORLD)
    rows = []
    print(f"{material.processor()}; POST to the start of the first step, seconds: median (least to most)")
    for model in small, "135M":
        if options.only not in model:
            continue
        first, same, other = measure(f"bench/{model}", (models / model / "chat_template.jinja").exists(), folder,
                                     options.runs)
        row = {"model": model, "first_s": round(first, 3), "same_file_s": round(statistics.median(same), 3),
               "other_file_s": round(statistics.median(other), 3), "peer_s": "", "ratio": ""}
        if material.PEER.exists() and not options.no_peer and model == "135M":
            peer = statistics.median(peer_seconds(models / model, folder / "server/0.jsonl", folder) for _ in range(3))
            row.update(peer_s=round(peer, 2), ratio=round(peer / row["other_file_s"], 1))
        print(f"{model:12} first {first:.3f}   same file {row['same_file_s']:.3f} ({min(same):.3f} to {max(same):.3f}) "
              f"  another file {row['other_file_s']:.3f} "
              f"({min(other):.3f} to {max(other):.3f})   Python stack {row['peer_s'] or '-'}   ratio "
              f"{row['ratio'] or '-'}", flush=True)
        rows.append(row)
    material.record("first_step", rows, options.out)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
