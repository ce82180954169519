#!/usr/bin/env python3
"""Processor time of a trainer whose job is told to a tracker that is away, against the same job without one: pairs of runs on one server.

usage: bench/trackers.py [PAIRS]"""
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

TICKS = os.sysconf("SC_CLK_TCK")
ROOT = pathlib.Path(__file__).resolve().parents[1]


def ask(url, path, body=None):
    request = urllib.request.Request(url + path, json.dumps(body).encode() if body else None, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=60))


def upload(url, path):
    body = (f'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="t.jsonl"\r\n\r\n').encode()
    request = urllib.request.Request(url + "/v1/files", body + path.read_bytes() + b"\r\n--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"})
    return json.load(urllib.request.urlopen(request, timeout=60))["id"]


def processor_seconds(run):
    """Of the trainer, as the kernel last said before it was gone."""
    identity, seconds = run / "attempts/0001/identity.json", 0
    while not identity.exists():
        time.sleep(0.01)
    pid = json.loads(identity.read_text())["pid"]
    try:
        while True:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds = max(seconds, (int(fields[11]) + int(fields[12])) / TICKS)
            time.sleep(0.01)
    except OSError:
        return seconds


def main(pairs):
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "data"
        server = subprocess.Popen([ROOT / "build/attune" if (ROOT / "build/attune").exists() else ROOT / "build/release/attune", "serve", "--data", data, "--models", ROOT / "models",
                                   "--port", "0", "--no-auth", "--outgoing", "internal:http://127.0.0.1:9"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        url = server.stdout.readline().split()[-1].rstrip("/")
        url = url if url.startswith("http") else "http" + server.stdout.readline().split("http", 1)[1].split()[0]
        file, ratios = upload(url, ROOT / "demo/train.jsonl"), []
        job = {"model": "attune/world-3m", "training_file": file, "hyperparameters": {"n_epochs": 2, "batch_size": 8, "context_length": 64}}
        told = {"integrations": [{"type": "mlflow", "mlflow": {"tracking_uri": "http://127.0.0.1:9"}}]}
        for pair in range(pairs + 1):
            figures = {}
            for which in ("alone", "told") if pair % 2 else ("told", "alone"):
                made = ask(url, "/v1/fine_tuning/jobs", {**job, **(told if which == "told" else {})})
                figures[which] = processor_seconds(data / "runs" / made["id"])
            if pair:  # the first warms up
                ratios.append(figures["told"] / figures["alone"])
                print(f"pair {pair}: alone {figures['alone']:.2f} s, told {figures['told']:.2f} s, ratio {ratios[-1]:.4f}")
        server.terminate()
        server.wait()
        print(f"median of {pairs} pairs: {statistics.median(ratios):.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
