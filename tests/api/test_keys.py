import subprocess

import openai
import pytest
from conftest import BINARY, Server, chat_lines, make_client


@pytest.fixture(scope="module")
def keyed(tmp_path_factory, models):
    data = tmp_path_factory.mktemp("keyed") / "data"
    data.mkdir()

    def key(*options):
        return subprocess.run([BINARY, "keys", "create", "--data", data, *options], check=True, capture_output=True, text=True).stdout.strip()

    keys = {"write": key("--name", "ci"), "read": key("--scopes", "read")}
    running = Server(data, models).start()
    yield running, keys
    assert running.stop() == 0


def test_without_a_key_every_route_is_401(keyed, contract):
    server, _ = keyed
    for key in ("wrong", "at_aaaaaaaa_" + "b" * 43 + "_cccccc"):
        client = make_client(server, key)
        calls = [lambda: client.files.list(), lambda: client.files.create(file=("a", b"x"), purpose="fine-tune"), lambda: client.files.retrieve("file-1"),
                 lambda: client.files.delete("file-1"), lambda: client.files.content("file-1"), lambda: client.fine_tuning.jobs.list(),
                 lambda: client.fine_tuning.jobs.create(model="m", training_file="f"), lambda: client.fine_tuning.jobs.retrieve("j"),
                 lambda: client.fine_tuning.jobs.cancel("j"), lambda: client.fine_tuning.jobs.pause("j"), lambda: client.fine_tuning.jobs.resume("j"),
                 lambda: client.fine_tuning.jobs.list_events("j"), lambda: client.fine_tuning.jobs.checkpoints.list("j"),
                 lambda: client.get("/fine_tuning/jobs/j/checkpoints/c", cast_to=object), lambda: client.models.list(), lambda: client.models.retrieve("m"),
                 lambda: client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}]),
                 lambda: client.completions.create(model="m", prompt="x")]
        for call in calls:
            with pytest.raises(openai.AuthenticationError) as refused:
                call()
            assert refused.value.code == "invalid_api_key"


def test_a_key_opens_what_its_scopes_say(keyed):
    server, keys = keyed
    writer, reader = make_client(server, keys["write"]), make_client(server, keys["read"])
    file = writer.files.create(file=("a.jsonl", chat_lines(1).encode()), purpose="fine-tune")
    assert reader.files.retrieve(file.id).id == file.id
    with pytest.raises(openai.PermissionDeniedError):
        openai.OpenAI(base_url=server.url + "/v1", api_key=keys["read"], max_retries=0).files.delete(file.id)
    assert writer.files.delete(file.id).deleted


def test_a_foreign_project_is_not_found(keyed):
    server, keys = keyed
    stock = openai.OpenAI(base_url=server.url + "/v1", api_key=keys["write"], project="proj-other", max_retries=0)
    with pytest.raises(openai.NotFoundError):
        stock.files.list()
