"""attune serve --access-log: one line for each request, and no secret in any."""
import json
import re
import socket

from conftest import Server, ask


def test_each_request_leaves_a_line_without_secrets(tmp_path, models):
    log = tmp_path / "access.log"
    server = Server(tmp_path / "data", models, "--access-log", log).start()
    key = (tmp_path / "data/first-key").read_text().strip()
    body = b'{"model": "m"}'
    assert ask(server, "GET", "/v1/models?ai_project_id=proj-secret", Authorization=f"Bearer {key}")[0] == 404
    status, headers, answer = ask(server, "POST", "/v1/fine_tuning/jobs", body, Authorization=f"Bearer {key}")
    assert status == 422
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=60) as connection:
        connection.sendall(b"\x00\x01\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
    assert server.stop() == 0
    text = log.read_text()
    first, second, third = map(json.loads, text.splitlines())
    assert log.stat().st_mode & 0o777 == 0o600
    assert key not in text and "Bearer" not in text and "proj-secret" not in text
    assert (first["method"], first["path"], first["status"], first["address"]) == ("GET", "/v1/models", 404, "127.0.0.1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert (second["id"], second["status"], second["body_bytes"], second["sent_bytes"]) == (headers["x-request-id"], 422, len(body), len(answer))
    assert second["request_bytes"] > second["body_bytes"] and second["is_complete"] and not second["is_last"]
    assert (third["method"], third["path"], third["status"], third["is_last"]) == ("-", "", 400, True)
