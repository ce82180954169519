#!/usr/bin/env python3
"""Schemathesis over docs/openapi.yaml, against a server of its own with a tiny model: requests that fit, requests that do not, and
chains of them. What is no fault, and why, stands in schemathesis.toml.

usage: run.py [--examples N a route] [--seed N] [--phases LIST] [--only REGEX of paths] [--log FILE]"""
import argparse
import collections
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests/api"))
from tiny_model import make_tiny_model  # noqa: E402

BINARY = os.environ.get("ATTUNE_BIN", str(ROOT / "build/test/attune"))
DRAIN = "/v1/organization/drain"
CHAT = json.dumps({"messages": [{"role": "user", "content": "Say red."}, {"role": "assistant", "content": "red"}]})
PAIR = json.dumps({"input": {"messages": [{"role": "user", "content": "Say red."}]}, "preferred_output": [{"role": "assistant", "content": "red"}],
                   "non_preferred_output": [{"role": "assistant", "content": "blue"}]})


class Service:
    def __init__(self, folder):
        self.folder = folder
        make_tiny_model(folder / "models/test/tiny", positions=64)
        self.key = subprocess.run([BINARY, "keys", "create", "--data", folder / "data", "--scopes", "admin"], check=True, capture_output=True, text=True).stdout.strip()
        self.log = open(folder / "server.log", "wb")
        self.process = subprocess.Popen([BINARY, "serve", "--data", folder / "data", "--models", folder / "models", "--port", "0", "--auth-failures", "0"],
                                        stdout=subprocess.PIPE, stderr=self.log)
        self.url = re.search(r"http://[\d.]+:\d+", self.process.stdout.readline().decode()).group()

    def ask(self, path, body=None, content_type="application/json"):
        request = urllib.request.Request(self.url + path, body, {"Authorization": f"Bearer {self.key}", "Content-Type": content_type})
        return json.load(urllib.request.urlopen(request))

    def upload(self, line):
        form = f'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="x.jsonl"\r\n\r\n'
        return self.ask("/v1/files", (form + (line + "\n") * 12 + "\r\n--b--\r\n").encode(), "multipart/form-data; boundary=b")["id"]

    def make_known(self):
        """Names that requests can be about: two files and a tuned model."""
        file, pairs = self.upload(CHAT), self.upload(PAIR)
        job = self.ask("/v1/fine_tuning/jobs", json.dumps({"model": "test/tiny", "training_file": file, "hyperparameters": {"n_epochs": 1}}).encode())
        while job["status"] in ("queued", "running"):
            time.sleep(0.2)
            job = self.ask(f"/v1/fine_tuning/jobs/{job['id']}")
        assert job["status"] == "succeeded", job
        return f"file={file} pairs={pairs} model={job['fine_tuned_model']}"

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        text = (self.folder / "server.log").read_text(errors="replace")
        if code != 0 or "ERROR: AddressSanitizer" in text or "runtime error" in text:
            print(f"the server ended with {code}\n{text[-6000:]}")
            return False
        return True


def run_once(args, service, known, options):
    program = pathlib.Path(sys.executable).parent / "st"
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE), "ATTUNE_KNOWN": known, "ATTUNE_CASES": str(service.folder / "cases")}
    run = subprocess.run([program, "--config-file", HERE / "schemathesis.toml", "run", ROOT / "docs/openapi.yaml", "--url", service.url,
                          "--header", f"Authorization: Bearer {service.key}", "--phases", args.phases, "--max-examples", str(args.examples), "--seed", args.seed,
                          "--continue-on-failure", "--no-shrink", "--suppress-health-check", "all", "--generation-database", "none", "--warnings", "off", "--no-color",
                          *options], cwd=service.folder, stdout=args.log.open("a") if args.log else None, env=environment)
    return run.returncode == 0


def report(cases):
    lines = cases.read_text().split("\n")[:-1] if cases.exists() else []
    statuses = collections.Counter(line.rpartition(" ")[2] for line in lines)
    print(f"{len(lines)} requests: " + ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items())), flush=True)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--examples", type=int, default=100)
    options.add_argument("--seed", default="1")
    options.add_argument("--phases", default="examples,coverage,fuzzing,stateful")
    options.add_argument("--only")
    options.add_argument("--log", type=pathlib.Path)
    args = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="attune-schemathesis-") as name:
        folder = pathlib.Path(name)
        service = Service(folder)
        try:
            known = service.make_known()
            print(f"seed {args.seed}, up to {args.examples} examples a route", flush=True)
            # Draining stops the queue for everybody, so its route has a run of its own, after all others.
            rounds = [["--include-path-regex", args.only]] if args.only else [["--exclude-path", DRAIN], ["--include-path", DRAIN]]
            clean = all([run_once(args, service, known, options) for options in rounds])
            report(folder / "cases")
        finally:
            whole = service.stop()
    sys.exit(0 if clean and whole else 1)


main()
