"""What the server does beside its loop: others are served meanwhile, and what fails or loses its client leaves nothing half.

strace makes the disk slow or broken: it delays an fsync of the server, or answers it with an error.
"""
import concurrent.futures
import contextlib
import os
import shutil
import signal
import socket
import subprocess

import openai
import pytest
from conftest import Server, chat_lines, make_client

pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")


@contextlib.contextmanager
def disk(server, fault):
    """Every fsync of the server has this fault; SQLite's commits are fdatasync and stay as they are."""
    tracer = subprocess.Popen(["strace", "-f", "-qqq", "-e", "trace=fsync", "-e", f"inject=fsync:{fault}", "-p", str(server.process.pid)],
                              stderr=subprocess.PIPE, text=True)
    while not is_traced(server):
        pass
    yield tracer
    if tracer.poll() is None:
        tracer.send_signal(signal.SIGINT)
    tracer.communicate()


def is_traced(server):
    """All its threads are."""
    threads = os.listdir(f"/proc/{server.process.pid}/task")
    return all("TracerPid:\t0\n" not in open(f"/proc/{server.process.pid}/task/{thread}/status").read() for thread in threads)


@pytest.fixture
def own(models, tmp_path, monkeypatch):
    monkeypatch.setenv("ASAN_OPTIONS", "detect_leaks=0")  # it cannot look for leaks in a process that is traced
    server = Server(tmp_path / "data", models, "--no-auth").start()
    yield server
    if server.process.poll() is None:
        assert server.stop() == 0


def names(server, folder):
    return sorted(path.name for path in (server.data / folder).iterdir())


def form(content):
    return (b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="t.jsonl"\r\n\r\n' + content + b"\r\n--b--\r\n")


def send_upload(server):
    """A connection on which a whole upload was sent."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    body = form(chat_lines(3).encode())
    connection.sendall(b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                       b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return connection


def test_others_are_served_while_an_upload_waits_for_the_disk(own):
    client = make_client(own)
    with disk(own, "delay_enter=2000000"), concurrent.futures.ThreadPoolExecutor() as pool:
        upload = pool.submit(client.files.create, file=("t.jsonl", chat_lines(3).encode()), purpose="fine-tune")
        others = 0
        while not upload.done():
            assert client.files.list().data == [] or upload.result(timeout=10)
            others += 1
        assert upload.result().status == "processed"
    assert others > 20
    assert names(own, "files") == [upload.result().id] and names(own, "tmp") == []


def test_a_client_that_goes_during_the_sync_leaves_nothing(own):
    client = make_client(own)
    with disk(own, "delay_enter=1000000"):
        connection = send_upload(own)
        while not names(own, "tmp"):
            pass
        connection.close()
        while names(own, "tmp") or names(own, "files"):
            assert client.files.list().data == []
    assert client.files.list().data == []


def test_a_server_that_stops_during_the_sync_answers_first(own):
    with disk(own, "delay_enter=1000000"):
        connection = send_upload(own)
        while not names(own, "tmp"):
            pass
        own.process.send_signal(signal.SIGTERM)
        assert connection.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
        assert own.process.wait(timeout=30) == 0
    own.start()
    assert [file.id for file in make_client(own).files.list().data] == names(own, "files")
    assert len(names(own, "files")) == 1


@pytest.mark.parametrize("what", ["file", "part", "complete"])
def test_a_sync_that_fails_is_a_clean_error(own, what):
    client = make_client(own)
    client._client.event_hooks = {}  # docs/openapi.yaml promises no 500
    content = chat_lines(3).encode()
    upload = client.uploads.create(filename="u.jsonl", purpose="fine-tune", bytes=len(content), mime_type="text/jsonl")
    part = client.uploads.parts.create(upload.id, data=content)
    before = names(own, "files")
    make = {"file": lambda: client.files.create(file=("t.jsonl", content), purpose="fine-tune").id,
            "part": lambda: client.uploads.parts.create(upload.id, data=content).id,
            "complete": lambda: client.uploads.complete(upload.id, part_ids=[part.id]).file.id}[what]
    with disk(own, "error=EIO"):
        with pytest.raises(openai.InternalServerError, match="cannot sync"):
            make()
        assert names(own, "files") == before and names(own, "tmp") == []
    made = make()
    while what == "complete" and part.id in names(own, "files"):
        pass
    assert names(own, "files") == sorted(([] if what == "complete" else before) + [made])
