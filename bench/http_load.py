#!/usr/bin/env python3
"""Latency of job GETs at a constant rate, alone and beside a training job and a 2 GB upload: `make bench-http`.

usage: http_load.py [--only TEXT] [--seconds S] [--out FILE.csv]

Starts a server with API keys on a fresh data folder, fine-tunes the bundled model in it, and asks for that job with
build/load: an open loop, whose latencies count from the moment a request was due. While "beside" rows run, the job
trains (a trainer has nice 10) and a client uploads a training file of 2 GB, again and again. Prints percentiles and the
processor time that the server used for a request, and appends rows to a CSV file in bench/results with the machine and
the date. Server, load and upload share the machine: figures move with neighbours.
"""
import argparse
import csv
import datetime
import http.client
import json
import multiprocessing
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build/release"
MODEL = "attune/world-3m"
UPLOAD_BYTES = 2 << 30
# name, requests a second, with a job and an upload beside it
RUNS = [("alone", 2000, False), ("alone", 20000, False), ("beside training and upload", 2000, True)]


def processor():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return f"{line.split(':')[1].strip()}, {len(os.sched_getaffinity(0))} cores"
    return "unknown"


class Server:
    def __init__(self, folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.data = folder / "data"
        self.process = subprocess.Popen([BUILD / "attune", "serve", "--port", "0", "--data", self.data, "--models",
                                         ROOT / "models"],
                                        stdout=subprocess.PIPE, stderr=open(folder / "server.log", "w"), text=True)
        found = re.search(r"http://127.0.0.1:(\d+)", self.process.stdout.readline())
        if not found:
            sys.exit(f"the server did not start: {(folder / 'server.log').read_text()}")
        self.port = int(found.group(1))
        self.key = (self.data / "first-key").read_text().strip()

    def call(self, method, path, body=None, content_type="application/json"):
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": content_type}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1{path}", body, headers, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def form(name):
    begin = (f"--frontier\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n"
             f"--frontier\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n").encode()
    return begin, b"\r\n--frontier--\r\n"


def create_job(server, copies):
    begin, end = form("train.jsonl")
    body = begin + (ROOT / "demo/train.jsonl").read_bytes() * copies + end
    file = server.call("POST", "/files", body, "multipart/form-data; boundary=frontier")
    return server.call("POST", "/fine_tuning/jobs", {"model": MODEL, "training_file": file["id"], "seed": 1,
                                                     "hyperparameters": {"n_epochs": 1, "batch_size": 8,
                                                                         "context_length": 128, "packing": False}})


def upload_for_ever(port, key, done):
    """One training file of 2 GB after the other; each is deleted again."""
    begin, end = form("large.jsonl")
    text = (ROOT / "demo/train.jsonl").read_bytes()
    piece = text * ((4 << 20) // len(text))
    count = UPLOAD_BYTES // len(piece)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "multipart/form-data; boundary=frontier",
               "Content-Length": str(len(begin) + count * len(piece) + len(end))}
    while True:
        start = time.time()
        connection = http.client.HTTPConnection("127.0.0.1", port)
        parts = (begin if i == 0 else end if i > count else piece for i in range(count + 2))
        connection.request("POST", "/v1/files", parts, headers)
        file = json.load(connection.getresponse())
        assert file.get("status") == "processed" and file["bytes"] == count * len(piece), file
        done.put(time.time() - start)
        connection.request("DELETE", f"/v1/files/{file['id']}", headers={"Authorization": f"Bearer {key}"})
        connection.getresponse().read()


def wait_for_steps(server, job):
    for _ in range(600):
        if server.call("GET", f"/fine_tuning/jobs/{job}")["trained_steps"]:
            return
        time.sleep(0.1)
    sys.exit("the job does not train")


def load(server, job, rate, seconds):
    cpu = server.cpu_seconds()
    run = subprocess.run([BUILD / "load", "--port", str(server.port), "--key", server.key, "--path",
                          f"/v1/fine_tuning/jobs/{job}", "--expect", job,
                          "--rate", str(rate), "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True)
    row = json.loads(run.stdout)
    if run.returncode:
        print(f"wrong or missing answers: {row}")
    row["cpu_us"] = round((server.cpu_seconds() - cpu) / row["requests"] * 1e6, 1)
    return row, run.returncode == 0


def measure(server, job, rate, is_beside, seconds):
    if not is_beside:
        return load(server, job, rate, seconds)
    done = multiprocessing.Queue()
    uploader = multiprocessing.Process(target=upload_for_ever, args=(server.port, server.key, done), daemon=True)
    uploader.start()
    time.sleep(0.5)
    steps = server.call("GET", f"/fine_tuning/jobs/{job}")["trained_steps"]
    row, ok = load(server, job, rate, seconds)
    row["steps"] = server.call("GET", f"/fine_tuning/jobs/{job}")["trained_steps"] - steps
    assert uploader.is_alive() and row["steps"] > 0
    row["upload_s"] = round(done.get(timeout=120), 1)
    uploader.terminate()
    uploader.join()
    return row, ok


def run_all(options):
    rows, all_ok = [], True
    print(f"{processor()}\n{'':27} {'GET/s':>6} {'p50':>8} {'p90':>8} {'p99':>8} {'p99.9':>8} {'max ms':>8}  server "
          "us/GET")
    for is_beside in (False, True):
        server = Server(ROOT / "build/bench-http")
        try:
            job = create_job(server, 100 if is_beside else 1)["id"]
            wait_for_steps(server, job)
            if not is_beside:
                while server.call("GET", f"/fine_tuning/jobs/{job}")["status"] != "succeeded":
                    time.sleep(0.2)
            for name, rate, beside in RUNS:
                if beside != is_beside or options.only not in f"{name} {rate}":
                    continue
                row, ok = measure(server, job, rate, beside, options.seconds)
                all_ok = all_ok and ok
                rows.append({"date": datetime.date.today().isoformat(), "machine": processor(), "run": name, **row})
                print(f"{name:27} {rate:6} {row['p50_ms']:8.3f} {row['p90_ms']:8.3f} {row['p99_ms']:8.3f} "
                      f"{row['p999_ms']:8.3f} {row['max_ms']:8.3f}"
                      f" {row['cpu_us']:7.1f}"
                      + (f"  {row['steps']} steps, 2 GB in {row['upload_s']} s" if beside else ""), flush=True)
            if is_beside:
                server.call("POST", f"/fine_tuning/jobs/{job}/cancel")
                while server.call("GET", f"/fine_tuning/jobs/{job}")["status"] != "cancelled":
                    time.sleep(0.2)
        finally:
            server.process.terminate()
            server.process.wait()
    shutil.rmtree(ROOT / "build/bench-http", ignore_errors=True)
    return rows, all_ok


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="runs whose name and rate hold this text")
    parser.add_argument("--seconds", type=float, default=20, help="for each run")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench/results/http.csv")
    options = parser.parse_args()
    rows, ok = run_all(options)
    fields = ["date", "machine", "run", "rate", "seconds", "connections", "requests", "wrong", "missing", "p50_ms",
              "p90_ms", "p99_ms", "p999_ms", "max_ms", "cpu_us", "steps", "upload_s"]
    is_new = not options.out.exists()
    with open(options.out, "a", newline="") as file:
        writer = csv.DictWriter(file, fields)
        if is_new:
            writer.writeheader()
        writer.writerows(rows)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
