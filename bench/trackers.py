#!/usr/bin/env python3
"""Processor time of a trainer whose job is told to a tracker that is away, against the same job without one: pairs of runs on one server, in turn first and
second. On one processor, where no thread waits for another in a loop. Prints the median of their ratios with its 95 % interval (order statistics, nothing assumed) and adds a row to bench/results/trackers.csv.

usage: bench/trackers.py [SECONDS]   pairs begin until then (45)"""
import csv
import datetime
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench/results/trackers.csv"


def ask(url, path, body=None):
    request = urllib.request.Request(url + path, json.dumps(body).encode() if body else None, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=60))


def upload(url, path):
    body = (f'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="t.jsonl"\r\n\r\n').encode()
    request = urllib.request.Request(url + "/v1/files", body + path.read_bytes() + b"\r\n--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"})
    return json.load(urllib.request.urlopen(request, timeout=60))["id"]


def processor_seconds(run):
    """Of all threads of the trainer, in the scheduler's nanoseconds, as they were last seen."""
    identity, threads = run / "attempts/0001/identity.json", {}
    while not identity.exists():
        time.sleep(0.005)
    tasks = pathlib.Path(f"/proc/{json.loads(identity.read_text())['pid']}/task")
    while True:
        try:
            for task in os.listdir(tasks):
                threads[task] = int((tasks / task / "schedstat").read_text().split()[0])
        except OSError:
            if not tasks.exists():
                return sum(threads.values()) / 1e9
        time.sleep(0.005)


def interval(ratios):
    """Between which of the sorted ratios the median of all that could come lies, 95 times of a hundred; the widest there is where there are too few."""
    n, rank, outside = len(ratios), 0, 0.5 ** len(ratios)
    while outside + math.comb(n, rank + 1) * 0.5 ** n <= 0.025:
        rank += 1
        outside += math.comb(n, rank) * 0.5 ** n
    return sorted(ratios)[rank], sorted(ratios)[n - 1 - rank]


def measure(seconds):
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "data"
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        server = subprocess.Popen([ROOT / "build/attune" if (ROOT / "build/attune").exists() else ROOT / "build/release/attune", "serve", "--data", data, "--models", ROOT / "models",
                                   "--port", "0", "--no-auth", "--outgoing", "internal:http://127.0.0.1:9"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        url = server.stdout.readline().split()[-1].rstrip("/")
        url = url if url.startswith("http") else "http" + server.stdout.readline().split("http", 1)[1].split()[0]
        file, alone, told = upload(url, ROOT / "demo/train.jsonl"), [], []
        job = {"model": "attune/world-3m", "training_file": file, "hyperparameters": {"n_epochs": 1, "batch_size": 8, "context_length": 64}}
        integrations = {"integrations": [{"type": "mlflow", "mlflow": {"tracking_uri": "http://127.0.0.1:9"}}]}
        begun = time.monotonic()
        while len(alone) < 2 or time.monotonic() - begun < seconds:
            for which in (alone, told) if len(alone) % 2 else (told, alone):
                made = ask(url, "/v1/fine_tuning/jobs", {**job, **(integrations if which is told else {})})
                which.append(processor_seconds(data / "runs" / made["id"]))
        server.terminate()
        server.wait()
    return alone[1:], told[1:]  # the first pair warms up


def main(seconds):
    alone, told = measure(seconds)
    ratios = [b / a for a, b in zip(alone, told)]
    low, high = interval(ratios)
    row = {"date": datetime.date.today().isoformat(), "cpus": os.cpu_count(), "pairs": len(ratios), "alone_s": f"{statistics.median(alone):.3f}",
           "told_s": f"{statistics.median(told):.3f}", "ratio_median": f"{statistics.median(ratios):.4f}", "ratio_low": f"{low:.4f}", "ratio_high": f"{high:.4f}"}
    print(", ".join(f"{name} {value}" for name, value in row.items()))
    is_new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 45)
