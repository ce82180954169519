"""Projects of one organisation: what they see of each other, what they may use, whose turn it is."""
import json
import re
import sqlite3

import openai
import pytest
from conftest import CONTRACT, Server, ask, chat_lines, make_client, make_key, wait_for_job


@pytest.fixture(scope="module")
def keyed(tmp_path_factory, models):
    """A server, an admin's key, and a client each for two projects."""
    data = tmp_path_factory.mktemp("tenants") / "data"
    admin = make_key(data, "--scopes", "read write admin")
    running = Server(data, models).start()
    yield running, admin
    assert running.stop() == 0


def call(server, key, method, path, body=None, status=200, **headers):
    answer = ask(server, method, path, json.dumps(body).encode() if body is not None else None, Authorization=f"Bearer {key}", **headers)
    assert answer[0] == status, answer
    return json.loads(answer[2])


def new_project(server, admin, name, **members):
    project = call(server, admin, "POST", "/v1/organization/projects", {"name": name, **members})
    key = call(server, admin, "POST", f"/v1/organization/projects/{project['id']}/api_keys", {"name": "ci", "scopes": ["read", "write"]})
    return project, key


def test_projects_are_made_changed_and_listed(keyed):
    server, admin = keyed
    project, key = new_project(server, admin, "Löwe", profile="openai", limits={"jobs": 5})
    assert (project["name"], project["profile"], project["limits"]["jobs"], project["limits"]["storage_bytes"]) == ("Löwe", "openai", 5, None)
    path = f"/v1/organization/projects/{project['id']}"
    changed = call(server, admin, "POST", path, {"limits": {"jobs": None, "running_jobs": 2}})
    assert changed["limits"] == {"storage_bytes": None, "jobs": None, "running_jobs": 2, "requests_per_minute": None} and changed["name"] == "Löwe"
    assert call(server, admin, "GET", path) == changed
    assert changed in call(server, admin, "GET", "/v1/organization/projects")["data"]
    keys = call(server, admin, "GET", path + "/api_keys")["data"]
    assert [(k["id"], k["scopes"], k["revoked_at"]) for k in keys] == [(key["id"], ["read", "write"], None)] and "value" not in keys[0]
    assert key["value"].startswith(key["id"])


@pytest.mark.parametrize("method, path, body", [
    ("POST", "/v1/organization/projects", {}), ("POST", "/v1/organization/projects", {"name": ""}), ("POST", "/v1/organization/projects", []),
    ("POST", "/v1/organization/projects", {"name": "x", "profile": "azure"}), ("POST", "/v1/organization/projects", {"name": "x", "color": 1}),
    ("POST", "/v1/organization/projects", {"name": "x", "limits": {"jobs": 0}}), ("POST", "/v1/organization/projects", {"name": "x", "limits": {"gpus": 1}}),
    ("POST", "/v1/organization/projects", {"name": "x", "limits": 3}), ("POST", "/v1/organization/projects/proj-default", {"limits": {"jobs": "many"}}),
    ("POST", "/v1/organization/projects/proj-default/api_keys", {"scopes": ["root"]}), ("POST", "/v1/organization/projects/proj-default/api_keys", {"scopes": []}),
    ("POST", "/v1/organization/projects/proj-default/api_keys", {"name": 5}), ("POST", "/v1/organization/projects/proj-default/api_keys", {"value": "at_x"}),
])
def test_wrong_projects_and_keys_are_refused(keyed, method, path, body):
    assert call(*keyed, method, path, body, status=422)["detail"]


def test_a_revoked_key_opens_nothing(keyed):
    server, admin = keyed
    project, key = new_project(server, admin, "short-lived")
    client = make_client(server, key["value"])
    assert client.files.list().data == []
    path = f"/v1/organization/projects/{project['id']}/api_keys/{key['id']}"
    assert call(server, admin, "DELETE", path)["deleted"] is True
    with pytest.raises(openai.AuthenticationError):
        client.files.list()
    call(server, admin, "DELETE", path[:-1] + "!", status=404)
    call(server, admin, "GET", "/v1/organization/projects/proj-nowhere", status=404)
    call(server, admin, "POST", "/v1/organization/projects/proj-nowhere", {}, status=404)
    for method in ("GET", "POST"):
        call(server, admin, method, "/v1/organization/projects/proj-nowhere/api_keys", {} if method == "POST" else None, status=404)


def test_what_is_anothers_looks_like_what_is_not_there(keyed):
    """Every route with an id: the owner's object, asked for by a stranger, and one that never was."""
    server, admin = keyed
    (_, mine), (_, theirs) = new_project(server, admin, "mine"), new_project(server, admin, "theirs")
    owner = make_client(server, mine["value"])
    file = owner.files.create(file=("t.jsonl", chat_lines(4).encode()), purpose="fine-tune")
    upload = owner.uploads.create(filename="u", purpose="batch", bytes=1, mime_type="text/plain")
    job = wait_for_job(owner, owner.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, hyperparameters={"n_epochs": 1}).id)
    checkpoint = owner.fine_tuning.jobs.checkpoints.list(job.id).data[0]
    real = {"file_id": file.id, "upload_id": upload.id, "job_id": job.id, "checkpoint_id": checkpoint.id, "model": job.fine_tuned_model}
    never = {"file_id": "file-" + "0" * 36, "upload_id": "upload_" + "0" * 32, "job_id": "ftjob-" + "0" * 32,
             "checkpoint_id": "ftckpt_" + "0" * 36, "model": "ft:test/tiny:x::0"}
    seen = 0
    for template, item in CONTRACT.ours.document["paths"].items():
        names = re.findall(r"\{([a-z_]+)\}", template)
        if not names or "organization" in template or "permissions" in template or "webhook" in template:  # test_tenant_matrix has these
            continue
        for method in {"get", "post", "delete"} & set(item):
            answers = []
            for ids in (real, never):
                path = template
                for name in names:
                    path = path.replace("{" + name + "}", ids[name])
                status, _, body = ask(server, method.upper(), path, b"{}" if method == "post" else None, Authorization=f"Bearer {theirs['value']}",
                                      Content_Type="multipart/form-data; boundary=b" if path.endswith("/parts") else "application/json")
                text = body.decode()
                for name in names:
                    text = text.replace(ids[name], "ID")
                answers.append((status, re.sub("req_[0-9a-f]+", "", text)))
            assert answers[0] == answers[1] and answers[0][0] == 404, (method, template, answers)
            seen += 1
    assert seen >= 16
    stranger = make_client(server, theirs["value"])
    assert not stranger.files.list().data and not stranger.fine_tuning.jobs.list().data
    assert job.fine_tuned_model not in [model.id for model in stranger.models.list()]
    with pytest.raises(openai.NotFoundError):
        stranger.fine_tuning.jobs.create(model="test/tiny", training_file=file.id)
    with pytest.raises(openai.NotFoundError):
        stranger.chat.completions.create(model=job.fine_tuned_model, messages=[{"role": "user", "content": "x"}])
    assert owner.files.retrieve(file.id).id == file.id


def test_an_admin_reaches_every_project_by_name_and_nobody_else_does(keyed):
    server, admin = keyed
    (project, key), (_, other) = new_project(server, admin, "reached"), new_project(server, admin, "elsewhere")
    file = make_client(server, key["value"]).files.create(file=("a", b"{}"), purpose="user_data")
    assert [f.id for f in make_client(server, admin, project=project["id"]).files.list()] == [file.id]
    assert [f.id for f in make_client(server, admin, default_query={"ai_project_id": project["id"]}).files.list()] == [file.id]
    for client in (make_client(server, other["value"], project=project["id"]), make_client(server, admin, project="proj-nowhere")):
        with pytest.raises(openai.NotFoundError):
            client.files.list()


def test_limits_of_storage_jobs_and_requests(keyed):
    server, admin = keyed
    project, key = new_project(server, admin, "small", limits={"storage_bytes": 1000, "jobs": 1})
    client, path = make_client(server, key["value"]), f"/v1/organization/projects/{project['id']}"
    small = client.files.create(file=("a.jsonl", chat_lines(2).encode()), purpose="fine-tune")
    with pytest.raises(openai.RateLimitError) as refused:
        client.files.create(file=("b.jsonl", bytes(1000)), purpose="user_data")
    assert refused.value.code == "quota_exceeded" and refused.value.response.headers["x-should-retry"] == "false"
    upload = client.uploads.create(filename="u", purpose="batch", bytes=1000, mime_type="text/plain")
    with pytest.raises(openai.RateLimitError):
        client.uploads.parts.create(upload.id, data=bytes(1000))
    assert [f.id for f in client.files.list()] == [small.id]
    call(server, admin, "POST", path, {"limits": {"storage_bytes": None}})

    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=small.id, hyperparameters={"n_epochs": 100})
    client.fine_tuning.jobs.pause(job.id)
    with pytest.raises(openai.RateLimitError) as refused:
        client.fine_tuning.jobs.create(model="test/tiny", training_file=small.id)
    assert refused.value.code == "quota_exceeded" and [j.id for j in client.fine_tuning.jobs.list()] == [job.id]
    client.fine_tuning.jobs.cancel(job.id)
    wait_for_job(client, job.id)
    assert client.fine_tuning.jobs.create(model="test/tiny", training_file=small.id, hyperparameters={"n_epochs": 1}).status == "queued"

    call(server, admin, "POST", path, {"limits": {"requests_per_minute": 3}})
    for _ in range(3):
        client.models.list()
    with pytest.raises(openai.RateLimitError) as refused:
        client.models.list()
    assert refused.value.code == "rate_limit_exceeded" and 1 <= int(refused.value.response.headers["Retry-After"]) <= 21
    assert call(server, admin, "GET", path)["usage"]["jobs"] in (0, 1), "an admin is held to its own project's limit"


def test_a_project_with_one_job_does_not_wait_for_anothers_many(keyed):
    server, admin = keyed
    (_, many), (_, one) = new_project(server, admin, "many"), new_project(server, admin, "one")
    flood, single = make_client(server, many["value"]), make_client(server, one["value"])
    jobs = {}
    for client, count in ((flood, 6), (single, 1)):
        file = client.files.create(file=("t.jsonl", chat_lines(4).encode()), purpose="fine-tune")
        jobs[client] = [client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, hyperparameters={"n_epochs": 1}).id for _ in range(count)]
    ends = [wait_for_job(single, jobs[single][0])] + [wait_for_job(flood, job) for job in jobs[flood]]
    assert all(job.status == "succeeded" for job in ends)
    with sqlite3.connect(server.data / "attune.db") as database:  # the API tells times in seconds, in which several jobs run
        started = dict(database.execute("SELECT id, started_ms FROM jobs"))
    later = [job for job in jobs[flood] if started[job] > started[jobs[single][0]]]
    assert len(later) >= 2, started


def test_a_project_learns_nothing_of_anothers_prompts(keyed):
    server, admin = keyed
    prompt = [{"role": "user", "content": "The code word of our project is seven quiet red doors; do not tell."}]

    def cached(client, messages=prompt):
        usage = client.chat.completions.create(model="test/tiny", messages=messages, max_tokens=4, temperature=0).usage
        return usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0, usage.prompt_tokens

    ours, theirs = (make_client(server, new_project(server, admin, name)[1]["value"]) for name in ("knows", "guesses"))
    assert cached(ours)[0] == 0
    tokens, all_tokens = cached(ours)
    assert tokens == all_tokens - 1
    assert cached(theirs)[0] == 0, "what another project sent shows"
    assert cached(theirs) == (all_tokens - 1, all_tokens), "a project shares with itself"
    assert cached(ours)[0] == all_tokens - 1
