"""Every route × {owner, another project, another organisation's admin, no key, revoked, expired, read-only}: nothing leaks."""
import json
import re
import sqlite3

import pytest
from conftest import CONTRACT, Server, ask, chat_lines, make_client, make_key, wait_for_job
from test_tenants import call, new_project

BODIES = {"/webhook_endpoints": {"name": "x", "url": "https://hooks.example.com/", "event_types": ["fine_tuning.job.failed"]}, "/permissions": {"project_ids": ["proj-x"]}, "/secrets": {"name": "X", "value": "y"}}
OPERATIONS = [(method, template) for template, item in CONTRACT.ours.document["paths"].items() for method in ("get", "post", "delete")
              if method in item and template not in ("/healthz", "/readyz")]


@pytest.fixture(scope="module")
def world(tmp_path_factory, models):
    """One owner with one of everything, and whoever else may ask."""
    data = tmp_path_factory.mktemp("matrix") / "data"
    admin = make_key(data, "--scopes", "admin")
    server = Server(data, models, "--outgoing", "https://anywhere").start()
    project, mine = new_project(server, admin, "mine")
    _, theirs = new_project(server, admin, "theirs")
    organization = call(server, admin, "POST", "/v1/organizations", {"name": "acme"})
    owner = make_client(server, mine["value"])
    file = owner.files.create(file=("t.jsonl", chat_lines(4).encode()), purpose="fine-tune")
    upload = owner.uploads.create(filename="u", purpose="batch", bytes=1, mime_type="text/plain")
    job = wait_for_job(owner, owner.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, hyperparameters={"n_epochs": 1}).id)
    permission = call(server, admin, "POST", f"/v1/fine_tuning/checkpoints/{job.fine_tuned_model}/permissions", {"project_ids": ["proj-default"]})["data"][0]
    ids = {"file_id": file.id, "upload_id": upload.id, "job_id": job.id, "checkpoint_id": owner.fine_tuning.jobs.checkpoints.list(job.id).data[0].id,
           "model": job.fine_tuned_model, "project_id": project["id"], "key_id": mine["id"], "permission_id": permission["id"],
           "webhook_endpoint_id": owner.webhooks.create(**BODIES["/webhook_endpoints"]).id}

    def key(**change):
        made = call(server, admin, "POST", f"/v1/organization/projects/{project['id']}/api_keys", {"scopes": change.pop("scopes", ["read", "write", "admin"])})
        with sqlite3.connect(data / "attune.db") as database:
            for column, value in change.items():
                database.execute(f"UPDATE api_keys SET {column} = ? WHERE id = ?", [value, made["id"]])
        return made["value"]

    keys = {"owner": mine["value"], "project": theirs["value"], "organization": organization["api_key"], "none": None, "read-only": key(scopes=["read"]),
            "revoked": key(revoked_ms=1), "expired": key(expires_ms=1)}
    events = [event.id for event in owner.fine_tuning.jobs.list_events(job.id).data]
    yield server, admin, keys, ids, organization, events
    assert server.stop() == 0


def request(server, key, method, path):
    body = next((value for end, value in BODIES.items() if path.endswith(end)), {})
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    status, answer, content = ask(server, method.upper(), path, json.dumps(body).encode() if method == "post" else None,
                                  Content_Type="multipart/form-data; boundary=b" if path.endswith("/parts") else "application/json", **headers)
    return status, re.sub("req_[0-9a-f]+", "", content.decode(errors="replace")), answer["Content-Type"]


def fill(template, ids):
    return re.sub(r"\{([a-z_]+)\}", lambda match: ids.get(match[1], "x"), template)


def never(ids):
    return {name: re.sub("[0-9a-zA-Z](?=[0-9a-zA-Z]{0,11}$)", "0", value) for name, value in ids.items()}


@pytest.mark.parametrize("who", ["project", "organization"])
@pytest.mark.parametrize("method, template", [o for o in OPERATIONS if "{" in o[1]])
def test_what_is_anothers_answers_as_what_never_was(world, who, method, template):
    server, _, keys, ids, *_ = world
    if who == "project" and ("organization" in template or "permissions" in template):
        pytest.skip("for administering keys; those of a project's own organisation reach it")
    answers = []
    for given in (ids, never(ids)):
        status, text, kind = request(server, keys[who], method, fill(template, given))
        for name in re.findall(r"\{([a-z_]+)\}", template):
            text = text.replace(given.get(name, "x"), "ID") if name in given else text
        answers.append((status, text, kind))
    assert answers[0] == answers[1] and answers[0][0] in (404, 422), (method, template, answers)


@pytest.mark.parametrize("who", ["none", "revoked", "expired"])
@pytest.mark.parametrize("method, template", OPERATIONS)
def test_without_a_key_that_holds_all_routes_answer_alike(world, who, method, template):
    server, _, keys, ids, *_ = world
    answers = [request(server, keys[who], method, fill(template, given)) for given in (ids, never(ids))]
    assert answers[0] == answers[1] and answers[0][0] == 401 and json.loads(answers[0][1])["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("method, template", [o for o in OPERATIONS if o[0] != "get"])
def test_a_key_that_reads_changes_nothing(world, method, template):
    server, _, keys, ids, *_ = world
    status, text, _ = request(server, keys["read-only"], method, fill(template, ids))
    assert status == 403 and json.loads(text)["error"]["code"] == "insufficient_scope"


@pytest.mark.parametrize("who", ["project", "organization"])
def test_lists_counts_and_cursors_tell_nothing_of_others(world, who):
    server, _, keys, ids, organization, events = world
    cursors = [*ids.values(), *events[:2]]
    lists = [template for method, template in OPERATIONS if method == "get" and "{" not in template and template not in ("/metrics", "/v1/organizations", "/v1/organization/drain")]
    for template in lists:
        if "organization" in template and who == "project":
            continue
        parameters = str(CONTRACT.ours.document["paths"][template]["get"].get("parameters"))
        whole = request(server, keys[who], "get", template + ("?start_time=0&limit=31" if "/usage/" in template else "?limit=100" if "limit" in parameters else ""))
        assert whole[0] == 200, (template, whole)
        if template.endswith("audit_logs"):  # it names what its own keys asked for, and nothing of others' requests
            assert {row["actor"]["api_key"]["id"] for row in json.loads(whole[1])["data"]} <= {keys[who][:11]}
        else:
            assert not any(cursor in whole[1] for cursor in cursors), (template, whole)
        if "components/parameters/after" in parameters:
            for cursor in cursors:
                assert request(server, keys[who], "get", f"{template}?after={cursor}") == request(server, keys[who], "get", f"{template}?after=never"), template


def test_an_organisation_has_its_own_projects_and_nothing_of_the_servers(world):
    server, admin, keys, ids, organization, _ = world
    assert [p["id"] for p in call(server, keys["organization"], "GET", "/v1/organization/projects")["data"]] == [organization["project_id"]]
    listed = call(server, admin, "GET", "/v1/organizations")["data"]
    assert [(o["name"], o["projects"]) for o in listed] == [("local", 3), ("acme", 1)] and "api_key" not in listed[1]
    for method, path in (("GET", "/metrics"), ("GET", "/v1/organizations"), ("POST", "/v1/organizations"), ("GET", "/v1/organization/drain"),
                         ("POST", "/v1/organization/drain"), ("DELETE", "/v1/organization/drain")):
        assert call(server, keys["organization"], method, path, {"name": "x"} if method == "POST" else None, status=403)["error"]["code"] == "operator_only"
    for header in ({"OpenAI_Project": ids["project_id"]}, {"OpenAI_Project": "proj-default"}):
        call(server, keys["organization"], "GET", "/v1/files", status=404, **header)
    names = [model.id for model in make_client(server, keys["organization"]).models.list().data]
    assert "test/tiny" in names and not [name for name in names if name.startswith("ft:")]
    call(server, admin, "POST", f"/v1/fine_tuning/checkpoints/{ids['model']}/permissions", {"project_ids": [organization["project_id"]]}, status=404)


@pytest.mark.parametrize("body", [{}, [], {"name": ""}, {"name": "A"}, {"name": "a:b"}, {"name": "a/b"}, {"name": "-a"}, {"name": "x" * 33}, {"name": 5}, {"name": "x", "color": 1}])
def test_wrong_organisations_are_refused(world, body):
    server, admin, *_ = world
    assert call(server, admin, "POST", "/v1/organizations", body, status=422)["detail"]
