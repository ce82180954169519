"""A service on a data folder of its own for the fault tests: started, killed, asked; and a ledger of what it acknowledged, held
against what a later server shows and what lies on the disk."""
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import re
import select
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/api"))
from tiny_model import make_tiny_model  # noqa: E402

BIN = os.environ.get("ATTUNE_BIN", str(ROOT / "build/attune"))
SECONDS_TO_START = 120  # of a server that nothing holds
FULL = bool(os.environ.get("ATTUNE_FAULT_FULL"))  # make fault: every point, not a sample of them
FINAL = ("succeeded", "failed", "cancelled")
GONE = (http.client.HTTPException, OSError)  # what a client sees of a server that was killed


def chat_lines(count):
    return "".join(json.dumps({"messages": [{"role": "user", "content": f"Say {i} and {i * 7 % 50}."}, {"role": "assistant", "content": f"The answer is {i}."}]}) + "\n"
                   for i in range(count)).encode()


def form(fields):
    """multipart/form-data of (head, content) pairs: body and headers."""
    boundary = uuid.uuid4().hex
    body = b"".join(f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n" for head, content in fields)
    return body + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


class Service:
    """options: more of the server's command line."""

    def __init__(self, folder, *options, model=None, recovery_steps=5):
        self.folder, self.data, self.models = folder, folder / "data", folder / "models"
        make_tiny_model(self.models / "test/tiny", **(model or {"hidden": 64, "layers": 3}))
        self.process = None
        self.options = ["--recovery-steps", str(recovery_steps), *options]
        self.start()

    def start(self, before=(), env=None, must=True):
        """before: what it runs under; env: more of its environment. False when it ended before it listened, which only a caller
        with must=False takes."""
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen([*before, BIN, "serve", "--no-auth", "--data", self.data, "--models", self.models, "--port", "0", *self.options],
                                            stdout=subprocess.PIPE, stderr=log, env={**os.environ, **(env or {})})
        assert select.select([self.process.stdout], [], [], SECONDS_TO_START)[0], "the server says nothing"
        line = self.process.stdout.readline().decode()
        if "http://" in line:
            self.url = re.search(r"http://[\d.]+:\d+", line).group(0)
            return True
        assert not must, (line, (self.folder / "server.log").read_text()[-2000:])
        self.process.wait()
        return False

    def kill(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def stop(self):
        self.process.terminate()
        assert self.process.wait(timeout=30) == 0
        self.process.stdout.close()
        examine(self.data)

    def call(self, method, path, body=None, headers=None):
        if isinstance(body, dict):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, body, headers or {}, method=method), timeout=30) as answer:
            content = answer.read()
        return json.loads(content) if answer.headers["Content-Type"].startswith("application/json") else content

    def upload(self, content):
        return self.call("POST", "/v1/files", *form([('name="purpose"', b"fine-tune"), ('name="file"; filename="train.jsonl"', content)]))["id"]

    def upload_in_parts(self, parts):
        upload = self.call("POST", "/v1/uploads", {"filename": "parts.jsonl", "purpose": "fine-tune", "bytes": sum(map(len, parts)), "mime_type": "application/jsonl"})["id"]
        ids = [self.call("POST", f"/v1/uploads/{upload}/parts", *form([('name="data"; filename="part"', part)]))["id"] for part in parts]
        return self.call("POST", f"/v1/uploads/{upload}/complete", {"part_ids": ids})["file"]["id"]

    def create(self, file_id, epochs=3, **more):
        return self.call("POST", "/v1/fine_tuning/jobs", {"model": "test/tiny", "training_file": file_id, "seed": 5, "hyperparameters": {
            "n_epochs": epochs, "batch_size": 2, "learning_rate": 1e-3, "packing": False, "context_length": 64}, **more})["id"]

    def job(self, job_id):
        return self.call("GET", f"/v1/fine_tuning/jobs/{job_id}")

    def end_of(self, job_id, seconds=180):
        deadline = time.monotonic() + seconds
        while (job := self.job(job_id))["status"] not in FINAL:
            assert time.monotonic() < deadline, job
            time.sleep(0.02)
        return job

    def wait(self, job_id):
        job = self.end_of(job_id)
        assert job["status"] == "succeeded", job["error"]
        return job

    def list(self, path):
        """All pages of a list."""
        items, page = [], {"has_more": True}
        while page["has_more"]:
            after = f"&after={items[-1]['id']}" if items else ""
            page = self.call("GET", path + ("&" if "?" in path else "?") + "limit=100" + after)
            items += page["data"]
        return items

    def content(self, file_id):
        return self.call("GET", f"/v1/files/{file_id}/content")

    def trainer(self, job_id):
        """Pid of the newest attempt's process and the attempt's folder, once it is known."""
        attempts = self.data / "runs" / job_id / "attempts"
        while True:
            for identity in sorted(attempts.glob("*/identity.json"), reverse=True):
                try:
                    return int(json.loads(identity.read_text())["pid"]), identity.parent
                except ValueError:
                    pass
            time.sleep(0.005)

    def checkpoint_files(self, job_id):
        """Bytes of every checkpoint's files by step and name."""
        files = {}
        for checkpoint in self.list(f"/v1/fine_tuning/jobs/{job_id}/checkpoints"):
            for file_id in checkpoint["result_files"]:
                name = self.call("GET", f"/v1/files/{file_id}")["filename"].split("/")[1]
                files[checkpoint["step_number"], name] = self.content(file_id)
        return files

    def steps(self, job_id):
        """Step and loss as the events tell them."""
        events = self.call("GET", f"/v1/fine_tuning/jobs/{job_id}/events?limit=10000")["data"]
        assert len({event["id"] for event in events}) == len(events)
        return [(event["data"]["step"], event["data"]["train_loss"]) for event in events if event["type"] == "metrics" and "train_loss" in event["data"]]


class Ledger:
    """What a client was told is done."""

    def __init__(self):
        self.files, self.deleted, self.jobs = {}, set(), {}  # id → SHA-256; ids; id → final status, None: not seen yet

    def upload(self, service, content):
        file_id = service.upload(content)
        self.files[file_id] = hashlib.sha256(content).hexdigest()
        return file_id

    def upload_in_parts(self, service, parts):
        file_id = service.upload_in_parts(parts)
        self.files[file_id] = hashlib.sha256(b"".join(parts)).hexdigest()
        return file_id

    def delete(self, service, file_id):
        del self.files[file_id]  # until it is acknowledged, it may be there or not
        service.call("DELETE", f"/v1/files/{file_id}")
        self.deleted.add(file_id)

    def create(self, service, file_id, **more):
        job_id = service.create(file_id, **more)
        self.jobs[job_id] = None
        return job_id

    def cancel(self, service, job_id):
        service.call("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel")
        self.jobs[job_id] = "cancelled"

    def wait(self, service, job_id):
        self.jobs[job_id] = service.end_of(job_id)["status"]

    def check(self, service, ends=("succeeded", "cancelled")):
        """Nothing acknowledged is lost, and what is listed is whole. Jobs are followed to their ends."""
        files = {file["id"]: file for file in service.list("/v1/files")}
        assert self.files.keys() <= files.keys() and not self.deleted & files.keys()
        jobs = {job["id"] for job in service.list("/v1/fine_tuning/jobs")}
        assert self.jobs.keys() <= jobs
        for job_id in jobs:
            job, told = service.end_of(job_id), self.jobs.get(job_id)
            assert job["status"] in ends and told in (None, job["status"]), (told, job)
            assert (service.data / "runs" / job_id / "job.json").exists()
        with contextlib.closing(sqlite3.connect(f"file:{service.data}/attune.db?mode=ro", uri=True)) as db:  # clients see "cancelled" at once
            while db.execute("SELECT 1 FROM jobs WHERE state = 'cancelling'").fetchall():
                time.sleep(0.05)
        for file_id, file in {file["id"]: file for file in service.list("/v1/files")}.items():
            content = service.content(file_id)
            assert len(content) == file["bytes"]
            assert self.files.get(file_id) in (None, hashlib.sha256(content).hexdigest())


def examine(data, *options):
    """attune doctor has nothing to say about the folder, be its server running or not."""
    doctor = subprocess.run([BIN, "doctor", "--data", data, *options], capture_output=True, text=True)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr


def check_disk(data):
    """The data folder of a server that is stopped and whose jobs have ended: rows and files belong together one to one, checkpoints
    are what their MANIFEST says, and nothing unfinished is left."""
    examine(data, "--hashes")
    with sqlite3.connect(f"file:{data}/attune.db?mode=ro", uri=True) as db:
        def ids(sql):
            return {row[0] for row in db.execute(sql)}
        assert ids("PRAGMA integrity_check") == {"ok"} and not db.execute("PRAGMA foreign_key_check").fetchall()
        rows = ids("SELECT id FROM files") | ids("SELECT id FROM upload_parts")
        assert rows == {path.name for path in (data / "files").iterdir()}
        assert ids("SELECT id FROM jobs") == {path.name for path in (data / "runs").iterdir()}
        assert not ids("SELECT state FROM jobs") - {"succeeded", "failed", "cancelled"}
        for file_id, size, digest in db.execute("SELECT id, bytes, sha256 FROM files"):
            content = (data / "files" / file_id).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (size, digest)
        for (path,) in db.execute("SELECT path FROM checkpoints UNION ALL SELECT path FROM models"):
            check_folder(pathlib.Path(path))
    assert not list((data / "tmp").iterdir())
    assert not [str(path) for path in data.rglob("*") if ".tmp" in path.name]
    assert not list(data.glob("runs/*/attempts/*/recovery"))


def check_folder(path):
    manifest = json.loads((path / "MANIFEST").read_text())
    assert {file["name"] for file in manifest["files"]} == {entry.name for entry in path.iterdir()} - {"MANIFEST"}
    for file in manifest["files"]:
        content = (path / file["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["bytes"], file["sha256"])


def fault_library():
    """fault.c as a library to preload (fault.h tells the rules)."""
    source, library = ROOT / "tests/fault/fault.c", ROOT / "build/fault/libfault.so"
    if not library.exists() or library.stat().st_mtime < max(source.stat().st_mtime, source.with_suffix(".h").stat().st_mtime):
        library.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-std=gnu17", "-O1", "-g", "-fPIC", "-shared", "-D_GNU_SOURCE", "-DFAULT_MEMORY", str(source), "-o", str(library)], check=True)
    return library


def faults(*rules):
    """The environment in which these rules hold."""
    return {"LD_PRELOAD": str(fault_library()), "FAULT_RULES": ";".join(rules)}
