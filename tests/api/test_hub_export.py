"""Results on a Hub: the repository that comes out, whatever happens on the way. The fake hub is proven by the real client in tests/hub."""
import hashlib
import json
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys

import openai
import pytest
from conftest import BINARY, Server, chat_lines, check_response, wait_for, wait_for_job

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "hub"))
from fake_upload import UploadHub  # noqa: E402

TOKEN = "hf_CANARYwriter"
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(monkeypatch):
    with UploadHub() as fake:
        fake.tokens = {TOKEN: {"name": "someone", "orgs": ["org"]}, "hf_reader": {"name": "other", "role": "read"}}
        fake.part_bytes = 100_000
        monkeypatch.setenv("HF_ENDPOINT", fake.url)
        yield fake
        assert fake.leaks == [], "a token went to the store"


def start(folder, models, hub, *options):
    (folder / "key").write_text("0123456789abcdef" * 4)
    (folder / "key").chmod(0o600)
    server = Server(folder / "data", models, "--no-auth", "--secret-key-file", folder / "key", "--outgoing", f"internal:{hub.url} internal:{hub.cdn_url}", *options).start()
    client = connect(server)
    return server, client, client.files.create(file=("t.jsonl", chat_lines(24).encode()), purpose="fine-tune")


def connect(server):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    client._client.event_hooks = {"response": [check_response]}
    return client


def create(client, file, name="org/result", token=TOKEN, lora=False):
    return client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, validation_file=file.id, hyperparameters={"n_epochs": 1, "batch_size": 8, "lora": lora},
                                          extra_body={"integrations": [{"type": "hf", "hf": {"output_repo_name": name, "api_token": token}}]})


def state_of(server, job_id):
    with sqlite3.connect(f"file:{server.data / 'attune.db'}?mode=ro", uri=True) as database:
        return database.execute("SELECT state FROM deliveries WHERE job_id=?", (job_id,)).fetchone()[0]


def wait_for_state(server, job_id, state="done"):
    wait_for(lambda: state_of(server, job_id) == state, lambda: (state_of(server, job_id), (server.data / "send.log").read_text()))


def checkpoint_files(server, job_id):
    (folder,) = (server.data / "runs" / job_id).glob("attempts/*/checkpoints/step-*")
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "MANIFEST"}


def told(client, job_id):
    events = client.fine_tuning.jobs.list_events(job_id, limit=100, extra_query={"order": "asc"}).data
    return [event.message for event in events if event.message.startswith(("Export", "integrations."))]


def check_repository(hub, server, job_id, name="org/result", commits=1):
    files = hub.head(name)
    card = files.pop("README.md").decode()
    assert files.pop(".gitattributes") and files == checkpoint_files(server, job_id)
    assert len(hub.summaries) == commits and hub.repos[name].is_private
    return card


def no_canary(folder):
    for path in folder.rglob("*"):
        assert not path.is_file() or b"CANARY" not in path.read_bytes(), path


def test_a_model_is_exported_in_one_commit_with_a_card(tmp_path, models, hub):
    server, client, file = start(tmp_path, models, hub)
    job = create(client, file)
    assert json.loads(job.to_json())["integrations"] == [{"type": "hf", "hf": {"output_repo_name": "org/result"}}]
    job = wait_for_job(client, job.id)
    assert job.status == "succeeded"
    wait_for_state(server, job.id)
    card = check_repository(hub, server, job.id)
    assert card.startswith("---\nbase_model: test/tiny\nbase_model_relation: finetune\nlibrary_name: transformers\npipeline_tag: text-generation\n")
    receipt = json.loads((server.data / "runs" / job.id / "receipt.json").read_text())
    for line in ("| examples | 24 |", f"| loss of the last step | {receipt['last_loss']} |", f"| SHA-256 of the training file | {receipt['sha256']['training_file']} |",
                 "| learning_rate | 1e-05 |", "| check packed_equals_unpacked | pass |"):
        assert line in card.splitlines(), (line, card)
    assert told(client, job.id) == [f"Exporting the result to {hub.url}/org/result", f"Exported to {hub.url}/org/result (commit {hub.repos['org/result'].refs['main'][:12]})"]
    assert len([upload for upload in hub.uploads.values() if upload.parts]) == 1 and not list((server.data / "exports").iterdir())
    assert server.stop() == 0
    no_canary(tmp_path)


def test_an_adapter_is_exported_as_a_repository_of_peft(tmp_path, models, hub):
    server, client, file = start(tmp_path, models, hub)
    job = wait_for_job(client, create(client, file, "mine", lora=True).id)
    wait_for_state(server, job.id)
    card = check_repository(hub, server, job.id, "someone/mine")
    assert "library_name: peft\n" in card and "- base_model:adapter:test/tiny\n- lora\n" in card and "adapter_config.json" in hub.head("someone/mine")
    assert server.stop() == 0


def test_a_second_result_takes_the_place_of_the_first(tmp_path, models, hub):
    server, client, file = start(tmp_path, models, hub)
    first = wait_for_job(client, create(client, file, lora=True).id)
    wait_for_state(server, first.id)
    second = wait_for_job(client, create(client, file).id)
    wait_for_state(server, second.id)
    check_repository(hub, server, second.id, commits=2)
    done = [done for _, _, done in hub.summaries.values()][1]
    assert ("deletedFile", "adapter_model.safetensors") in done and ("lfsFile", WEIGHTS) in done and not [path for _, path in done if path == "tokenizer.json"]
    assert server.stop() == 0


class Delivery:
    """Senders without a server: each gets what the one before it said, as the server would give it."""

    def __init__(self, folder, hub, files, name="org/result"):
        self.process, self.external, self.ends, self.events = None, None, [], []
        (folder / "step-1").mkdir()
        for path, data in files.items():
            (folder / "step-1" / path).write_bytes(data)
        manifest = [{"name": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in files.items()]
        (folder / "step-1/MANIFEST").write_text(json.dumps({"format": 1, "kind": "full", "files": manifest}))
        self.document = {"kind": "hf", "job": {"id": "ftjob-1", "state": "succeeded", "method": "supervised", "hyperparameters": {"n_epochs": 1}},
                         "config": {"output_repo_name": name}, "secrets": {"api_token": TOKEN}, "is_last": True,
                         "operator": {"origins": f"internal:{hub.url} internal:{hub.cdn_url}", "hub_url": hub.url, "parts_path": str(folder / "parts")},
                         "result": {"folder": str(folder / "step-1"), "run_dir": str(folder), "base_model": "org/base", "base_path": str(folder), "metrics": {"train_loss": 1.5}}}

    def send(self):
        """How it ended: "ok", "retry", "failed" or None."""
        self.process = subprocess.Popen([BINARY, "send"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        out, _ = self.process.communicate(json.dumps({**self.document, "external": self.external}).encode(), timeout=60)
        end = None
        for line in map(json.loads, out.splitlines()):
            self.external, end = line.get("external", self.external), line.get("end")
            self.events += [line["event"]["code"]] if "event" in line else []
            self.ends += [line] if end else []
        return end

    def send_until_done(self):
        for _ in range(6):
            if self.send() == "ok":
                return
        raise AssertionError(self.ends)

    def kill(self):
        self.process.kill()


FILES = {WEIGHTS: bytes(range(256)) * 2000, "tokenizer.json": b"[" + b" " * 4000 + b"]", "config.json": b"{}", "empty.txt": b""}


@pytest.fixture
def delivery(tmp_path, hub):
    return Delivery(tmp_path, hub, FILES)


def check_head(hub, files=FILES, name="org/result", commits=1):
    there = hub.head(name)
    assert there.pop("README.md") and there.pop(".gitattributes") and there == files and len(hub.summaries) == commits and hub.repos[name].is_private


def test_an_export_asks_no_more_than_it_needs(hub, delivery):
    delivery.send_until_done()
    check_head(hub)
    asked = [f"{entry.method} {entry.path.partition('?')[0].replace('/api/models/org/result', '')}" for entry in hub.log]
    assert asked[:4] == ["POST /api/repos/create", "GET /revision/main", "POST /preupload/main", f"GET /tree/{list(hub.repos['org/result'].commits)[0]}"]
    assert asked[-1] == "POST /commit/main" and len(asked) == 4 + (1 + 6 + 2) + (1 + 1 + 1) + 1, asked  # batch, parts, completion and check of the weights; the tokenizer goes whole
    before = len(hub.log)
    assert delivery.send() == "ok" and len(hub.log) == before + 3 and delivery.events == ["begun", "done"] * 2
    check_head(hub)


# Of the 17 requests of an export: the first, the questions, parts, completion, check, the whole file, the commit.
@pytest.mark.parametrize("kind, skip", [("dropped", n) for n in (1, 3, 6, 10, 13, 16)] + [("lost", n) for n in (0, 4, 9, 11, 12, 16)])
def test_a_sender_that_is_killed_leaves_nothing_to_be_done_twice(hub, delivery, kind, skip):
    hub.fault("", kind, skip=skip, call=delivery.kill)
    assert delivery.send() is None and delivery.process.returncode == -9
    delivery.send_until_done()
    check_head(hub)
    parts = [entry.path for entry in hub.served("cdn", "part-")]
    assert len(parts) <= 7 and len({path.partition("?")[0] for path in parts}) == 1, "parts that arrived are not sent again"


@pytest.mark.parametrize("path, how", [("/commit/main", {"status": 503}), ("/objects/batch", {"status": 429, "headers": {"Retry-After": "7"}}),
                                       ("/objects/batch", {"status": 429, "headers": {"ratelimit": '"api";r=0;t=8'}}), ("part-00002", {"status": 500}),
                                       ("part-00002", {"status": 403}), ("/revision/main", {"status": 500}), ("/api/repos/create", {"status": 502}), ("whole", {"status": 503}),
                                       ("/preupload/main", {"status": 200, "body": b"<html>"})])
def test_what_fails_once_is_tried_again(hub, delivery, path, how):
    hub.fault(path, "status", **how)
    delivery.send_until_done()
    check_head(hub)
    assert len(delivery.ends) == (1 if how["status"] == 500 and "part" in path or path == "whole" else 2)
    assert delivery.ends[0]["wait_ms"] == (8000 if "Retry-After" in str(how) else 9000 if "ratelimit" in str(how) else 0)


def test_signed_urls_that_have_expired_are_asked_for_anew(hub, delivery):
    hub.fault("part-00004", "dropped", call=delivery.kill)
    delivery.send()
    hub.uploads.clear()
    delivery.send_until_done()
    check_head(hub)
    assert len(hub.served("hub", "objects/batch")) == 3 and not pathlib.Path(delivery.document["operator"]["parts_path"]).exists()


def test_a_commit_of_somebody_else_in_between_is_not_undone(hub, delivery):
    from fake_hub import File
    hub.fault("/commit/main", "dropped", call=lambda: hub.commit("org/result", {**hub.repos["org/result"].commits[hub.repos["org/result"].refs["main"]], "notes.md": File(b"n", False)}))
    delivery.send_until_done()
    check_head(hub, {**FILES, "notes.md": b"n"})


def test_a_user_who_is_renamed_meanwhile_gets_no_second_repository(hub, tmp_path):
    delivery = Delivery(tmp_path, hub, FILES, "result")
    hub.fault("/commit/main", "dropped", call=delivery.kill)
    delivery.send()
    hub.tokens[TOKEN] = {"name": "renamed", "orgs": ["someone"]}
    hub.repos["someone/result"].readers.add("renamed")
    delivery.send_until_done()
    check_head(hub, name="someone/result")
    assert len(hub.served("hub", "whoami")) == 1


@pytest.mark.parametrize("break_it, says", [(lambda d: d.document["secrets"].clear(), "no api_token"), (lambda d: os.remove(d.document["result"]["folder"] + "/" + WEIGHTS), "not there as"),
                                            (lambda d: os.truncate(d.document["result"]["folder"] + "/" + WEIGHTS, 9), "not there as"),
                                            (lambda d: pathlib.Path(d.document["result"]["folder"], "MANIFEST").write_text('{"files":[{"name":"../x","bytes":1,"sha256":"' + "0" * 64 + '"}]}'), "MANIFEST"),
                                            (lambda d: d.document["operator"].update(origins=""), "may not reach")])
def test_what_cannot_be_is_given_up_before_anything_is_sent(hub, delivery, break_it, says):
    break_it(delivery)
    assert delivery.send() == "failed" and says in delivery.ends[0]["message"] and not hub.log


def test_a_server_that_is_killed_meanwhile_goes_on_where_it_was(tmp_path, models, hub):
    hub.part_bytes = 50_000
    server, client, file = start(tmp_path, models, hub)
    hub.fault("part-00004", "dropped", call=lambda: server.process.kill())
    job = create(client, file)
    server.process.wait(timeout=60)
    assert list((server.data / "exports").iterdir())
    server.start()
    client = connect(server)
    wait_for_state(server, job.id)
    check_repository(hub, server, job.id)
    parts = [entry.path for entry in hub.served("cdn", "part-")]
    assert sorted(set(parts)) == sorted(parts[:4] + parts[5:]) and len(told(client, job.id)) == 2
    assert server.stop() == 0


@pytest.mark.parametrize("name, token, refusal, says", [("org/result", "hf_reader", None, "answered 403"), ("org/result", "hf_CANARYwrong", None, "answered 401"),
                                                        ("elsewhere/result", TOKEN, None, "answered 403"), ("org/result", TOKEN, {"code": 422, "message": "CANARY"}, "refuses it with 422")])
def test_a_refusal_is_final_and_repeats_nothing_of_what_the_hub_said(hub, delivery, name, token, refusal, says):
    if refusal:
        hub.offer = lambda repo, oid, size, transfers: {"oid": oid, "size": size, "error": refusal}
    delivery.document["config"]["output_repo_name"], delivery.document["secrets"]["api_token"] = name, token
    assert delivery.send() == "failed" and says in delivery.ends[0]["message"] and "CANARY" not in delivery.ends[0]["message"] and not hub.summaries


def test_a_refusal_costs_one_warning_and_the_job_succeeds(tmp_path, models, hub):
    server, client, file = start(tmp_path, models, hub)
    job = wait_for_job(client, create(client, file, token="hf_CANARYwrong").id)
    assert job.status == "succeeded" and job.fine_tuned_model
    wait_for_state(server, job.id, "failed")
    (warning,) = told(client, job.id)
    assert warning.startswith("integrations.0 (hf): given up") and "answered 401" in warning and "CANARY" not in warning and not hub.summaries
    assert server.stop() == 0
    no_canary(tmp_path)


def test_a_store_that_the_operator_does_not_list_is_not_reached(hub, delivery):
    delivery.document["operator"]["origins"] = f"internal:{hub.url}"
    assert delivery.send() == "failed" and not hub.served("cdn")
    assert f"this server may not reach {hub.cdn_url}" in delivery.ends[0]["message"] or "127.0.0.1" in delivery.ends[0]["message"]
    assert "CANARY" not in delivery.ends[0]["message"]


def test_a_job_that_does_not_succeed_is_not_exported(tmp_path, models, hub):
    server, client, file = start(tmp_path, models, hub)
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, hyperparameters={"n_epochs": 50},
                                         extra_body={"integrations": [{"hf": {"output_repo_name": "org/result", "api_token": TOKEN}}]})
    client.fine_tuning.jobs.cancel(job.id)
    wait_for_state(server, job.id)
    assert not hub.log and not told(client, job.id)
    assert server.stop() == 0


def test_what_is_asked_of_the_hub_is_checked_at_the_door(tmp_path, models, hub):
    server, client, file = start(tmp_path, models, hub)
    for config in ({"output_repo_name": "a/b/c", "api_token": "t"}, {"output_repo_name": "a", "api_token": None}, {"output_repo_name": "a"}, {"api_token": "t"}, {},
                   {"output_repo_name": "a--b", "api_token": "t"}, {"output_repo_name": "a", "api_token": "t", "private": False}):
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, extra_body={"integrations": [{"type": "hf", "hf": config}]})
        assert refused.value.param.startswith("integrations.0.hf")
    assert server.stop() == 0


@pytest.mark.parametrize("own_card", [None, "---\nlicense: apache-2.0\n---\n"], ids=["asked for", "in the cache"])
def test_the_card_states_the_licence_of_a_base_of_the_hub(tmp_path, models, hub, monkeypatch, own_card):
    """transformers fetches no cards: then the Hub has it."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    commit = hub.put("org/base", {"README.md": b"---\nlicense: mit\n---\n# base\n"})
    folder = tmp_path / "hf/hub/models--org--base"
    shutil.copytree(models / "test/tiny", folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(commit)
    if own_card:
        (folder / "snapshots" / commit / "README.md").write_text(own_card)
    server, client, file = start(tmp_path, models, hub)
    job = client.fine_tuning.jobs.create(model="org/base", training_file=file.id, hyperparameters={"n_epochs": 1, "batch_size": 8, "lora": True},
                                         extra_body={"integrations": [{"type": "hf", "hf": {"output_repo_name": "org/result", "api_token": TOKEN}}]})
    assert wait_for_job(client, job.id).status == "succeeded"
    wait_for_state(server, job.id)
    assert ("license: apache-2.0\n" if own_card else "license: mit\n") in check_repository(hub, server, job.id)
    assert server.stop() == 0
