"""What one client may take, as docs/operations.md lists it: streams, wrong keys, JSON."""
import contextlib
import http.client
import json
import socket
import subprocess

import pytest
from conftest import BINARY, Server, ask, chat_lines, make_client, make_key


@pytest.fixture(scope="module")
def keyed(tmp_path_factory, models):
    data = tmp_path_factory.mktemp("limits") / "data"
    keys = [make_key(data) for _ in range(3)]
    running = Server(data, models).start()
    yield running, keys
    assert running.stop() == 0


def open_stream(server, path, key):
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
    return connection, connection.getresponse()


def test_a_key_has_sixteen_streams_at_once(keyed):
    server, keys = keyed
    client = make_client(server, keys[0])
    file = client.files.create(file=("t.jsonl", chat_lines(8).encode()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, hyperparameters={"n_epochs": 100})
    client.fine_tuning.jobs.pause(job.id)
    path = f"/v1/fine_tuning/jobs/{job.id}/events?stream=true"
    with contextlib.ExitStack() as closing:
        streams = [open_stream(server, path, keys[0]) for _ in range(16)]
        for connection, answer in streams[1:]:
            closing.callback(connection.close)
            closing.callback(answer.close)
            assert answer.status == 200
        status, headers, body = ask(server, "GET", path, Authorization=f"Bearer {keys[0]}")
        assert status == 429 and int(headers["Retry-After"]) > 0 and json.loads(body)["error"]["code"] == "too_many_streams"
        connection, answer = open_stream(server, path, keys[1])
        assert answer.status == 200, "another key has its own"
        answer.close(), connection.close()
        streams[0][1].close(), streams[0][0].close()
        while True:  # the server hears of the end a moment later
            connection, answer = open_stream(server, path, keys[0])
            status = answer.status
            answer.close(), connection.close()
            if status == 200:
                break
    client.fine_tuning.jobs.cancel(job.id)


def test_wrong_keys_are_slowed_down_and_right_ones_are_not(keyed):
    server, keys = keyed
    wrong = "at_aaaaaaaa_" + "b" * 43 + "_cccccc"
    answers = [ask(server, "GET", "/v1/models", Authorization=f"Bearer {wrong}") for _ in range(5)]
    assert [status for status, _, _ in answers] == [401] * 5
    while (last := ask(server, "GET", "/v1/models", Authorization=f"Bearer {wrong}"))[0] == 401:
        pass  # a machine so slow that another six seconds have gone by
    assert last[0] == 429 and 1 <= int(last[1]["Retry-After"]) <= 6
    assert ask(server, "GET", "/v1/models")[0] == 401, "no key at all is no guess"
    assert ask(server, "GET", "/v1/models", Authorization=f"Bearer {keys[0]}")[0] == 200


def test_a_revoked_key_is_no_guess(keyed, tmp_path):
    server, keys = keyed
    assert server.stop() == 0
    subprocess.run([BINARY, "keys", "revoke", keys[2][:11], "--data", server.data], check=True, capture_output=True)
    server.start()
    for _ in range(8):
        assert ask(server, "GET", "/v1/models", Authorization=f"Bearer {keys[2]}")[0] == 401


@pytest.mark.parametrize("body", ["[" * 65 + "]" * 65, json.dumps({str(i): 0 for i in range(4097)}), json.dumps({"model": "x" * (1 << 20) + "x"})])
def test_json_beyond_its_limits_is_refused(server, body):
    status, _, answer = ask(server, "POST", "/v1/fine_tuning/jobs", body.encode())
    assert status == 400 and json.loads(answer)["error"]["code"] == "invalid_json"


def test_a_body_beyond_four_megabytes_is_refused(server):
    assert ask(server, "POST", "/v1/fine_tuning/jobs", b" " * (4 << 20) + b"{}")[0] == 413


def say(server, text):
    """Raw bytes, and all that is answered until the server closes."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(text.encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer.decode()


def test_an_upload_without_a_key_never_starts(keyed):
    server, keys = keyed
    head = "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 1000000000\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    assert say(server, head + "\r\n").startswith("HTTP/1.1 401 ")
    refused = say(server, head + f"Authorization: Bearer {keys[1]}\r\n\r\nno boundary" + " " * 5000)
    assert refused.startswith("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 4")


@pytest.mark.parametrize("line, status, allow", [
    ("BREW /v1/files", 501, None), ("CONNECT localhost:1", 501, None), ("TRACE /v1/files", 405, "POST, GET, HEAD"), ("OPTIONS /v1/files", 405, "POST, GET, HEAD"),
    ("OPTIONS *", 204, None), ("PUT /v1/files", 405, "POST, GET, HEAD"), ("HEAD /v1/uploads", 405, "POST"), ("PATCH /v1/nothing", 404, None)])
def test_methods_are_told_apart(server, line, status, allow):
    answer = say(server, f"{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert allow is None or f"\r\nAllow: {allow}\r\n" in answer
    assert not line.startswith("HEAD") or answer.endswith("\r\n\r\n")
