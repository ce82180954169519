"""Which projects may use a model: checkpoint permissions, with the calls of the SDK."""
import json
import urllib.parse

import openai
import pytest
from conftest import Server, ask, chat_lines, make_client, make_key, wait_for_job
from test_tenants import call, new_project


@pytest.fixture(scope="module")
def shared(tmp_path_factory, models):
    """A server, an admin's client, and a project with a finished job."""
    data = tmp_path_factory.mktemp("permissions") / "data"
    admin = make_key(data, "--scopes", "admin")
    server = Server(data, models).start()
    _, key = new_project(server, admin, "owner")
    owner = make_client(server, key["value"])
    file = owner.files.create(file=("t.jsonl", chat_lines(4).encode()), purpose="fine-tune")
    job = wait_for_job(owner, owner.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, hyperparameters={"n_epochs": 1}).id)
    assert job.status == "succeeded", job.error
    yield server, admin, owner, job.fine_tuned_model
    assert server.stop() == 0


def may_use(client, model):
    """The answers of everything that takes a model's name agree."""
    listed = model in [m.id for m in client.models.list()]
    file = client.files.create(file=("t.jsonl", chat_lines(1).encode()), purpose="fine-tune")
    for use in (lambda: client.models.retrieve(model), lambda: client.chat.completions.create(model=model, max_tokens=1, messages=[{"role": "user", "content": "x"}]),
                lambda: client.fine_tuning.jobs.cancel(client.fine_tuning.jobs.create(model=model, training_file=file.id, hyperparameters={"n_epochs": 100}).id)):
        try:
            use()
            assert listed
        except openai.NotFoundError as error:
            assert error.code == "model_not_found" and not listed
    return listed


def test_a_granted_project_uses_the_model_until_the_permission_is_deleted(shared):
    server, admin, owner, result = shared
    (project, key), (_, other) = new_project(server, admin, "granted"), new_project(server, admin, "stranger")
    granted, stranger = make_client(server, key["value"]), make_client(server, other["value"])
    permissions = make_client(server, admin).fine_tuning.checkpoints.permissions
    job_id = owner.fine_tuning.jobs.list().data[0].id
    checkpoint = owner.fine_tuning.jobs.checkpoints.list(job_id).data[0].fine_tuned_model_checkpoint
    for model in (result, checkpoint):
        assert ":" in model and "/" in model
        assert not may_use(granted, model)
        (permission,) = permissions.create(model, project_ids=[project["id"]]).data
        assert (permission.object, permission.project_id) == ("checkpoint.permission", project["id"])
        assert may_use(granted, model) and not may_use(stranger, model) and may_use(owner, model)
        with pytest.raises(openai.PermissionDeniedError) as refused:
            granted.models.delete(model)
        assert refused.value.code == "not_the_owner"
        assert permissions.create(model, project_ids=[project["id"]]).data == [permission], "a second one was made"
        deleted = permissions.delete(permission.id, fine_tuned_model_checkpoint=model)
        assert (deleted.id, deleted.deleted) == (permission.id, True)
        assert not may_use(granted, model)
        with pytest.raises(openai.NotFoundError):
            permissions.delete(permission.id, fine_tuned_model_checkpoint=model)


def test_permissions_are_listed_in_pages_and_by_project(shared):
    server, admin, _, model = shared
    projects = [new_project(server, admin, f"p{i}")[0]["id"] for i in range(5)]
    permissions = make_client(server, admin).fine_tuning.checkpoints.permissions
    made = permissions.create(model, project_ids=projects)
    assert [p.project_id for p in made.data] == projects
    assert [p.project_id for p in permissions.list(model)] == projects[::-1]
    assert [p.project_id for p in permissions.list(model, order="ascending")] == projects
    page = permissions.list(model, limit=2)
    assert [p.project_id for p in page.data] == projects[:2:-1] and page.has_more and page.last_id == page.data[-1].id
    assert [p.project_id for p in permissions.list(model, limit=2)] == projects[::-1], "pages lose rows"
    assert [p.project_id for p in permissions.list(model, project_id=projects[3])] == [projects[3]]
    assert permissions.list(model, project_id="proj-none").data == permissions.list(model, after="cp_none").data == permissions.list(model, limit=0).data == []
    with pytest.raises(openai.UnprocessableEntityError):
        permissions.list(model, order="up")
    for permission in made.data:
        permissions.delete(permission.id, fine_tuned_model_checkpoint=model)


@pytest.mark.parametrize("quote", [lambda m: m, lambda m: urllib.parse.quote(m, safe=":"), lambda m: urllib.parse.quote(m, safe="")])
def test_names_may_be_quoted_or_not(shared, quote):
    server, admin, _, model = shared
    path = f"/v1/fine_tuning/checkpoints/{quote(model)}/permissions"
    made = call(server, admin, "POST", path, {"project_ids": ["proj-default"]})
    assert call(server, admin, "GET", path)["data"] == made["data"]
    assert call(server, admin, "DELETE", f"{path}/{made['first_id']}")["deleted"] is True


@pytest.mark.parametrize("body", [{}, [], {"project_ids": []}, {"project_ids": "p"}, {"project_ids": [1]}, {"project_ids": ["proj-default"], "role": "x"}, {"project_ids": ["x"] * 1001}])
def test_wrong_bodies_are_refused(shared, body):
    server, admin, _, model = shared
    assert call(server, admin, "POST", f"/v1/fine_tuning/checkpoints/{model}/permissions", body, status=422)["detail"]


def test_what_is_not_there_is_404_and_grants_nothing(shared):
    server, admin, owner, model = shared
    path = "/v1/fine_tuning/checkpoints/{}/permissions"
    for method, at in (("GET", ""), ("POST", ""), ("DELETE", "/cp_x")):
        answer = call(server, admin, method, path.format("ft:never:x::0") + at, {"project_ids": ["proj-default"]} if method == "POST" else None, status=404)
        assert answer["error"]["code"] == "model_not_found"
    call(server, admin, "POST", path.format(model), {"project_ids": ["proj-default", "proj-nowhere"]}, status=404)
    assert call(server, admin, "GET", path.format(model))["data"] == []
    for method in ("GET", "POST", "DELETE"):
        answer = ask(server, method, path.format(model) + ("/cp_x" if method == "DELETE" else ""), Authorization=f"Bearer {owner.api_key}")
        assert answer[0] == 403 and json.loads(answer[2])["error"]["code"] == "insufficient_scope"


def test_deleting_the_model_takes_its_permissions_along(shared):
    server, admin, owner, model = shared
    project, key = new_project(server, admin, "left")
    checkpoint = model + ":ckpt-step-1" if model + ":ckpt-step-1" in [m.id for m in owner.models.list()] else [m.id for m in owner.models.list() if m.id.startswith(model + ":")][0]
    call(server, admin, "POST", f"/v1/fine_tuning/checkpoints/{checkpoint}/permissions", {"project_ids": [project["id"]]})
    assert make_client(server, key["value"]).models.retrieve(checkpoint).id == checkpoint
    assert owner.models.delete(checkpoint).deleted
    with pytest.raises(openai.NotFoundError):
        make_client(server, key["value"]).models.retrieve(checkpoint)
    call(server, admin, "GET", f"/v1/fine_tuning/checkpoints/{checkpoint}/permissions", status=404)
