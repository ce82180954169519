"""Jobs that begin with weights of a Hugging Face Hub (a fake one: tests/hub/fake_hub.py, proven by the real client) or of an earlier job."""
import contextlib
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import threading

import openai
import pytest
from conftest import BINARY, Server, chat_lines, check_response, wait_for, wait_for_job
from tiny_model import adapter_for, make_tiny_model, sharded

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "hub"))
from fake_hub import FakeHub, git_sha1  # noqa: E402

TOKEN = "hf_CANARY0123456789abcdef"
SMALL = {"n_epochs": 1, "batch_size": 8}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = make_tiny_model(tmp_path_factory.mktemp("hub-model") / "tiny")
    return {f.name: f.read_bytes() for f in folder.iterdir()}


class Site:
    def __init__(self, folder, models, hub, origins=None, serve=(), **environment):
        self.folder, self.hub = folder, hub
        (folder / "key").write_text("0123456789abcdef" * 4)
        (folder / "key").chmod(0o600)
        origins = f"internal:{hub.url} internal:{hub.cdn_url}" if origins is None else origins
        self.server = Server(folder / "data", models, "--no-auth", "--secret-key-file", folder / "key", *(["--outgoing", origins] if origins else []), *serve)
        self.environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), **environment}
        self.start()
        self.file = self.client.files.create(file=("t.jsonl", chat_lines(24).encode()), purpose="fine-tune")

    def start(self):
        before = dict(os.environ)
        os.environ.update(self.environment)
        try:
            self.server.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        self.client = openai.OpenAI(base_url=self.server.url + "/v1", api_key="none", max_retries=0)
        self.client._client.event_hooks = {"response": [check_response]}

    def create(self, model, from_checkpoint=None, **hyperparameters):
        extra = {"from_checkpoint": from_checkpoint} if from_checkpoint else {}
        return self.client.fine_tuning.jobs.create(model=model, training_file=self.file.id, hyperparameters={**SMALL, **hyperparameters}, extra_body=extra)

    def wait(self, job):
        return wait_for_job(self.client, job.id)

    def messages(self, job):
        return [event.message for event in self.client.fine_tuning.jobs.list_events(job.id, limit=100)]

    def plan_of(self, job):
        return json.loads((self.folder / "data/runs" / job.id / "job.json").read_text())

    def secrets(self):
        with sqlite3.connect(f"file:{self.folder / 'data/attune.db'}?mode=ro", uri=True) as database:
            return database.execute("SELECT COUNT(*) FROM secrets").fetchone()[0]


@pytest.fixture
def hub():
    with FakeHub() as fake:
        yield fake
        assert fake.leaks == [], "a token went to the CDN"


@pytest.fixture
def sites(tmp_path, models, hub):
    made = []

    def make(**options):
        made.append(Site(tmp_path, models, hub, **options))
        return made[-1]

    yield make
    for site in made:
        if site.server.process.poll() is None:
            assert site.server.stop() == 0


def test_a_model_that_is_not_here_is_fetched_and_trained(hub, sites, tiny):
    commit = hub.put("org/tiny", sharded(tiny))
    site = sites()
    job = site.create("org/tiny")
    assert job.status == "queued" and job.hyperparameters.model_extra["context_length"] == 8192
    done = site.wait(job)
    assert done.status == "succeeded", done.error
    assert done.hyperparameters.model_extra["context_length"] == 256  # the model's own, known since it is here
    messages = site.messages(job)
    assert any(m.startswith(f"Fetching org/tiny at commit {commit[:12]}: ") for m in messages) and any("100 %" in m for m in messages)
    assert site.plan_of(job)["model"]["path"] == str(site.folder / "hf/hub/models--org--tiny/snapshots" / commit)
    assert "org/tiny" in [model.id for model in site.client.models.list()]
    before = len(hub.log)
    assert site.wait(site.create("org/tiny")).status == "succeeded" and len(hub.log) == before  # from the cache, without a request


def test_a_checkpoint_of_the_hub_is_begun_with(hub, sites, tiny):
    hub.put("me/tuned", tiny)
    old = hub.put("me/tuned", {**tiny, "README.md": b"old"}, revision="v1")
    site = sites()
    job = site.create("test/tiny", {"type": "hf", "repo": "me/tuned", "revision": "v1"})
    assert job.model_extra["from_checkpoint"] == {"type": "hf", "repo": "me/tuned", "revision": "v1"}
    assert site.wait(job).status == "succeeded"
    assert site.plan_of(job)["model"] == {"id": "test/tiny", "path": str(site.folder / "hf/hub/models--me--tuned/snapshots" / old)}
    assert site.client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model.startswith("ft:test/tiny:")


def test_an_adapter_of_the_hub_is_trained_on(hub, sites, tiny, tmp_path):
    hub.put("org/tiny", tiny)
    hub.put("me/adapter", adapter_for(tmp_path, "org/tiny"))
    site = sites()
    lora = {"lora": True, "lora_r": 4, "lora_alpha": 8}
    alone = site.create("me/adapter", **lora)  # its base comes with it
    on_ours = site.create("test/tiny", {"repo": "me/adapter"}, **lora)  # on the model that the request names
    assert site.wait(alone).status == "succeeded", site.messages(alone)
    assert site.wait(on_ours).status == "succeeded", site.messages(on_ours)
    assert "/models--org--tiny/" in site.plan_of(alone)["model"]["path"] and "/models--me--adapter/" in site.plan_of(alone)["adapter"]["path"]
    assert site.plan_of(on_ours)["model"]["path"].endswith("test/tiny") and "/models--me--adapter/" in site.plan_of(on_ours)["adapter"]["path"]
    refused = site.wait(site.create("me/adapter"))
    assert refused.status == "failed" and "set lora to true" in refused.error.message


def test_what_a_token_opens_is_its_projects_alone(hub, sites, tiny):
    hub.tokens = {TOKEN: {"name": "reader"}}
    hub.put("org/secret", tiny, is_private=True, readers={"reader"})
    site = sites()
    job = site.create("test/tiny", {"type": "hf", "repo": "org/secret", "token": TOKEN})
    assert "token" not in job.model_extra["from_checkpoint"]
    assert site.wait(job).status == "succeeded", site.messages(job)
    assert "/hub-of-projects/" in site.plan_of(job)["model"]["path"] and not (site.folder / "hf/hub/models--org--secret/snapshots").exists()
    wait_for(lambda: site.secrets() == 0, lambda: "the token is still kept")
    assert TOKEN.encode() not in b"".join(f.read_bytes() for f in site.folder.rglob("*") if f.is_file())


@pytest.mark.parametrize("settings,from_checkpoint,words", [
    ({}, {"repo": "org/none"}, "org/none is not at http"),
    ({"is_private": True}, {"repo": "org/tiny"}, "no token was given"),
    ({"gated": "manual"}, {"repo": "org/tiny"}, "org/tiny is gated: accept its conditions"),
    ({"gated": "manual"}, {"repo": "org/tiny", "token": "hf_wrong0123456789"}, "does not know the token"),
    ({}, {"repo": "org/tiny", "revision": "v9"}, "org/tiny has no revision 'v9'"),
])
def test_what_cannot_be_had_fails_the_job_and_says_why(hub, sites, tiny, settings, from_checkpoint, words):
    hub.put("org/tiny", tiny, **settings)
    site = sites()
    job = site.wait(site.create("test/tiny", from_checkpoint))
    assert job.status == "failed" and words in job.error.message and job.error.code in ("not_found", "unauthorized")
    assert "hf_wrong" not in json.dumps(site.messages(job)) and site.secrets() == 0


def test_a_hub_that_is_away_for_a_while_only_delays_the_job(hub, sites, tiny):
    hub.put("org/tiny", tiny)
    hub.fault("/revision/main", "status", status=503)
    site = sites()
    job = site.wait(site.create("org/tiny"))
    assert job.status == "succeeded", job.error
    assert any("answered 503. It is tried again in 5 s" in m for m in site.messages(job))


def test_a_context_that_the_model_does_not_have_is_told_when_it_is_here(hub, sites, tiny):
    hub.put("org/tiny", tiny)
    site = sites()
    job = site.wait(site.create("org/tiny", context_length=4096))
    assert job.status == "failed" and "takes at most 256 tokens" in job.error.message


def test_cancelling_ends_the_download_and_a_new_server_goes_on_with_it(hub, sites, tiny):
    release = threading.Event()
    big = {**tiny, "vocab.json": b" " * 3_000_000}
    hub.put("org/tiny", big)
    for _ in range(3):
        hub.fault("/vocab.json", "hold", event=release)
    site = sites()
    cancelled, kept = site.create("org/tiny"), site.create("org/tiny")
    wait_for(lambda: hub.served("hub", "vocab.json$"), lambda: "nothing is fetched")
    assert site.client.fine_tuning.jobs.cancel(cancelled.id).status == "cancelled"
    wait_for(lambda: len(hub.served("hub", "vocab.json$")) == 2, lambda: "the next job's download does not begin")
    site.server.stop(signal.SIGKILL)
    site.start()
    wait_for(lambda: len(hub.served("hub", "vocab.json$")) == 3, lambda: "the new server does not go on")
    assert site.client.fine_tuning.jobs.retrieve(kept.id).status == "queued"
    release.set()
    assert site.wait(kept).status == "succeeded"
    assert site.client.fine_tuning.jobs.retrieve(cancelled.id).status == "cancelled"


@pytest.fixture
def small_disk(tmp_path):
    """The cache's, which is all that lies there; only root may mount one."""
    folder = tmp_path / "hf"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as filler:
        while filler.write(bytes(1 << 16)):
            pass
    return folder / "filler"


@pytest.mark.parametrize("is_room_again", [True, False])
def test_a_disk_that_fills_up_in_the_middle_gets_its_room_back_and_the_job_one_more_try(hub, sites, tiny, small_disk, is_room_again):
    vocabulary = b" " * 24_000_000
    hub.put("org/tiny", {**tiny, "vocab.json": vocabulary})
    release = threading.Event()
    hub.fault("/vocab.json", "hold", event=release)
    site = sites()
    job = site.create("org/tiny")
    held = f"{git_sha1(vocabulary)}.incomplete"  # others come and go
    wait_for(lambda: any(path.stat().st_size for path in small_disk.rglob(held)), lambda: "nothing comes")
    filler = fill(small_disk)
    release.set()
    wait_for(lambda: any("No space left on device. It is tried again in 5 s" in m for m in site.messages(job)), lambda: site.messages(job))
    assert not list(small_disk.rglob("*.incomplete")), "they take the room of others"
    if is_room_again:
        filler.unlink()
    assert site.wait(site.create("test/tiny")).status == "succeeded"  # nobody waits for it
    job = site.wait(job)
    if is_room_again:
        assert job.status == "succeeded", job.error
    else:
        assert job.status == "failed" and job.error.code == "no_space" and "takes 22 MiB more on the disk of the cache, which has 0 MiB" in job.error.message, job.error


def test_a_server_that_may_not_reach_the_hub_uses_what_it_has(hub, sites, tiny):
    commit = hub.put("org/tiny", tiny)
    site = sites(origins="")
    with pytest.raises(openai.NotFoundError):
        site.create("org/tiny")
    with pytest.raises(openai.UnprocessableEntityError, match="may not fetch it"):
        site.create("test/tiny", {"repo": "org/tiny"})
    snapshot = site.folder / "hf/hub/models--org--tiny/snapshots" / commit  # as another tool has left it
    snapshot.mkdir(parents=True)
    for name, data in tiny.items():
        (snapshot / name).write_bytes(data)
    assert site.wait(site.create("org/tiny")).status == "succeeded"
    assert site.wait(site.create("test/tiny", {"repo": "org/tiny", "revision": commit})).status == "succeeded"
    (snapshot / "model.safetensors").unlink()  # half a snapshot is none
    with pytest.raises(openai.NotFoundError):
        site.create("org/tiny")
    assert hub.log == []


def test_a_redirect_goes_nowhere_that_the_operator_does_not_list(hub, sites, tiny):
    hub.put("org/tiny", tiny)
    site = sites(origins=f"internal:{hub.url}")  # not its CDN
    job = site.wait(site.create("org/tiny"))
    assert job.status == "failed" and "--outgoing" in job.error.message and not hub.served("cdn")


def test_a_job_of_here_is_gone_on_with(sites, hub):
    site = sites()
    lora = {"lora": True, "lora_r": 4, "lora_alpha": 8}
    first = site.wait(site.create("test/tiny", **lora))
    checkpoint = list(site.client.fine_tuning.jobs.checkpoints.list(first.id))[0]
    for start in ({"type": "ft", "job_id": first.id}, {"checkpoint_id": checkpoint.id}, {"type": "ft", "job_id": first.id, "checkpoint_id": checkpoint.id}):
        job = site.create("test/tiny", start, **lora)
        assert job.model_extra["from_checkpoint"] == {"type": "ft", "job_id": start.get("job_id"), "checkpoint_id": start.get("checkpoint_id")}
        assert site.wait(job).status == "succeeded"
        assert first.id in site.plan_of(job)["adapter"]["path"]
    for start in ({"job_id": "ftjob-none"}, {"checkpoint_id": "ftckpt-none"}, {"job_id": "ftjob-other", "checkpoint_id": checkpoint.id}):
        with pytest.raises(openai.NotFoundError):
            site.create("test/tiny", start, **lora)
    with pytest.raises(openai.UnprocessableEntityError, match="whose model is test/tiny"):
        site.create("test/other", {"job_id": first.id}, **lora)


def test_a_terminal_trains_what_is_in_the_cache_by_its_name(tiny, tmp_path):
    snapshot = tmp_path / "hf/hub/models--org--tiny/snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    for name, data in tiny.items():
        (snapshot / name).write_bytes(data)
    (tmp_path / "t.jsonl").write_text(chat_lines(4))
    command = [BINARY, "train", "--model", "org/tiny", "--train", tmp_path / "t.jsonl", "--out", tmp_path / "out", "--n-epochs", "1"]
    run = subprocess.run(command, env={**os.environ, "HF_HOME": str(tmp_path / "hf")}, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert json.loads((tmp_path / "out/run/job.json").read_text())["model"] == {"id": "org/tiny", "path": str(snapshot)}
    run = subprocess.run([*command[:-3], tmp_path / "none"], env={**os.environ, "HF_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert run.returncode != 0 and "--model" in run.stderr


@pytest.mark.parametrize("from_checkpoint,words", [
    ("org/name", "is an object of type"), ({"type": "s3"}, "is an object of type"), ({}, "repo is required"), ({"type": "ft"}, "needs a job_id or a checkpoint_id"),
    ({"repo": "../x"}, "is the name of a repository"), ({"repo": "a/b", "revision": "../x"}, "is a branch, a tag or a commit"), ({"repo": 7}, "must be a text"),
    ({"repo": "a/b", "path": "x"}, 'does not have a field \\"path\\"'), ({"type": "ft", "job_id": "x", "repo": "a/b"}, 'does not have a field \\"repo\\"'),
])
def test_what_is_wrong_with_it_is_named(client, training_file, from_checkpoint, words):
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, extra_body={"from_checkpoint": from_checkpoint})
    assert words in json.dumps(caught.value.body) and caught.value.param.startswith("from_checkpoint")


def models_command(site, *words, status=0):
    run = subprocess.run([BINARY, "models", *map(str, words)], capture_output=True, text=True, env={**os.environ, **site.environment})
    assert run.returncode == status, run.stdout + run.stderr
    return run.stdout if status == 0 else run.stderr


def test_what_was_fetched_is_listed_and_evicted_when_nobody_needs_it(hub, sites, tiny):
    hub.put("org/tiny", tiny)
    site = sites()
    job = site.create("org/tiny", lora=True)
    assert site.wait(job).status == "succeeded"
    data = site.folder / "data"
    head, line = models_command(site, "cached", "--data", data).splitlines()
    assert head.split() == ["repository", "on", "disk", "jobs", "adapters", "project"] and line.split()[0] == "org/tiny"
    assert float(line.split()[1]) > 0.01 and line.split()[2:] == ["MiB", "0", "2"]  # the result and its checkpoint
    assert "2 adapters need org/tiny" in models_command(site, "evict", "org/tiny", "--data", data, status=1)
    assert "--data" in models_command(site, "evict", "org/tiny", status=1)
    assert "is not in" in models_command(site, "evict", "org/other", "--data", data, status=1)
    site.client.models.delete(site.client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model)
    for checkpoint in site.client.fine_tuning.jobs.checkpoints.list(job.id):
        try:
            site.client.models.delete(checkpoint.fine_tuned_model_checkpoint)
        except openai.NotFoundError:
            pass
    models_command(site, "evict", "org/tiny", "--data", data)
    assert not list((site.folder / "hf/hub").glob("*tiny*")) and not list((site.folder / "hf/hub/.locks").glob("*tiny*"))
    assert "org/tiny" not in [model.id for model in site.client.models.list()]
    before = len(hub.log)
    assert site.wait(site.create("org/tiny")).status == "succeeded" and len(hub.log) > before


def test_downloads_take_no_more_than_the_operator_lets_them(hub, sites, tiny):
    hub.put("org/tiny", tiny)
    hub.put("org/more", tiny)
    size = sum(map(len, tiny.values()))
    site = sites(serve=["--hub-bytes-max", str(size * 3 // 2)])
    assert site.wait(site.create("org/tiny")).status == "succeeded"
    failed = site.wait(site.create("org/more"))
    assert failed.status == "failed" and "attune models evict" in failed.error.message, failed.error
    assert hub.served(pattern="org/tiny/resolve/.*safetensors") and not hub.served(pattern="org/more/resolve/.*safetensors")
    assert not [path for path in (site.folder / "hf/hub").rglob("*") if "models--org--more" in str(path) and path.is_file() and path.stat().st_size > 100_000]
    models_command(site, "evict", "org/tiny", "--force")
    assert site.wait(site.create("org/more")).status == "succeeded"
