"""What the SDKs do not send: wrong paths, wrong methods, wrong bytes."""
import json
import re
import socket

import pytest
from conftest import ask


@pytest.mark.parametrize("method, path", [("GET", "/"), ("GET", "/v1"), ("GET", "/v1/nothing"), ("POST", "/v2/files"), ("GET", "/v1/files/a/b/c")])
def test_unknown_paths_are_json_404(server, method, path):
    status, headers, body = ask(server, method, path)
    assert status == 404 and headers["Content-Type"].startswith("application/json")
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    assert headers["x-request-id"]


def test_a_wrong_method_is_405_with_allow(server):
    status, headers, body = ask(server, "DELETE", "/v1/fine_tuning/jobs")
    assert status == 405 and set(headers["Allow"].split(", ")) == {"GET", "HEAD", "POST"}
    assert json.loads(body)["error"]["code"] == "method_not_allowed"


def test_double_slashes_and_raw_slashes_in_names_are_fine(server):
    assert ask(server, "GET", "//v1//models")[0] == 200
    assert ask(server, "GET", "/v1/models/test/tiny")[0] == 200
    assert ask(server, "GET", "/v1/models/test%2Ftiny")[0] == 200


def test_head_has_no_body(server):
    status, headers, body = ask(server, "HEAD", "/v1/models")
    assert status == 200 and body == b"" and int(headers["Content-Length"]) > 0


@pytest.mark.parametrize("name", ["../etc", "..%2f..%2fetc", "a/../b", "%2e%2e/x", "a\\b", "x%00y"])
def test_no_path_leads_out(server, name):
    assert ask(server, "GET", "/v1/models/" + name)[0] in (400, 404)


def test_a_name_too_long_to_be_repeated_whole_is_cut_at_a_character(server):
    for start in range(4):
        status, _, body = ask(server, "GET", "/v1/models/" + "x" * start + "%F0%B0%BC%91" * 500)
        assert status == 404 and json.loads(body.decode())["error"]["code"] == "model_not_found"


def test_a_metadata_filter_without_a_name_is_refused(server):
    assert ask(server, "GET", "/v1/fine_tuning/jobs?metadata%5B%5D=null")[0] == 422


def test_garbage_gets_a_json_error_and_the_server_lives(server):
    host, port = server.url[7:].split(":")
    for bytes_sent in (b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /v1/models HTTP/1.1\r\n\r\n", b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(bytes_sent)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 ") and b'"error"' in answer
    assert ask(server, "GET", "/v1/models")[0] == 200



def test_a_query_parameter_that_does_nothing_is_refused_on_every_route(server, contract):
    for method, template in sorted({wanted[:2] for wanted in contract.wanted() if wanted[1].startswith(("/v0/", "/v1/"))}):
        path = re.sub(r"\{[a-z_]+\}", "x", template)
        status, headers, body = ask(server, method, path + "?nonsense=true", b"{}" if method == "POST" else None)
        assert status == 422 and "nonsense" in json.loads(body)["error"]["message"]
        contract.check(method, path, status, headers["Content-Type"], body.decode())
