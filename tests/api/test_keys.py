import json
import sqlite3
import subprocess
import time

import openai
import pytest
from conftest import BINARY, Server, ask, chat_lines, make_client, make_key, wait_for_job


@pytest.fixture(scope="module")
def keyed(tmp_path_factory, models):
    data = tmp_path_factory.mktemp("keyed") / "data"

    def key(*options):
        return make_key(data, *options)

    keys = {"write": key("--name", "ci"), "read": key("--scopes", "read")}
    running = Server(data, models).start()
    yield running, keys
    assert running.stop() == 0


def test_a_wrong_key_is_an_authentication_error(keyed):
    server, _ = keyed
    client = make_client(server, "wrong")
    for call in (client.files.list, client.models.list, lambda: client.fine_tuning.jobs.create(model="m", training_file="f")):
        with pytest.raises(openai.AuthenticationError) as refused:
            call()
        assert refused.value.code == "invalid_api_key" and "wrong" not in refused.value.message


def test_a_key_opens_what_its_scopes_say(keyed):
    server, keys = keyed
    writer, reader = make_client(server, keys["write"]), make_client(server, keys["read"])
    file = writer.files.create(file=("a.jsonl", chat_lines(1).encode()), purpose="fine-tune")
    assert reader.files.retrieve(file.id).id == file.id
    with pytest.raises(openai.PermissionDeniedError):
        reader.files.delete(file.id)
    assert writer.files.delete(file.id).deleted


def test_a_foreign_project_is_not_found(keyed):
    server, keys = keyed
    for client in (make_client(server, keys["write"], project="proj-other"), make_client(server, keys["write"], default_query={"ai_project_id": "proj-other"})):
        with pytest.raises(openai.NotFoundError):
            client.files.list()


def run_keys(data, *words):
    return subprocess.run([BINARY, "keys", *words, "--data", data], capture_output=True, text=True)


def test_keys_are_made_and_revoked_beside_a_running_server(keyed):
    server, _ = keyed
    key = run_keys(server.data, "create", "--scopes", "read").stdout.strip()
    client = make_client(server, key)
    assert client.models.list().data
    assert key[:11] in run_keys(server.data, "list").stdout
    assert run_keys(server.data, "revoke", key[:11]).returncode == 0
    with pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_a_second_server_on_the_folder_is_refused_still(keyed, models):
    server, _ = keyed
    second = subprocess.run([BINARY, "serve", "--data", server.data, "--models", models, "--port", "0"], capture_output=True, text=True, timeout=30)
    assert second.returncode == 1 and "a server uses this data folder" in second.stderr


def test_many_keys_made_at_once_beside_a_server_at_work_all_work(keyed):
    server, keys = keyed
    makers = [subprocess.Popen([BINARY, "keys", "create", "--data", server.data], stdout=subprocess.PIPE, text=True) for _ in range(6)]
    writer = make_client(server, keys["write"])
    files = [writer.files.create(file=("a", b"x"), purpose="user_data").id for _ in range(10)]
    made = [maker.communicate(timeout=60)[0].strip() for maker in makers]
    assert all(make_client(server, key).files.retrieve(files[0]).id == files[0] for key in made)


@pytest.mark.parametrize("words, status, said", [
    (["--scopes", "root"], 2, "--scopes"), (["--scopes", ""], 2, "--scopes"), (["--profile", "azure"], 2, "--profile"),
    (["--days", "-1"], 2, "--days"), (["--project", "proj-none"], 1, "proj-none"),
    (["--organization", "org-none"], 1, "No such project")])
def test_wrong_options_make_no_key(keyed, words, status, said):
    refused = run_keys(keyed[0].data, "create", *words)
    assert refused.returncode == status and said in refused.stderr and refused.stdout == ""


def test_an_expired_key_opens_nothing(keyed):
    server, _ = keyed
    key = run_keys(server.data, "create", "--days", "1").stdout.strip()
    client = make_client(server, key)
    assert client.files.list() is not None
    with sqlite3.connect(server.data / "attune.db") as database:
        database.execute("UPDATE api_keys SET expires_ms = ? WHERE id = ?", [int(time.time() * 1000) - 1, key[:11]])
    with pytest.raises(openai.AuthenticationError) as refused:
        client.files.list()
    assert refused.value.code == "invalid_api_key" and "expire" not in refused.value.message


def test_keys_over_the_api_have_an_expiry_and_a_profile(keyed):
    server, _ = keyed
    admin = run_keys(server.data, "create", "--scopes", "admin").stdout.strip()
    path = "/v1/organization/projects/proj-default/api_keys"

    def post(body):
        status, _, text = ask(server, "POST", path, json.dumps(body).encode(), Authorization=f"Bearer {admin}")
        return status, json.loads(text)

    soon = int(time.time()) + 1000
    status, key = post({"expires_at": soon, "profile": "openai", "scopes": ["read"]})
    assert status == 200 and (key["expires_at"], key["profile"]) == (soon, "openai")
    listed = json.loads(ask(server, "GET", path + "?limit=1&order=desc", Authorization=f"Bearer {admin}")[2])["data"][0]
    assert listed == {name: value for name, value in key.items() if name != "value"}
    for wrong in ({"expires_at": 5}, {"expires_at": "soon"}, {"expires_at": 1e12}, {"profile": "azure"}, {"profile": 1}):
        assert post(wrong)[0] == 422


def test_the_profile_of_a_key_is_its_own(keyed):
    server, keys = keyed
    writer = make_client(server, keys["write"])
    file = writer.files.create(file=("a.jsonl", chat_lines(2).encode()), purpose="fine-tune")
    job = wait_for_job(writer, writer.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, hyperparameters={"n_epochs": 1}).id)
    orders = [[event.id for event in make_client(server, run_keys(server.data, "create", *words).stdout.strip()).fine_tuning.jobs.list_events(job.id, limit=100).data]
              for words in ([], ["--profile", "nebius"], ["--profile", "openai"])]
    assert len(orders[0]) > 2 and orders[0] == orders[1] == orders[2][::-1]


def test_a_server_without_any_key_makes_the_first_one(tmp_path, models):
    data = tmp_path / "data"
    server = Server(data, models).start()
    assert server.process.stdout.readline().decode() == f"no API key yet: the first one is in {data}/first-key\n"
    assert (data / "first-key").stat().st_mode & 0o777 == 0o600
    key = (data / "first-key").read_text().strip()
    client = make_client(server, key)
    file = client.files.create(file=("a.jsonl", chat_lines(1).encode()), purpose="fine-tune")
    assert client.files.delete(file.id).deleted
    assert server.stop() == 0
    assert key not in (data.parent / "server.log").read_text()

    server.start()
    assert make_client(server, key).models.list().data
    assert server.stop() == 0 and server.process.stdout.read() == b"", "a second key was made"

    listed = run_keys(data, "list").stdout
    assert len(listed.splitlines()) == 2 and "first" in listed and "read write admin" in listed
    assert run_keys(data, "revoke", key[:11]).returncode == 0
    server.start()
    with pytest.raises(openai.AuthenticationError):
        make_client(server, key).models.list()
    assert server.stop() == 0
