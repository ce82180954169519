"""Who wrote what: on record before the answer, for the organisation's own admins, without secrets."""
import json
import time

import openai
import pytest
from conftest import Server, ask, chat_lines, make_client, make_key
from test_tenants import call, new_project

LOGS = "/v1/organization/audit_logs"


@pytest.fixture(scope="module")
def audited(tmp_path_factory, models):
    data = tmp_path_factory.mktemp("audit") / "data"
    admin = make_key(data, "--scopes", "admin")
    server = Server(data, models).start()
    yield server, admin
    assert server.stop() == 0


def logs(server, admin, query=""):
    return call(server, admin, "GET", LOGS + query)["data"]


def test_what_is_written_is_on_record_with_who_did_it(audited):
    server, admin = audited
    project, key = new_project(server, admin, "audited")
    client = make_client(server, key["value"])
    response = client.files.with_raw_response.create(file=("t.jsonl", chat_lines(4).encode()), purpose="fine-tune")
    file = response.parse()
    client.files.retrieve(file.id)
    client.files.delete(file.id)
    with pytest.raises(openai.NotFoundError):
        client.files.delete(file.id)
    rows = logs(server, admin, f"?project_ids[]={project['id']}")
    assert [(row["type"], row["object_id"], row["request"]["status"]) for row in rows] == [
        ("file.deleted", file.id, 404), ("file.deleted", file.id, 200), ("file.created", file.id, 200)]
    assert all(row["actor"] == {"type": "api_key", "api_key": {"id": key["id"]}} and row["request"]["ip_address"] == "127.0.0.1" for row in rows)
    assert rows[-1]["request"]["id"] == response.headers["x-request-id"] and rows[-1]["request"]["path"] == "/v1/files"
    made = logs(server, admin, "?event_types[]=project.created&event_types[]=api_key.created")
    assert [(row["type"], row["object_id"]) for row in made[:2]] == [("api_key.created", key["id"]), ("project.created", project["id"])]


def test_reading_chatting_and_strangers_leave_no_row(audited):
    server, admin = audited
    before = logs(server, admin, "?limit=1000")
    client = make_client(server, admin)
    client.models.list()
    client.chat.completions.create(model="test/tiny", max_tokens=1, messages=[{"role": "user", "content": "x"}])
    for key in ("", "wrong"):
        assert ask(server, "POST", "/v1/organization/projects", b'{"name": "x"}', Authorization=f"Bearer {key}")[0] == 401
    assert logs(server, admin, "?limit=1000") == before


def test_no_secret_is_in_it(audited):
    server, admin = audited
    _, key = new_project(server, admin, "canary-project-name")
    text = json.dumps(logs(server, admin, "?limit=1000"))
    for secret in (admin, admin[12:55], key["value"], key["value"][12:55], "canary-project-name"):
        assert secret not in text


def test_pages_filters_and_times(audited):
    server, admin = audited
    for i in range(3):
        call(server, admin, "POST", "/v1/organization/projects", {"name": f"p{i}"})
    everything = logs(server, admin, "?limit=1000")
    times = [row["effective_at"] for row in everything]
    assert times == sorted(times, reverse=True) and logs(server, admin, "?limit=1000&order=asc") == everything[::-1]
    page = call(server, admin, "GET", LOGS + "?limit=2")
    assert page["data"] == everything[:2] and page["has_more"] and logs(server, admin, f"?limit=1000&after={page['last_id']}") == everything[2:]
    assert all(row["actor"]["api_key"]["id"] == admin[:11] for row in logs(server, admin, f"?actor_ids[]={admin[:11]}"))
    now = int(time.time())
    assert logs(server, admin, f"?effective_at[gt]={now + 60}") == logs(server, admin, f"?effective_at[lt]={now - 3600}") == []
    assert logs(server, admin, f"?limit=1000&effective_at[gte]={times[-1]}&effective_at[lte]={times[0]}") == everything
    assert logs(server, admin, "?limit=0") == logs(server, admin, "?after=audit_log-none") == logs(server, admin, "?event_types=none") == []
    call(server, admin, "GET", LOGS + "?effective_at[gt]=yesterday", status=422)
    call(server, admin, "GET", LOGS + "?limit=-1", status=422)


def test_a_row_outlives_the_server(audited):
    server, admin = audited
    project = call(server, admin, "POST", "/v1/organization/projects", {"name": "before the end"})
    server.process.kill()
    server.process.wait()
    server.start()
    assert logs(server, admin, "?event_types[]=project.created")[0]["object_id"] == project["id"]
