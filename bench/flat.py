#!/usr/bin/env python3
"""Whether a token costs the same whatever the amount of data and whatever number of jobs came before.

usage: flat.py [--tokens N ...] [--jobs N] [--out FILE.csv]

data: files of 1,000 to 1,000,000 tokens (and 10,000,000 for the data path). Processor nanoseconds a token from file to
packed rows, without what a file of one line costs (opening the tokenizer, files and their syncs), and nanoseconds of
the steps that train on it, on one thread, with the stories260K shape. jobs: N small jobs one after the other on one
server; the server's processor time for each tenth of them, and the milliseconds from POST to the first step.
"""
import argparse
import json
import pathlib
import resource
import shutil
import statistics
import subprocess
import time

import first_step
import material

TOKENS = [1000, 10000, 100000, 1000000, 10000000]
CONTEXT, BATCH = 256, 1


def write_lines(path, lines, count):
    path.write_text("".join(lines[i % len(lines)] for i in range(count)))


def prepare_seconds(model, path, cache):
    """Processor seconds, tokens: the least of nine, so that neighbours count little."""
    best = None
    for _ in range(9):
        shutil.rmtree(cache, ignore_errors=True)
        got = json.loads(subprocess.run([material.ATTUNE, "bench", "prepare", "--model", model, "--cache", cache,
                                         "--context-length", str(CONTEXT), "--threads", "1", path],
                                        check=True, capture_output=True, text=True).stdout)
        best = got if not best or got["processor_seconds"] < best["processor_seconds"] else best
    return best["processor_seconds"], best["tokens"]


def train_seconds(model, path, folder):
    """Seconds of a run's steps, and the tokens that they trained."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([material.ATTUNE, "train", "--model", model, "--train", path, "--context-length", str(CONTEXT),
                    "--batch-size", str(BATCH), "--n-epochs", "1",
                    "--learning-rate", "1e-4", "--threads", "1", "--out", folder], check=True, capture_output=True)
    told = [json.loads(line) for path in folder.glob("run/attempts/*/events.jsonl")
            for line in path.read_text().splitlines()]
    steps = [event for event in told if event["kind"] == "step"]
    return sum(event["tokens"] / event["tokens_per_s"] for event in steps), sum(event["tokens"] for event in steps)


def measure_data(model, folder, sizes):
    lines = [json.dumps({"text": line["text"][:400]}) + "\n" for line in material.world_lines(20000)]
    write_lines(folder / "one.jsonl", lines, 1)
    write_lines(folder / "some.jsonl", lines, 1000)
    alone, _ = prepare_seconds(model, folder / "one.jsonl", folder / "cache")
    _, some = prepare_seconds(model, folder / "some.jsonl", folder / "cache")
    rows = []
    for tokens in sizes:
        path = folder / f"{tokens}.jsonl"
        write_lines(path, lines, max(2, round(tokens * 1000 / some)))
        seconds, counted = prepare_seconds(model, path, folder / "cache")
        repeats = 7 if tokens <= 10000 else 1
        trained, run = None, None
        if tokens <= 1000000:
            trained, run = min(train_seconds(model, path, folder / "out") for _ in range(repeats))
        rows.append({"what": "data", "tokens": counted, "prepare_ms": round(seconds * 1e3, 1),
                     "prepare_ns_per_token": round((seconds - alone) / counted * 1e9),
                     "train_ns_per_token": round(trained / run * 1e9) if run else "",
                     "jobs_done": "", "server_ms_per_job": "", "first_step_ms": ""})
        print(f"{counted:9} tokens: to rows {seconds * 1e3:7.1f} ms, {rows[-1]['prepare_ns_per_token']:4} ns a token "
              f"beyond the first line's {alone * 1e3:.1f} ms; {rows[-1]['train_ns_per_token'] or '-':>6} ns a token to "
              "train", flush=True)
    return rows


def processor_ms(pid):
    return sum(int(path.read_text().split()[0]) for path in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e6


def run_job(server, file_id):
    begin = time.time()
    job = server.call("POST", "/fine_tuning/jobs", {"model": "bench/small", "training_file": file_id,
                                                    "hyperparameters": {"n_epochs": 1, "learning_rate": 1e-4,
                                                                        "context_length": CONTEXT}})
    while (got := server.call("GET", f"/fine_tuning/jobs/{job['id']}")["status"]) not in ("succeeded", "failed"):
        time.sleep(0.02)
    if got != "succeeded":
        raise SystemExit(f"job {job['id']} {got}")
    return (first_step.start_of(server.data / "runs" / job["id"] / "attempts/0001/events.jsonl") - begin) * 1000


def measure_jobs(folder, models, count):
    server, rows = material.Server(folder / "server", models), []
    path = folder / "job.jsonl"
    write_lines(path, [json.dumps({"text": line["text"][:400]}) + "\n" for line in material.world_lines(200)], 20)
    file_id, tenth = server.upload(path)["id"], max(count // 10, 1)
    try:
        run_job(server, file_id)
        for part in range(10):
            used = processor_ms(server.process.pid)
            waits = [run_job(server, file_id) for _ in range(tenth)]
            rows.append({"what": "jobs", "tokens": "", "prepare_ms": "", "prepare_ns_per_token": "",
                         "train_ns_per_token": "", "jobs_done": part * tenth + 1,
                         "server_ms_per_job": round((processor_ms(server.process.pid) - used) / tenth, 1),
                         "first_step_ms": round(statistics.median(waits))})
            print(f"{rows[-1]['jobs_done']:5} jobs done: {rows[-1]['server_ms_per_job']:6} ms of the server's "
                  f"processor time a job, first step {rows[-1]['first_step_ms']} ms after the POST", flush=True)
    finally:
        server.close()
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="*", default=TOKENS)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    folder = material.ROOT / "build/bench-flat"
    shutil.rmtree(folder, ignore_errors=True)
    stories, models = material.SHARED / "stories260K/hf", folder / "models/bench"
    models.mkdir(parents=True)
    (models / "small").symlink_to(stories if stories.exists() else material.WORLD)
    print(material.processor())
    rows = measure_data(models / "small", folder, options.tokens) if options.tokens else []
    if options.jobs:
        rows += measure_jobs(folder, folder / "models", options.jobs)
    material.record("flat", rows, options.out)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
