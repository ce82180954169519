"""`attune models pull` from the fake hub, and its cache against the real client's, both ways: `make hub`."""
import hashlib
import json
import os
import pathlib
import signal
import struct
import subprocess
import threading
import time

import pytest
from conftest import ROOT, client

ATTUNE = os.environ.get("ATTUNE_BIN", str(ROOT / "build/attune"))
SNAPSHOT = "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1], local_files_only=len(sys.argv) > 2))"
MIB = 1 << 20


def tensors(seed, mib):
    """A safetensors file of one tensor."""
    header = json.dumps({f"t{seed}": {"dtype": "U8", "shape": [mib * MIB], "data_offsets": [0, mib * MIB]}}).encode()
    block = hashlib.sha256(b"%d" % seed).digest() * (MIB // 32)
    return struct.pack("<Q", len(header)) + header + block * mib


def sharded(mib=2, shards=3):
    names = [f"model-{n + 1:05}-of-{shards:05}.safetensors" for n in range(shards)]
    index = {"metadata": {"total_size": shards * mib * MIB},
             "weight_map": {f"t{n}": name for n, name in enumerate(names)}}
    return {"config.json": b'{"model_type":"llama"}', "generation_config.json": b"{}",
            "tokenizer.json": b'{"version":"1.0"}', "tokenizer_config.json": b"{}", "README.md": b"",
            "additional_chat_templates/tool_use.jinja": b"{{ tools }}",
            "model.safetensors.index.json": json.dumps(index).encode(),
            **{name: tensors(n, mib) for n, name in enumerate(names)}}


UNWANTED = {".gitattributes": b"* text", "pytorch_model.bin": b"pickle", "modeling_evil.py": b"import os",
            "onnx/model.onnx": b"x", "original/consolidated.pth": b"x"}


class Pull:
    def __init__(self, hub, home):
        self.hub, self.home = hub, home
        self.environment = {**{k: v for k, v in os.environ.items() if not k.startswith("HF_")}, "HF_ENDPOINT": hub.url,
                            "HF_HOME": str(home), "HOME": str(home)}

    def start(self, repo, *options, **environment):
        return subprocess.Popen([ATTUNE, "models", "pull", repo, *options], env={**self.environment, **environment},
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __call__(self, repo, *options, **environment):
        """The snapshot's folder."""
        out, problem = (process := self.start(repo, *options, **environment)).communicate(timeout=120)
        assert process.returncode == 0, problem
        return pathlib.Path(out.strip())

    def error(self, repo, *options, **environment):
        _, problem = (process := self.start(repo, *options, **environment)).communicate(timeout=120)
        assert process.returncode == 1, problem
        return problem.splitlines()[-1]


@pytest.fixture
def pull(hub, tmp_path):
    return Pull(hub, tmp_path)


def content(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def gets(hub):
    """Requests for bytes of files."""
    return [entry
            for entry in hub.served() if entry.method == "GET" and ("/resolve/" in entry.path or entry.server == "cdn")]


def test_a_sharded_model_comes_without_what_is_not_needed(hub, pull):
    files = sharded()
    commit = hub.put("org/name", {**files, **UNWANTED})
    hub.page = 3
    folder = pull("org/name")
    assert folder.name == commit and content(folder) == files
    assert (folder.parents[1] / "refs/main").read_text() == commit
    links = [f for f in folder.rglob("*") if f.is_symlink()]
    assert len(links) == len(files) and all(not os.path.isabs(os.readlink(f)) for f in links)
    assert not list(pull.home.rglob("*.incomplete"))


def test_what_is_there_is_not_fetched_again(hub, pull):
    hub.put("org/name", sharded())
    folder = pull("org/name")
    before = len(gets(hub))
    assert pull("org/name") == folder and len(gets(hub)) == before
    hub.put("org/name", {**sharded(), "tokenizer_config.json": b'{"new": 1}'})
    newer = pull("org/name")
    assert newer != folder and len(gets(hub)) == before + 1 and content(newer)["tokenizer_config.json"] == b'{"new": 1}'


def test_the_real_client_uses_our_cache_without_a_byte(hub, pull):
    files = sharded()
    hub.put("org/name", files)
    folder = pull("org/name")
    before = len(gets(hub))
    assert client(hub, pull.home, SNAPSHOT, "org/name") == str(folder)
    assert client(hub, pull.home, SNAPSHOT, "org/name", "offline") == str(folder)
    one = "import huggingface_hub as h; print(h.hf_hub_download('org/name', 'model-00002-of-00003.safetensors'))"
    assert client(hub, pull.home, one, HF_HUB_OFFLINE="1") == str(folder / "model-00002-of-00003.safetensors")
    assert len(gets(hub)) == before


def test_the_real_clients_cache_is_used_without_a_byte(hub, pull):
    files = sharded()
    hub.put("org/name", files)
    folder = client(hub, pull.home, SNAPSHOT, "org/name")
    before = len(gets(hub))
    assert str(pull("org/name")) == folder and len(gets(hub)) == before
    everything = len(hub.log)
    assert str(pull("org/name", "--offline")) == folder and str(pull("org/name", HF_HUB_OFFLINE="1")) == folder
    assert len(hub.log) == everything


def test_a_killed_download_goes_on_where_it_was(hub, pull):
    files = sharded(mib=4)
    hub.put("org/name", files)
    release = threading.Event()
    for shard in ("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"):
        for kind in ("", "cut", "", "hold"):  # the hub's redirect, the CDN's answer, and both again
            hub.fault(shard, kind, at=3 * MIB, event=release)
    process = pull.start("org/name")
    deadline = time.time() + 60
    while len([e for e in hub.served("cdn") if e.headers.get("range") and e.sent]) < 2:
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    release.set()
    assert not (pull.home / "hub/models--org--name/snapshots").exists()
    before = len(hub.log)
    assert content(pull("org/name")) == files
    ranges = [e.headers.get("range") for e in hub.log[before:] if e.server == "cdn"]
    starts = sorted(int(r.split("=")[1].rstrip("-")) for r in ranges if r)
    assert len(starts) == 2 and all(start >= 3 * MIB for start in starts)
    assert sum(e.sent for e in hub.log[before:] if e.server == "cdn") <= 2 * (1.1 * MIB) + 4.1 * MIB


@pytest.mark.parametrize("kind,how", [("cut", {"at": 0}), ("cut", {"at": 1_234_567}), ("status", {"status": 503}),
                                      ("status", {"status": 429, "headers": {"Retry-After": "0"}}),
                                      ("expired", {})])
def test_a_transfer_that_broke_goes_on(hub, pull, kind, how):
    files = sharded()
    hub.put("org/name", files)
    hub.fault("model-00002-of-00003.safetensors", kind, **how)
    assert content(pull("org/name")) == files


def test_a_server_that_ignores_ranges_sends_all_again(hub, pull):
    files = sharded()
    hub.put("org/name", files)
    for kind in ("", "cut", "", "ignore_range"):  # the hub's redirect, the CDN's answer, and both again
        hub.fault("model-00002-of-00003.safetensors", kind, at=MIB)
    assert content(pull("org/name")) == files
    assert [e.status for e in hub.served("cdn", "00002")] == [200, 200]


def test_what_does_not_have_its_hash_is_never_shown(hub, pull):
    hub.put("org/name", sharded())
    hub.fault("/config.json", "corrupt", times=2)
    assert "does not have the hash" in pull.error("org/name")
    assert not (pull.home / "hub/models--org--name/snapshots").exists()
    assert content(pull("org/name")) == sharded()


def test_a_spoilt_partial_file_is_fetched_anew(hub, pull):
    files = sharded()
    hub.put("org/name", files)
    blob = pull.home / "hub/models--org--name/blobs" / hashlib.sha256(
        files["model-00001-of-00003.safetensors"]).hexdigest()
    blob.parent.mkdir(parents=True)
    blob.with_name(blob.name + ".incomplete").write_bytes(b"\0" * MIB)
    assert content(pull("org/name")) == files


GOOD = {"HF_TOKEN": "hf_reader"}


@pytest.mark.parametrize("settings,arguments,environment,words", [
    ({}, ("org/none",), {}, "org/none is not at http"),
    ({}, ("org/none",), {}, "no token was given"),
    ({}, ("org/none",), GOOD, "the token's owner may not read it"),
    ({"is_private": True}, ("org/name",), {}, "no token was given"),
    ({"is_private": True}, ("org/name",), {"HF_TOKEN": "hf_other"}, "the token's owner may not read it"),
    ({"is_private": True}, ("org/name",), GOOD, None),
    ({"gated": "manual"}, ("org/name",), {}, "org/name is gated: accept its conditions, and give a token"),
    ({"gated": "manual"}, ("org/name",), {"HF_TOKEN": "hf_other"},
     "org/name is gated: the token's owner has to accept its conditions"),
    ({"gated": "manual"}, ("org/name",), GOOD, None),
    ({}, ("org/name",), {"HF_TOKEN": "hf_wrong"}, "does not know the token"),
    ({}, ("org/name", "--revision", "v9"), {}, "org/name has no revision 'v9'"),
    ({"is_disabled": True}, ("org/name",), {}, "org/name is disabled"),
    ({}, ("org/name/more",), {}, "is not the name of a repository"),
    ({}, ("../name",), {}, "is not the name of a repository"),
    ({}, ("org/name", "--revision", "../x"), {}, "is not the name of a revision"),
    ({}, ("org/name", "--offline"), {}, "offline nothing is fetched"),
])
def test_what_cannot_be_had_is_told_by_its_own_error(hub, pull, settings, arguments, environment, words):
    hub.tokens = {"hf_reader": {"name": "reader"}, "hf_other": {"name": "other"}}
    hub.put("org/name", sharded(mib=1, shards=1), readers={"reader"}, **settings)
    if words is None:
        assert pull(*arguments, **environment).is_dir()
    else:
        assert words in pull.error(*arguments, **environment)


def test_a_token_comes_from_the_files_of_the_client(hub, pull, tmp_path):
    hub.tokens = {"hf_reader": {"name": "reader"}}
    hub.put("org/name", sharded(mib=1, shards=1), is_private=True, readers={"reader"})
    assert "no token was given" in pull.error("org/name")
    (tmp_path / "token").write_text("hf_reader\n")
    assert pull("org/name").is_dir()
    (tmp_path / "other").write_text("hf_wrong\n")
    assert "does not know the token" in pull.error("org/name", "--token-file", str(tmp_path / "other"),
                                                   HF_TOKEN="hf_reader")


def test_revisions_are_kept_apart(hub, pull):
    old = hub.put("org/name", {**sharded(mib=1, shards=1), "tokenizer_config.json": b"old"}, revision="refs/pr/7")
    hub.put("org/name", sharded(mib=1, shards=1))
    assert content(pull("org/name", "--revision", "refs/pr/7"))["tokenizer_config.json"] == b"old"
    assert pull("org/name", "--revision", old).name == old
    assert content(pull("org/name"))["tokenizer_config.json"] == b"{}"
    assert client(hub, pull.home, "import huggingface_hub as h; print(h.snapshot_download('org/name', revision='refs/pr/7', local_files_only=True))").endswith(old)


@pytest.mark.parametrize("files,words", [
    ({"config.json": b"{}", "pytorch_model.bin": b"x"}, "PyTorch's .bin alone"),
    ({"config.json": b"{}", "model.Q4.gguf": b"x"}, "GGUF alone"),
    ({"README.md": b"hello"}, "it has no weights"),
    ({"config.json": b"{}", "model.safetensors.index.json": b'{"weight_map":{"a":"model-1.safetensors"}}'},
     "names a file that it does not have: model-1.safetensors"),
    ({"config.json": b"{}", "model.safetensors.index.json": b'{"weight_map":{"a":"../../../etc/passwd"}}'},
     "names a file that it does not have"),
    ({"config.json": b"{}", "model.safetensors.index.json": b"[]"}, "has no weight_map"),
])
def test_a_repository_without_a_model_is_refused(hub, pull, files, words):
    hub.put("org/name", files)
    assert words in pull.error("org/name")
    assert not [e for e in gets(hub) if e.path.endswith((".bin", ".gguf"))]


def test_an_adapter_comes_with_its_base(hub, pull):
    base = hub.put("org/base", sharded(mib=1, shards=1))
    adapter = {"adapter_config.json": b'{"peft_type":"LORA","base_model_name_or_path":"org/base","revision":null}',
               "adapter_model.safetensors": tensors(7, 1)}
    hub.put("me/adapter", adapter)
    assert content(pull("me/adapter")) == adapter
    assert (pull.home / "hub/models--org--base/snapshots" / base / "config.json").exists()


@pytest.mark.parametrize("location,words",
                         [("http://127.0.0.1:1/x", "cannot reach"), ("file:///etc/passwd", "a redirect of"),
                          ("", "a redirect of"), ("../up", "a redirect of")])
def test_a_redirect_that_leads_nowhere_is_told(hub, pull, location, words):
    hub.put("org/name", sharded(mib=1, shards=1))
    hub.fault("/revision/main", "location", location=location)
    assert words in pull.error("org/name")


def test_redirects_in_a_circle_end(hub, pull):
    hub.put("org/name", sharded(mib=1, shards=1))
    hub.fault("/revision/main", "location", times=100, location="/api/models/org/name/revision/main")
    assert "more than 5 times" in pull.error("org/name")


def test_a_repository_that_moved_is_found(hub, pull):
    hub.put("org/new", sharded(mib=1, shards=1))
    hub.moved["org/old"] = "org/new"
    assert content(pull("org/old")) == sharded(mib=1, shards=1)


@pytest.mark.parametrize("path,body,words", [
    ("/revision/main", b"", "line 1"), ("/revision/main", b"[]", "no commit"),
    ("/revision/main", b'{"sha":"../../x"}', "no commit"),
    ("/tree/", b"{}", "is no list"), ("/tree/", b'[{"type":"file","path":"a","size":1}]', "no size or no hash"),
    ("/tree/", b'[{"type":"file","path":"a","oid":"%s","size":-1}]' % (b"a" * 40), "no size or no hash"),
    ("/tree/", b'[{"type":"file","path":"../a","oid":"%s","size":1}]' % (b"a" * 40), "it has no weights"),
])
def test_answers_that_no_hub_gives_are_refused(hub, pull, path, body, words):
    commit = hub.put("org/name", sharded(mib=1, shards=1))
    hub.fault(path if path != "/tree/" else f"/tree/{commit}", "status", status=200, body=body)
    assert words in pull.error("org/name")
