"""What holds on every route that docs/openapi.yaml lists."""
import json
import sqlite3

import pytest
from conftest import CONTRACT, Server, ask, make_key

OPEN = ["/healthz", "/readyz"]  # to everybody
ROUTES = [(method.upper(), template) for template, item in CONTRACT.ours.document["paths"].items() for method in ("get", "post", "delete") if method in item and template not in OPEN]
WITH_JSON = ["/v0/models", "/v1/fine_tuning/jobs", "/v1/chat/completions", "/v1/completions", "/v1/uploads", "/v1/organization/projects", "/v1/webhook_endpoints"]
WITH_BODY = [*WITH_JSON, "/v1/webhook_endpoints/x", "/v1/webhook_endpoints/x/rotate_secret", "/v1/webhook_endpoints/x/test", "/v1/uploads/x/complete", "/v1/organization/projects/x", "/v1/organization/projects/x/api_keys", "/v1/fine_tuning/checkpoints/x/permissions", "/v1/organization/drain", "/v1/organizations"]


def path_of(template):
    for name in ("file_id", "project_id", "key_id", "upload_id", "job_id", "checkpoint_id", "permission_id", "webhook_endpoint_id", "model"):
        template = template.replace("{" + name + "}", "x")
    return template


def organize(server, key, below, body):
    return json.loads(ask(server, "POST", "/v1/organization/projects" + below, json.dumps(body).encode(), Authorization=f"Bearer {key}")[2])


@pytest.fixture(scope="module")
def keyed(tmp_path_factory, models):
    """A server that wants keys, and one key of each scope."""
    data = tmp_path_factory.mktemp("keyed") / "data"
    keys = {scope: make_key(data, "--scopes", scope) for scope in ("read", "write", "admin")}
    running = Server(data, models, "--auth-failures", "0").start()
    project = organize(running, keys["admin"], "", {"name": "slow", "limits": {"requests_per_minute": 1}})
    keys["slow"] = organize(running, keys["admin"], f"/{project['id']}/api_keys", {"scopes": ["read", "write", "admin"]})["value"]
    yield running, keys
    assert running.stop() == 0


def refused(answer, status, code=None):
    error = json.loads(answer[2])["error"]
    assert answer[0] == status and (code is None or error["code"] == code), answer
    return error


@pytest.mark.parametrize("method, template", ROUTES)
def test_every_route_refuses_what_every_route_refuses(server, keyed, method, template):
    locked, keys = keyed
    path, right, wrong = path_of(template), *(("admin", "write") if "organization" in template or "permissions" in template or template == "/metrics" else ("read", "write") if method == "GET" else ("write", "read"))
    refused(ask(server, method, path + "?limit=%zz"), 400, "invalid_query")
    assert "no_such" in refused(ask(server, method, path + "?no_such=1"), 422)["message"]
    refused(ask(server, method, path, Host="evil.example"), 421)
    for key in ("", "wrong", "at_aaaaaaaa_" + "b" * 43 + "_cccccc", keys[right][:-1]):
        answer = ask(locked, method, path, Authorization=f"Bearer {key}")
        refused(answer, 401, "invalid_api_key")
        assert answer[1]["WWW-Authenticate"] == "Bearer"
    refused(ask(locked, method, path, Authorization=f"Bearer {keys[wrong]}"), 403, "insufficient_scope")
    ask(locked, "GET", "/v1/models", Authorization=f"Bearer {keys['slow']}")
    assert ask(locked, method, path, Authorization=f"Bearer {keys['slow']}")[0] == 429
    refused(ask(locked, method, path, Authorization=f"Bearer {keys[right]}", OpenAI_Project="proj-other"), 404, "project_not_found")
    refused(ask(locked, method, path + "?ai_project_id=proj-other", Authorization=f"Bearer {keys[right]}"), 404, "project_not_found")


@pytest.mark.parametrize("path", OPEN)
def test_health_needs_no_key(server, keyed, path):
    assert ask(keyed[0], "GET", path)[0] == ask(server, "HEAD", path)[0] == 200
    refused(ask(server, "GET", path, Host="evil.example"), 421)


def test_a_server_without_its_database_is_not_ready(tmp_path, models):
    behind = Server(tmp_path / "data", models, "--no-auth").start()
    with sqlite3.connect(tmp_path / "data/attune.db") as database:
        database.execute("ALTER TABLE projects RENAME TO elsewhere")
    refused(ask(behind, "GET", "/readyz"), 503, "store_unavailable")
    assert ask(behind, "GET", "/healthz")[0] == 200
    with sqlite3.connect(tmp_path / "data/attune.db") as database:
        database.execute("ALTER TABLE elsewhere RENAME TO projects")
    assert ask(behind, "GET", "/readyz")[0] == 200
    assert behind.stop() == 0


@pytest.mark.parametrize("path", WITH_BODY)
def test_bodies_that_are_too_long_are_refused_before_they_come(server, path):
    refused(ask(server, "POST", path, Content_Length=str(5 << 20)), 413)


@pytest.mark.parametrize("bytes", [60 << 30, 2**63 - 1])
def test_a_file_that_is_too_large_is_refused_before_it_comes(server, bytes):
    form = {"Content_Type": "multipart/form-data; boundary=b", "Content_Length": str(bytes)}
    refused(ask(server, "POST", "/v1/files", **form), 413)


@pytest.mark.parametrize("path", WITH_BODY)
@pytest.mark.parametrize("body", [b"", b"{", b'{"model": ', b"\xff\xfe", b'{"a": NaN}', b'{"a": "\\ud800"}', b"[" * 100000, b'{"a": 1} x'])
def test_bodies_that_are_not_json_are_refused(server, path, body):
    refused(ask(server, "POST", path, body, Content_Type="application/json"), 400, "invalid_json")


@pytest.mark.parametrize("path", WITH_JSON)
@pytest.mark.parametrize("body", ["null", "[]", "0", '"x"', "{}", '{"model": 1}', '{"model": null, "messages": {}, "prompt": {}}',
                                  '{"model": "\\u0000", "training_file": "\\u0000", "messages": [[]], "prompt": [[]]}',
                                  '{"model": "test/tiny", "training_file": 5, "messages": [{"role": 5}], "prompt": [{}], "stop": [1]}',
                                  '{"model": "x", "training_file": "y", "seed": 1e400, "hyperparameters": {"n_epochs": 99999999999999999999}, '
                                  '"messages": "", "prompt": []}'])
def test_bodies_of_the_wrong_shape_are_refused(server, path, body):
    error = refused(ask(server, "POST", path, body.encode(), Content_Type="application/json"), 422)
    assert error["type"] == "invalid_request_error"


def test_hosts_of_this_machine_and_of_a_named_proxy_are_served(server, tmp_path, models):
    for host in ("localhost", "LOCALHOST:80", "127.0.0.1", "127.1.2.3:1", "[::1]:80"):
        assert ask(server, "GET", "/v1/models", Host=host)[0] == 200
    for host in ("127.0.0.1.evil.example", "evil.example:80", "0.0.0.0", "tune.example"):
        refused(ask(server, "GET", "/v1/models", Host=host), 421, "misdirected_request")
    behind = Server(tmp_path / "data", models, "--no-auth", "--public-host", "tune.example").start()
    assert ask(behind, "GET", "/v1/models", Host="Tune.example:443")[0] == 200
    assert ask(behind, "GET", "/v1/models", Host="evil.example")[0] == 421
    assert behind.stop() == 0


def test_a_model_that_the_memory_does_not_hold_is_503(tmp_path, models):
    small = Server(tmp_path / "data", models, "--no-auth", "--memory", "1000").start()
    for path, member in (("/v1/chat/completions", '"messages": [{"role": "user", "content": "x"}]'), ("/v1/completions", '"prompt": "x"')):
        error = refused(ask(small, "POST", path, f'{{"model": "test/tiny", {member}}}'.encode(), Content_Type="application/json"), 503)
        assert error["type"] == "server_error" and "memory" in error["message"]
    assert small.stop() == 0
