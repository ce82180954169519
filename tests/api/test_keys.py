import subprocess

import openai
import pytest
from conftest import BINARY, Server, chat_lines, make_client


@pytest.fixture(scope="module")
def keyed(tmp_path_factory, models):
    data = tmp_path_factory.mktemp("keyed") / "data"

    def key(*options):
        return subprocess.run([BINARY, "keys", "create", "--data", data, *options], check=True, capture_output=True, text=True).stdout.strip()

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


def test_keys_are_the_servers_while_it_runs(keyed):
    server, _ = keyed
    refused = run_keys(server.data, "list")
    assert refused.returncode == 1 and "a server uses this data folder" in refused.stderr


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
