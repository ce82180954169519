#!/usr/bin/env python3
"""Processor time of a trainer whose job is told to a tracker that is away, against the same job without one.

Both of a pair run at once on one processor: the scheduler gives them turns of milliseconds, so what the machine's other
processors, their clock and the caches do meets both alike (one after the other, the same job twice differs by 5 %). On
one processor no thread waits for another in a loop, either. Pairs take turns at which job begins. Prints the median of
the ratios with its 95 % interval (order statistics, nothing assumed) and adds a row to bench/results/trackers.csv.

usage: bench/trackers.py [SECONDS]   pairs begin until then (45)"""
import csv
import datetime
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench/results/trackers.csv"
NOBODY = "http://127.0.0.1:9"  # the tracker: nobody listens there


def ask(url, path, body=None):
    content = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url + path, content, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=60))


def upload(url, path):
    body = (b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="t.jsonl"\r\n\r\n'
            + path.read_bytes() + b"\r\n--b--\r\n")
    request = urllib.request.Request(url + "/v1/files", body, {"Content-Type": "multipart/form-data; boundary=b"})
    return json.load(urllib.request.urlopen(request, timeout=60))["id"]


class Trainer:
    """Processor time of all threads of a job's trainer, in the scheduler's nanoseconds, as they were last seen."""

    def __init__(self, run):
        self.identity, self.tasks, self.threads, self.is_over = run / "attempts/0001/identity.json", None, {}, False

    def look(self):
        if not self.tasks and self.identity.exists():
            self.tasks = pathlib.Path(f"/proc/{json.loads(self.identity.read_text())['pid']}/task")
        try:
            for task in os.listdir(self.tasks) if self.tasks else ():
                self.threads[task] = int((self.tasks / task / "schedstat").read_text().split()[0])
        except OSError:
            self.is_over = not self.tasks.exists()


def processor_seconds(*runs):
    trainers = [Trainer(run) for run in runs]
    while not all(trainer.is_over for trainer in trainers):
        for trainer in trainers:
            trainer.look()
        time.sleep(0.002)
    return [sum(trainer.threads.values()) / 1e9 for trainer in trainers]


def interval(ratios):
    """Between which of the sorted ratios the median of all that could come lies, 95 times of a hundred; the widest
    where there are too few."""
    n, rank, outside = len(ratios), 0, 0.5 ** len(ratios)
    while outside + math.comb(n, rank + 1) * 0.5 ** n <= 0.025:
        rank += 1
        outside += math.comb(n, rank) * 0.5 ** n
    return sorted(ratios)[rank], sorted(ratios)[n - 1 - rank]


def start_server(data):
    """On the last processor, which its children inherit."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    server = subprocess.Popen([ROOT / "build/attune", "serve", "--data", data, "--models", ROOT / "models",
                               "--port", "0", "--no-auth", "--jobs", "2", "--nice", "0", "--outgoing",
                               f"internal:{NOBODY}"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return server, re.search(r"http://[\d.:]+", server.stdout.readline()).group(0)


def measure(seconds):
    with tempfile.TemporaryDirectory() as folder:
        data, alone, told = pathlib.Path(folder) / "data", [], []
        server, url = start_server(data)
        job = {"model": "attune/world-3m", "training_file": upload(url, ROOT / "demo/train.jsonl"),
               "hyperparameters": {"n_epochs": 1, "batch_size": 8, "context_length": 64}}
        more = {"integrations": [{"type": "mlflow", "mlflow": {"tracking_uri": NOBODY}}]}
        begun = time.monotonic()
        while len(alone) < 2 or time.monotonic() - begun < seconds:
            order = (alone, told) if len(alone) % 2 else (told, alone)
            made = [ask(url, "/v1/fine_tuning/jobs", {**job, **(more if which is told else {})}) for which in order]
            for which, spent in zip(order, processor_seconds(*(data / "runs" / each["id"] for each in made))):
                which.append(spent)
        server.terminate()
        server.wait()
    return alone[1:], told[1:]  # the first pair warms up


def main(seconds):
    alone, told = measure(seconds)
    ratios = [b / a for a, b in zip(alone, told)]
    low, high = interval(ratios)
    row = {"date": datetime.date.today().isoformat(), "cpus": os.cpu_count(), "pairs": len(ratios),
           "alone_s": f"{statistics.median(alone):.3f}", "told_s": f"{statistics.median(told):.3f}",
           "ratio_median": f"{statistics.median(ratios):.4f}", "ratio_low": f"{low:.4f}", "ratio_high": f"{high:.4f}"}
    print(", ".join(f"{name} {value}" for name, value in row.items()))
    is_new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 45)
