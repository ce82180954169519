"""The real client finds that the fake hub takes uploads as the Hub does: `make hub`."""
import json
import pathlib

import pytest
from conftest import client
from fake_upload import UploadHub

CREATE = "import sys, huggingface_hub as h; print(h.create_repo(sys.argv[1], private=True, exist_ok='again' in sys.argv).repo_id)"
UPLOAD = "import sys, huggingface_hub as h; print(h.upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2], commit_message='from the client').oid)"
SNAPSHOT = "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1]))"
CARD = "---\nlicense: mit\n---\n# a model\n"
FILES = {"README.md": CARD.encode(), "config.json": b"{}", "model.safetensors": bytes(range(256)) * 60_000,
         "adapter_model.safetensors": b"small", "sub/notes.txt": b"text\n",
         "empty.safetensors": b""}


@pytest.fixture
def hub():
    with UploadHub() as fake:
        fake.tokens = {"hf_writer": {"name": "someone", "orgs": ["org"]},
                       "hf_reader": {"name": "other", "role": "read"}}
        yield fake
        assert fake.leaks == [], "a token went to the store"


def write(folder, files):
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def test_a_folder_is_uploaded_in_one_commit_and_comes_back(hub, tmp_path):
    client(hub, tmp_path, CREATE, "org/name", token="hf_writer")
    commit = client(hub, tmp_path, UPLOAD, "org/name", write(tmp_path / "folder", FILES), token="hf_writer").splitlines()[-1]
    assert hub.repos["org/name"].is_private and hub.repos["org/name"].refs["main"] == commit
    assert hub.summaries[commit][0] == "from the client"
    assert {path: data for path, data in hub.head("org/name").items() if path != ".gitattributes"} == FILES
    assert [len(upload.parts) for upload in hub.uploads.values() if upload.parts] == [3], "15 MB in parts of 5 MiB"
    assert len(hub.verified) == 2
    folder = pathlib.Path(client(hub, tmp_path, SNAPSHOT, "org/name", token="hf_writer"))
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    before = len(hub.log)
    client(hub, tmp_path, UPLOAD, "org/name", tmp_path / "folder", token="hf_writer")
    assert hub.repos["org/name"].refs["main"] == commit
    assert not [entry for entry in hub.log[before:] if "/commit/" in entry.path or entry.method == "PUT"]


def test_a_repository_is_made_once_and_by_those_who_may(hub, tmp_path):
    assert client(hub, tmp_path, CREATE, "name", token="hf_writer") == "someone/name"
    assert client(hub, tmp_path, CREATE, "someone/name", "again", token="hf_writer") == "someone/name"
    assert "409" in client(hub, tmp_path, CREATE, "someone/name", token="hf_writer", check=False).stderr
    assert "403" in client(hub, tmp_path, CREATE, "someone/other", token="hf_reader", check=False).stderr
    assert "401" in client(hub, tmp_path, CREATE, "someone/other", token="hf_nobody", check=False).stderr
    assert list(hub.repos) == ["someone/name"]


@pytest.mark.parametrize("fault", [("part-00002", "status", {"status": 500}), ("part-00001", "dropped", {}),
                                   ("/preupload/main", "status", {"status": 503})])
def test_the_client_tries_again(hub, tmp_path, fault):
    client(hub, tmp_path, CREATE, "org/name", token="hf_writer")
    hub.fault(fault[0], fault[1], **fault[2])
    client(hub, tmp_path, UPLOAD, "org/name", write(tmp_path / "folder", FILES), token="hf_writer")
    assert hub.head("org/name")["model.safetensors"] == FILES["model.safetensors"] and len(hub.summaries) == 1


def test_a_commit_on_an_older_parent_is_refused(hub, tmp_path):
    client(hub, tmp_path, CREATE, "org/name", token="hf_writer")
    code = (
        "import sys, huggingface_hub as h\nfor text in (b'1', b'2'): h.create_commit(repo_id='org/name', operations=[h.CommitOperationAdd('a.txt', text)], "
            "commit_message='m', parent_commit=sys.argv[1])")
    run = client(hub, tmp_path, code, hub.repos["org/name"].refs["main"], token="hf_writer", check=False)
    assert "412" in run.stderr and hub.head("org/name")["a.txt"] == b"1"
    assert json.dumps(list(hub.summaries.values())).count("a.txt") == 1
