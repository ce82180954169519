"""The commands that speak with a running server: what a person types, from the first key to a reply."""
import http.server
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import threading

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/api"))
from conftest import BINARY, Server, chat_lines  # noqa: E402
from tiny_model import make_tiny_model  # noqa: E402


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    make_tiny_model(folder / "models/test/tiny")
    (folder / "train.jsonl").write_text(chat_lines(24))
    server = Server(folder / "data", folder / "models").start()
    yield server
    assert server.stop() == 0


def attune(service, *words, status=0, text="", cwd=None, **env):
    env = {"ATTUNE_BASE_URL": service.url, "ATTUNE_API_KEY": (service.data / "first-key").read_text().strip(), **env}
    run = subprocess.run([BINARY, *map(str, words)], input=text, capture_output=True, text=True, timeout=120, cwd=cwd,
                         env={**os.environ, **env})
    assert run.returncode == status, run.stdout + run.stderr
    assert (run.stderr == "") == (status == 0), run.stderr
    return run.stdout if status == 0 else run.stderr


@pytest.fixture(scope="module")
def job(service):
    return attune(service, "jobs", "create", "--model", "test/tiny", "--train", service.data.parent / "train.jsonl",
                  "--lora", "--n_epochs", 2, "--batch_size", 4,
                  "--learning_rate", "1e-3", "--no-packing", "--suffix", "mine").strip()


@pytest.fixture(scope="module")
def tuned(service, job):
    lines = attune(service, "jobs", "watch", job).splitlines()
    assert "Step 12/12: training loss=" in "\n".join(lines) and lines[-1].startswith("succeeded: ft:test/tiny:")
    return lines[-1].removeprefix("succeeded: ")


def test_a_job_is_made_watched_and_listed(service, job, tuned):
    assert any(job in line and "succeeded" in line and "12/12" in line and tuned in line
               for line in attune(service, "jobs", "list").splitlines())
    assert '"fine_tuned_model"' in attune(service, "jobs", "get", job)
    assert '"verdict": "pass"' in attune(service, "jobs", "receipt", job)
    assert {"test/tiny", tuned} <= set(attune(service, "models", "list").split())


def test_a_dry_run_says_what_a_job_would_be_and_makes_none(service, job):
    before = attune(service, "jobs", "list").count("ftjob-")
    told = json.loads(attune(service, "jobs", "create", "--model", "test/tiny", "--train",
                             service.data.parent / "train.jsonl", "--batch_size", 4, "--no-packing", "--dry-run"))
    assert told["object"] == "fine_tuning.job.estimate" and told["total_steps"] == 18
    assert told["memory_bytes"]["total"] > 0
    assert attune(service, "jobs", "list").count("ftjob-") == before


def test_a_file_is_shown_as_what_is_trained(service, tuned):
    file = attune(service, "files", "upload", service.data.parent / "train.jsonl").strip()
    shown = attune(service, "files", "preview", file, "--model", tuned, "--line", 2, "--count", 2)
    assert shown.startswith("line 2\n") and "\nline 3\n" in shown and "train " in shown
    assert "needs --model" in attune(service, "files", "preview", file, status=2)
    assert "nothing in line 99" in attune(service, "files", "preview", file, "--model", "test/tiny", "--line", 99,
                                          status=1)


@pytest.mark.parametrize("name", ["adapter-memory", "prefix-memory", "context-length", "threads"])
def test_the_worker_refuses_negative_sizes(name):
    done = subprocess.run([BINARY, "infer", "--model", "nowhere", f"--{name}=-1"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"attune infer: --{name} takes 0 or more, not -1\n")


def test_a_tuned_model_chats(service, tuned):
    replies = [attune(service, "chat", tuned, "Say red.", "--temperature", 0, "--max-tokens", 5) for _ in range(2)]
    assert replies[0] == replies[1] and replies[0].endswith("\n")
    assert attune(service, "chat", tuned, "--temperature", 0, "--max-tokens", 5, text="Say red.\nSay blue.\n").startswith(replies[0])


def test_files_go_up_and_down(service, tmp_path):
    content = chat_lines(3)
    (tmp_path / "here").mkdir()
    (tmp_path / "a.jsonl").write_text(content)
    file = attune(service, "files", "upload", tmp_path / "a.jsonl").split()[0]
    assert file in attune(service, "files", "list") and file in attune(service, "files", "get", file)
    attune(service, "files", "download", file, "--out", tmp_path / "b.jsonl")
    assert (tmp_path / "b.jsonl").read_text() == content
    assert attune(service, "files", "download", file, cwd=tmp_path / "here").strip() == "a.jsonl"
    assert (tmp_path / "here/a.jsonl").read_text() == content
    assert "a file a.jsonl here already" in attune(service, "files", "download", file, cwd=tmp_path / "here", status=1)
    attune(service, "files", "delete", file)
    assert "No such File object" in attune(service, "files", "get", file, status=1)


class BrokenDownload(http.server.BaseHTTPRequestHandler):
    """Promises a thousand bytes of a file, sends ten and hangs up."""

    def do_GET(self):
        self.send_response(200)
        answer = b"0123456789" if self.path.endswith("/content") else b'{"id": "file-1", "filename": "a"}'
        self.send_header("Content-Length", "1000" if self.path.endswith("/content") else str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def test_a_download_that_breaks_leaves_what_was_there(service, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), BrokenDownload) as broken:
        threading.Thread(target=broken.serve_forever, daemon=True).start()
        attune(service, "files", "download", "file-1", "--out", tmp_path / "mine", status=1,
               ATTUNE_BASE_URL=f"http://127.0.0.1:{broken.server_port}")
        broken.shutdown()
    assert (tmp_path / "mine").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


class Comes(http.server.BaseHTTPRequestHandler):
    """A server with one job and no events, which is at work in its first life and done in its second."""
    status, count = "running", itertools.count()

    def do_GET(self):
        job = {"id": "ftjob-1", "status": self.status, "fine_tuned_model": "mine"}
        answer = json.dumps({"data": [], "has_more": False} if "/events" in self.path else job).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        if "/events" not in self.path and next(self.count) > 0:  # the second look
            self.asked.set()

    def log_message(self, *_):
        pass


def test_a_watch_outlives_the_server(service):
    class First(Comes):
        asked = threading.Event()

    class Second(Comes):
        status, asked = "succeeded", threading.Event()

    first = http.server.ThreadingHTTPServer(("127.0.0.1", 0), First)
    threading.Thread(target=first.serve_forever, daemon=True).start()
    watch = subprocess.Popen([BINARY, "jobs", "watch", "ftjob-1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, env={**os.environ, "ATTUNE_BASE_URL": f"http://127.0.0.1:{first.server_port}"})
    assert First.asked.wait(60)
    first.shutdown()
    first.server_close()
    assert "does not answer" in watch.stderr.readline()
    with http.server.ThreadingHTTPServer(("127.0.0.1", first.server_port), Second) as second:
        threading.Thread(target=second.serve_forever, daemon=True).start()
        out, problem = watch.communicate(timeout=60)
        second.shutdown()
    assert (watch.returncode, out, problem) == (0, "succeeded: mine\n", "")


@pytest.mark.parametrize("words, said", [
    (("--dtype", "x"), "--dtype takes auto, float32 or bfloat16, not 'x'"),
    (("--quantization", "nf4"), "--quantization nf4 goes with --lora"),
    (("--fp8", "--lora", "--quantization", "nf4"), "--fp8 does not go with quantization nf4"),
    (("--fp8", "--lora", "--use-dora"), "--fp8 does not go with use_dora"),
    (("--method", "x"), "--method takes supervised or dpo, not 'x'"),
    (("--optim", "adamw_8bit", "--lora"), "--optim: "),
    (("--lr-scheduler-type", "x"), "there is no 'x'"),
    (("--batch-size", 0), "--batch_size must be from 1 to 1024, not 0"),
    (("--learning-rate", 2), "--learning_rate must be from 0 to 1, not 2"),
    (("--context-length", 8), "--context_length must be from 16 to 1048576, not 8"),
    (("--method", "dpo", "--beta", 0), "--beta must be from 1e-06 to 2, not 0"),
    (("--layers-to-transform", "a"), "takes numbers of layers, not 'a'"),
    (("--rank-pattern", "q_proj"), "takes names with numbers"),
])
def test_a_wrong_choice_of_a_run_ends_with_2_and_makes_nothing(tmp_path, words, said):
    done = subprocess.run([BINARY, "train", "--model", tmp_path, "--train", tmp_path / "x", "--out", tmp_path / "out",
                           *map(str, words)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("attune train: ") and said in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words, status, said", [
    (("jobs", "get", "ftjob-0"), 1, "Could not find fine tune: ftjob-0"), (("jobs", "watch", "ftjob-0"), 1, "ftjob-0"),
    (("jobs", "cancel"), 2, "cancel needs ID"),
    (("jobs", "dance", "x"), 2, "unknown action"), (("jobs",), 2, "an action is missing: list, create"), (("jobs", "list", "--wish"), 2, "--wish"),
    (("jobs", "create", "--model", "test/tiny"), 2, "--train"),
    (("jobs", "create", "--model", "none/here", "--train", "file-0"), 1, "test/tiny"),
    (("files", "upload", "/nothing/here"), 1, "/nothing/here"),
    (("chat", "none/here", "x"), 1, "test/tiny"), (("models", "dance"), 2, "unknown action"),
    (("models", "merge", "/nothing"), 2, "merge needs BASE ADAPTER"),
    (("models", "merge", "/nothing", "/nothing/here"), 2, "--out"),
    (("models", "merge", "/nothing", "/nothing/here", "--out", "/nothing/out"), 1, "/nothing/config.json"),
    (("files", "get", "a/../b"), 1, ""),
    (("job", "list"), 2, "did you mean 'jobs'?"), (("jobs", "create", "--learning_rate", "nan"), 2, "takes a number"),
    (("serve", "--data", "/nothing", "--port", 70000), 2, "--port must be from 0 to 65535, not 70000"),
    (("serve", "--data", "/nothing", "--audit-days", -1), 2, "--audit-days must be from 1 to"),
    (("serve", "--data", "/nothing/here/data"), 1, "--data: cannot make /nothing/here/data: there is no folder /nothing/here\n"),
    (("keys", "list", "--data", "/nothing/here"), 1, "there is no data folder /nothing/here"),
])
def test_what_fails_is_told(service, words, status, said):
    assert said in attune(service, *words, status=status)


def test_every_command_has_a_help_that_fits_a_terminal(service):
    commands = re.findall(r"^  (\w+) ", attune(service, "--help"), re.M)
    assert len(commands) > 20
    for command in commands:
        told = attune(service, command, "--help")
        assert told.startswith(f"usage: attune {command}") and max(map(len, told.splitlines())) <= 100, told


def test_a_file_of_a_job_that_is_refused_is_taken_back(service, tmp_path):
    (tmp_path / "taken back.jsonl").write_text('{"text": "a"}\n')
    for wrong in (("--model", "none/here"), ("--model", "test/tiny", "--n_epochs", 0)):
        attune(service, "jobs", "create", *wrong, "--train", tmp_path / "taken back.jsonl", "--valid",
               tmp_path / "taken back.jsonl", status=1)
    assert "taken back" not in attune(service, "files", "list")


def test_wrong_keys_and_absent_servers_are_told(service):
    assert "Incorrect API key" in attune(service, "jobs", "list", status=1, ATTUNE_API_KEY="wrong")
    told = attune(service, "jobs", "list", status=1, ATTUNE_API_KEY="")
    assert "No API key was sent" in told and "ATTUNE_API_KEY" in told
    assert "is the server running there?" in attune(service, "jobs", "list", status=1,
                                                    ATTUNE_BASE_URL="http://127.0.0.1:1")


def test_usage_is_a_table_by_the_day(service, tuned):
    lines = attune(service, "usage", "--by", "model").splitlines()
    assert lines[0].split() == ["day", "jobs", "trained_steps", "trained_tokens", "device_seconds", "model"]
    assert len(lines) == 2
    assert lines[1].split()[1:3] == ["1", "12"] and lines[1].split()[-1] == "test/tiny"
    assert attune(service, "usage", "storage", "--by", "project", "--days", 1).splitlines()[1].split()[-1] == "proj-default"
    assert attune(service, "usage", "completions", "--days", 100).splitlines()[0].split() == [
        "day", "num_model_requests", "input_tokens", "output_tokens"]
    assert "unknown kind 'chats'" in attune(service, "usage", "chats", status=2)
    assert "--by takes project or model" in attune(service, "usage", "--by", "user", status=2)
    assert "--days is 1 to 366" in attune(service, "usage", "--days", 0, status=2)


def test_a_drain_is_begun_waited_for_and_ended(service, tuned):
    assert attune(service, "drain") == "not draining; 0 jobs at work\n"
    assert attune(service, "drain", "begin", "--pause", "--refuse", "--wait") == "draining: jobs at work pause (0 left), new ones are refused\n"
    assert "draining" in attune(service, "drain", "status")
    assert attune(service, "drain", "end") == "not draining; 0 jobs at work\n"
    assert "unknown action 'stop'" in attune(service, "drain", "stop", status=2)
    assert "key" in attune(service, "drain", status=1, ATTUNE_API_KEY="wrong")


def test_the_disk_of_an_old_job_is_given_back(service):
    job = attune(service, "jobs", "create", "--model", "test/tiny", "--train", service.data.parent / "train.jsonl",
                 "--n_epochs", 2).strip()
    attune(service, "jobs", "watch", job)
    told = attune(service, "jobs", "clean", job).splitlines()
    assert len(told) == 2 and all(line.endswith(" deleted") for line in told)
    assert attune(service, "jobs", "clean", job) == ""
    assert job.removeprefix("ftjob-") not in attune(service, "models", "list")
    for _ in range(100):
        left = [path for path in (service.data / "runs" / job).rglob("*.safetensors")]
        if not left:
            break
        time.sleep(0.1)
    assert not left
    assert subprocess.run([BINARY, "doctor", "--data", service.data]).returncode == 0
    assert "Could not find" in attune(service, "jobs", "clean", "ftjob-none", status=1)
