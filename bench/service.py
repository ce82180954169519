#!/usr/bin/env python3
"""Two figures of the service: seconds from POST to the start of a job's first step, and the server's memory while a
large file comes in.

usage: service.py --model DIR [--gigabytes N]      DIR: a small Hugging Face folder such as stories260K
"""
import argparse
import http.client
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BLOCK = b'{"text": "The bird went to the old house and sang a song about the sea."}\n' * 14000


def call(url, method, path, body=None):
    request = urllib.request.Request(url + path, json.dumps(body).encode() if body else None,
                                     {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def upload(url, blocks):
    """Multipart with a known length, from memory block by block."""
    host, port = url[7:].split(":")
    head = (b"--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n"
            b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"big.jsonl\"\r\n\r\n")
    tail = b"\r\n--b--\r\n"
    connection = http.client.HTTPConnection(host, int(port), timeout=600)
    connection.putrequest("POST", "/v1/files")
    connection.putheader("Content-Type", "multipart/form-data; boundary=b")
    connection.putheader("Content-Length", str(len(head) + len(BLOCK) * blocks + len(tail)))
    connection.endheaders()
    connection.send(head)
    for _ in range(blocks):
        connection.send(BLOCK)
    connection.send(tail)
    return json.load(connection.getresponse())


def peak_rss_mb(pid):
    return int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1)) / 1024


def first_step_seconds(url, model, file_id, data):
    """The `start` event's time is when the first step begins; both ends are on the wall clock of this machine."""
    begin = time.time()
    job = call(url, "POST", "/v1/fine_tuning/jobs", {"model": model, "training_file": file_id,
                                                     "hyperparameters": {"n_epochs": 1, "learning_rate": 1e-4}})
    while call(url, "GET", f"/v1/fine_tuning/jobs/{job['id']}")["status"] not in ("succeeded", "failed"):
        time.sleep(0.05)
    path = data / "runs" / job["id"] / "attempts/0001/events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    return next(e["time"] for e in events if e["kind"] == "start") / 1000 - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models/attune/world-3m")
    parser.add_argument("--gigabytes", type=float, default=2)
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(dir=ROOT / "build"))
    (folder / "models/bench").mkdir(parents=True)
    (folder / "models/bench/model").symlink_to(options.model.resolve())
    server = subprocess.Popen([ROOT / "build/attune", "serve", "--no-auth", "--port", "0", "--data", folder / "data",
                               "--models", folder / "models"],
                              stdout=subprocess.PIPE, text=True)
    url = re.search(r"http://\S+", server.stdout.readline()).group(0)
    try:
        lines = "".join(json.dumps({"text": f"The {i} birds sang."}) + "\n" for i in range(100)).encode()
        boundary = (b"--b\r\nContent-Disposition: form-data; "
                    b"name=\"purpose\"\r\n\r\nfine-tune\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; "
                    b"filename=\"s.jsonl\"\r\n\r\n")
        request = urllib.request.Request(url + "/v1/files", boundary + lines + b"\r\n--b--\r\n",
                                         {"Content-Type": "multipart/form-data; boundary=b"})
        small = json.load(urllib.request.urlopen(request))["id"]
        times = [first_step_seconds(url, "bench/model", small, folder / "data") for _ in range(7)]
        print(f"POST to the start of the first step: median {statistics.median(times):.3f} s, of {len(times)}: "
              f"{' '.join(f'{t:.3f}' for t in times)}")
        blocks = int(options.gigabytes * 1e9 / len(BLOCK)) + 1
        begin = time.time()
        file = upload(url, blocks)
        seconds = time.time() - begin
        print(f"{file['bytes'] / 1e9:.2f} GB uploaded and checked in {seconds:.1f} s "
              f"({file['bytes'] / 1e6 / seconds:.0f} MB/s), status {file['status']}; "
              f"server's peak resident memory {peak_rss_mb(server.pid):.1f} MB")
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
