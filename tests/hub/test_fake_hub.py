"""The real client finds the fake hub to be one: `make hub`."""
import pathlib

import pytest
from conftest import client

SNAPSHOT = "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1], revision=sys.argv[2] if len(sys.argv) > 2 else None))"
FILE = "import sys, huggingface_hub as h; print(h.hf_hub_download(sys.argv[1], sys.argv[2]))"
ERROR = """
import sys, huggingface_hub as h
try:
    h.hf_hub_download(sys.argv[1], sys.argv[2], revision=sys.argv[3] if len(sys.argv) > 3 else None)
except Exception as error:
    print(type(error.__cause__ if isinstance(error, h.errors.LocalEntryNotFoundError) else error).__name__)
"""
FILES = {"config.json": b'{"model_type":"llama"}', "model.safetensors": bytes(range(256)) * 1000,
         "sub/dir/notes.txt": b"deeper\n", "empty.txt": b""}


def test_a_snapshot_is_downloaded_once(hub, tmp_path):
    commit = hub.put("org/name", FILES)
    folder = pathlib.Path(client(hub, tmp_path, SNAPSHOT, "org/name"))
    assert folder.name == commit
    assert {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()} == FILES
    before = len(hub.log)
    client(hub, tmp_path, SNAPSHOT, "org/name")
    assert [entry.method for entry in hub.log[before:] if "/resolve/" in entry.path] == []
    assert not list((tmp_path / "hub").rglob("*.incomplete"))


def test_a_tree_comes_in_pages(hub, tmp_path):
    hub.page = 2
    hub.put("org/name", {f"part-{n}.json": b"%d" % n for n in range(7)})
    assert len(list(pathlib.Path(client(hub, tmp_path, SNAPSHOT, "org/name")).iterdir())) == 7


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/1", "commit"])
def test_a_revision_is_a_branch_a_tag_a_request_or_a_commit(hub, tmp_path, revision):
    commit = hub.put("org/name", {"a.txt": b"old"}, revision="v1.0" if revision == "commit" else revision)
    hub.put("org/name", {"a.txt": b"new"})
    folder = pathlib.Path(client(hub, tmp_path, SNAPSHOT, "org/name", commit if revision == "commit" else revision))
    assert (folder / "a.txt").read_bytes() == b"old"


def test_a_transfer_that_broke_is_finished_with_a_range(hub, tmp_path):
    data = bytes(range(256)) * 90_000  # the client keeps what it has of pieces of 10 MiB
    hub.put("org/name", {"model.safetensors": data})
    hub.fault("model.safetensors", "cut", at=15 << 20)
    assert pathlib.Path(client(hub, tmp_path, FILE, "org/name", "model.safetensors")).read_bytes() == data
    served = [(entry.status, entry.headers.get("range")) for entry in hub.served("cdn")]
    assert served == [(200, None), (206, f"bytes={10 << 20}-")]


@pytest.mark.parametrize("name,arguments,token,settings", [
    ("RepositoryNotFoundError", ("org/none", "a.txt"), None, {}),
    ("RepositoryNotFoundError", ("org/none", "a.txt"), "hf_other", {}),
    ("RepositoryNotFoundError", ("org/name", "a.txt"), None, {"is_private": True}),
    ("RevisionNotFoundError", ("org/name", "a.txt", "nope"), None, {}),
    ("RemoteEntryNotFoundError", ("org/name", "b.txt"), None, {}),
    ("GatedRepoError", ("org/name", "a.txt"), None, {"gated": "manual"}),
    ("GatedRepoError", ("org/name", "a.txt"), "hf_other", {"gated": "manual"}),
    ("DisabledRepoError", ("org/name", "a.txt"), None, {"is_disabled": True}),
    ("", ("org/name", "a.txt"), "hf_reader", {"gated": "manual"}),
    ("", ("org/name", "a.txt"), "hf_reader", {"is_private": True}),
])
def test_what_may_not_be_read_gives_the_clients_own_error(hub, tmp_path, name, arguments, token, settings):
    hub.tokens = {"hf_reader": {"name": "reader"}, "hf_other": {"name": "other"}}
    hub.put("org/name", {"a.txt": b"a"}, readers={"reader"}, **settings)
    assert client(hub, tmp_path, ERROR, *arguments, token=token) == name


def test_a_wrong_token_is_told(hub, tmp_path):
    run = client(hub, tmp_path, "import huggingface_hub as h; h.whoami()", token="hf_wrong", check=False)
    assert run.returncode != 0 and "401" in run.stderr
    hub.tokens = {"hf_good": {"name": "alice"}}
    assert client(hub, tmp_path, "import huggingface_hub as h; print(h.whoami()['name'])", token="hf_good") == "alice"


def test_a_repository_that_moved_is_found(hub, tmp_path):
    hub.put("org/new", {"a.txt": b"a"})
    hub.moved["org/old"] = "org/new"
    assert pathlib.Path(client(hub, tmp_path, FILE, "org/old", "a.txt")).read_bytes() == b"a"
