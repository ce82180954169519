"""Jobs and chats on GPUs. Here these are emulated (tests/cuda), which a build with tests has beside it."""
import json
import os
import pathlib

import openai
import pytest
from conftest import BINARY, Server, ask, chat_lines, job_in, make_client, wait_for, wait_for_job

needs_gpu = pytest.mark.skipif(not (pathlib.Path(BINARY).resolve().parent / "libattune_cuda.so").exists(), reason="this build has no libattune_cuda.so")


def devices(server):
    status, _, body = ask(server, "GET", "/v1/devices")
    assert status == 200, body
    return json.loads(body)


def test_without_a_gpu_the_processor_is_all_there_is(server, client, finished_job, training_file):
    listed = devices(server)
    assert [device["id"] for device in listed["data"]] == ["cpu"] and listed["default_device"] == "cpu" and listed["why_no_gpu"]
    assert finished_job.device == "cpu"
    assert client.get(f"/fine_tuning/jobs/{finished_job.id}/receipt", cast_to=object)["device"] == "cpu"
    for name in ("cuda", "cuda:1"):
        with pytest.raises(openai.UnprocessableEntityError, match=f"there is no {name} here, only cpu"):
            client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, extra_body={"device": name})
    for name in ("gpu", "cuda:", "cuda:1x", "cuda:-1", 3):
        with pytest.raises(openai.UnprocessableEntityError, match="device: must be"):
            client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, extra_body={"device": name})


@pytest.fixture(scope="module")
def gpus(tmp_path_factory, models):
    os.environ["ATTUNE_EMULATED_GPUS"] = "2"
    running = Server(tmp_path_factory.mktemp("gpus") / "data", models, "--no-auth").start()
    del os.environ["ATTUNE_EMULATED_GPUS"]
    yield running
    assert running.stop() == 0


SMALL = {"batch_size": 2, "context_length": 32, "lora": True}


def create(client, file, steps, **extra):
    return client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, extra_body={"hyperparameters": {"n_epochs": steps, **SMALL}, **extra})


@needs_gpu
def test_a_job_runs_on_the_gpu_that_it_asks_for(gpus):
    client = make_client(gpus)
    file = client.files.create(file=("train.jsonl", chat_lines(2).encode()), purpose="fine-tune")
    job = create(client, file, 1, device="cuda:1")
    assert job.device == "cuda:1"
    with pytest.raises(openai.UnprocessableEntityError, match="no cuda:2 here, only cpu, cuda:0, cuda:1"):
        create(client, file, 1, device="cuda:2")
    wait_for(lambda: not job_in(client, job.id, "queued"))
    listed = {device["id"]: device for device in devices(gpus)["data"]}
    assert (listed["cuda:1"]["name"], listed["cuda:1"]["jobs_max"]) == ("emulated", 1) and listed["cuda:0"]["jobs"] == []
    done = wait_for_job(client, job.id)
    assert (done.status, done.device) == ("succeeded", "cuda:1"), done.error
    receipt = client.get(f"/fine_tuning/jobs/{job.id}/receipt", cast_to=object)
    assert (receipt["device"], receipt["device_name"], receipt["verdict"]) == ("cuda:1", "emulated", "pass")


@needs_gpu
def test_a_job_whose_gpu_is_gone_says_so(tmp_path, models, monkeypatch):
    monkeypatch.setenv("ATTUNE_EMULATED_GPUS", "2")
    server = Server(tmp_path / "data", models, "--no-auth").start()
    client = make_client(server)
    file = client.files.create(file=("train.jsonl", chat_lines(2).encode()), purpose="fine-tune")
    assert ask(server, "POST", "/v1/organization/drain", "{}", Content_Type="application/json")[0] == 200
    gone, there = create(client, file, 1, device="cuda:1"), create(client, file, 1, device="cuda:0")
    assert server.stop() == 0
    server = Server(tmp_path / "data", models, "--no-auth", "--devices", "cpu,cuda:0").start()
    client = make_client(server)
    events = {job.id: [event.message for event in client.fine_tuning.jobs.list_events(job.id)] for job in (gone, there)}
    told = [message for message in events[gone.id] if "no cuda:1 now" in message]
    assert len(told) == 1 and not any("now: the job waits" in message for message in events[there.id]), events
    assert client.fine_tuning.jobs.cancel(gone.id).status == "cancelled"
    assert server.stop() == 0


@needs_gpu
def test_a_dry_run_plans_for_the_device_that_is_asked_for(gpus):
    client = make_client(gpus)
    file = client.files.create(file=("train.jsonl", chat_lines(2).encode()), purpose="fine-tune")
    for name, device in ((None, "cuda"), ("cpu", "cpu")):
        status, _, body = ask(gpus, "POST", "/v1/fine_tuning/jobs?dry_run=true", json.dumps(dict(model="test/tiny", training_file=file.id, device=name, hyperparameters=SMALL)), Content_Type="application/json")
        estimate = json.loads(body)
        assert status == 200, body
        assert estimate["device"] == device and estimate["memory_bytes"]["total"] > 0 and estimate["estimated_seconds"] is not None


@needs_gpu
def test_a_chat_on_a_gpu_gives_way_to_a_job(gpus, client):
    there = make_client(gpus)
    question = dict(model="test/tiny", messages=[{"role": "user", "content": "Say red."}], max_tokens=3, temperature=0)
    assert there.chat.completions.create(**question).choices[0].message.content
    workers = [device for device in devices_of_chats() if device.startswith("cuda:")]
    assert len(workers) == 1, workers
    file = there.files.create(file=("train.jsonl", chat_lines(2).encode()), purpose="fine-tune")
    job = create(there, file, 1, device=workers[0])
    assert wait_for_job(there, job.id).status == "succeeded"
    assert not [device for device in devices_of_chats() if device.startswith("cuda:")], "the job did not get the GPU for itself"


def devices_of_chats():
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().split("\0")[:-1]
            if len(words) > 2 and words[1] == "infer" and words[0] == str(pathlib.Path(BINARY).resolve()) and (process / "status").read_text().find("State:\tZ") < 0:
                found.append(words[words.index("--device") + 1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_an_operator_says_which_devices_there_are(tmp_path, models):
    server = Server(tmp_path / "data", models, "--no-auth", "--devices", "cpu").start()
    assert [device["id"] for device in devices(server)["data"]] == ["cpu"]
    assert server.stop() == 0
    for words in ("cuda:7", "tpu", "cpu,cuda:9"):
        with pytest.raises(AssertionError, match="--devices"):
            Server(tmp_path / "data", models, "--no-auth", "--devices", words).start()
