"""What published scripts do, from the upload to the answer of the tuned model: the way of OpenAI's guides and the way of Nebius'."""
import base64
import collections
import csv
import json
import time

import openai
import pytest
from conftest import ask, chat_lines, wait_for_job


@pytest.fixture(scope="module")
def nebius_job(client, tmp_path_factory):
    """Uploads from disk, LoRA with Nebius' hyperparameters, a loop over three states."""
    folder = tmp_path_factory.mktemp("nebius")
    files = []
    for name, count in (("training_data.jsonl", 24), ("validation_data.jsonl", 6)):
        (folder / name).write_text(chat_lines(count), encoding="utf-8")
        files.append(client.files.create(file=open(folder / name, "rb"), purpose="fine-tune").id)
    job = client.fine_tuning.jobs.create(model="test/tiny", suffix="demo-run", training_file=files[0], validation_file=files[1], hyperparameters={
        "batch_size": 4, "learning_rate_multiplier": 2e-5, "n_epochs": 2, "warmup_ratio": 0.03, "weight_decay": 0, "lora": True, "packing": False})
    while job.status in ["validating_files", "queued", "running"]:
        time.sleep(0.1)
        job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "succeeded", job.error
    return job


def test_the_way_of_nebius_ends_with_files_and_metrics(client, nebius_job, tmp_path):
    assert [event.message for event in client.fine_tuning.jobs.list_events(nebius_job.id).data][0] == "Job is submitted"
    checkpoints = client.fine_tuning.jobs.checkpoints.list(nebius_job.id).data
    assert len(checkpoints) == 2 and all(c.metrics.train_loss > 0 and c.metrics.valid_loss > 0 for c in checkpoints)
    for file in checkpoints[-1].result_files:
        name = client.files.retrieve(file).filename.split("/")[1]
        client.files.content(file).write_to_file(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}
    assert nebius_job.trained_tokens * 0.4 / 1_000_000 > 0


def deployments(server, method, below="", body=None):
    status, _, answer = ask(server, method, "/v0/models" + below, body and json.dumps(body).encode(), Content_Type="application/json", Authorization="Bearer none")
    return status, json.loads(answer)


def test_the_way_of_nebius_puts_a_checkpoint_into_service(client, server, nebius_job):
    checkpoint = client.fine_tuning.jobs.checkpoints.list(nebius_job.id).data[-1]
    wanted = {"name": "my-finetuned-model", "base_model": "test/tiny", "source": f"{nebius_job.id}:{checkpoint.id}", "description": "Fine tuned model"}
    status, made = deployments(server, "POST", body=wanted)
    assert (status, made["status"], made["base_model"], made["source"]) == (200, "active", "test/tiny", wanted["source"])
    assert deployments(server, "GET", "/" + made["name"]) == (200, made)
    assert made in deployments(server, "GET")[1]
    reply = client.chat.completions.create(model=made["name"], max_tokens=3, messages=[
        {"role": "system", "content": "You are a helpful assistant"}, {"role": "user", "content": [{"type": "text", "text": "Hello! "}]}])
    assert reply.to_json() and reply.choices[0].finish_reason in ("stop", "length")
    assert deployments(server, "DELETE", "/" + made["name"]) == (200, {**made, "status": "deleted"})
    for method in ("GET", "DELETE"):
        assert deployments(server, method, "/" + made["name"])[0] == 404


@pytest.mark.parametrize("change, status, param", [
    ({"source": "hf.co/org/name"}, 422, "source"), ({"source": "ftjob-0:ftckpt_0"}, 404, "name"), ({"name": None}, 422, "name"), ({"base_model": ""}, 422, "base_model"),
    ({"base_model": "test/other"}, 422, "base_model"), ({"description": 5}, 422, "description"), ({"color": "red"}, 422, "color")])
def test_a_wrong_deployment_is_refused_by_name(client, server, nebius_job, change, status, param):
    checkpoint = client.fine_tuning.jobs.checkpoints.list(nebius_job.id).data[0]
    body = {"name": "x", "base_model": "test/tiny", "source": f"{nebius_job.id}:{checkpoint.id}", **change}
    got, answer = deployments(server, "POST", body=body)
    assert (got, answer["error"]["param"]) == (status, param)


def test_text_parts_of_a_message_are_one_text(client):
    def reply(content):
        return client.chat.completions.create(model="test/tiny", messages=[{"role": "user", "content": content}], max_tokens=8, temperature=0).choices[0].message
    assert reply([{"type": "text", "text": "Say "}, {"type": "text", "text": "red."}]) == reply("Say red.")
    for parts in ([], [{"type": "image_url", "image_url": {"url": "data:,"}}], [{"type": "text"}], ["text"], [{"type": "text", "text": 5}], {"type": "text"}):
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            reply(parts)
        assert refused.value.param == "messages.0.content"


def test_the_way_of_openai_goes_through_the_modules_own_client(server, monkeypatch):
    """The module as a client, settings from the environment, nothing but a model and files, events read backwards."""
    monkeypatch.setattr(openai, "base_url", server.url + "/v1/")
    monkeypatch.setattr(openai, "api_key", "none")
    monkeypatch.setattr(openai, "_client", None, raising=False)
    file = openai.files.create(file=("train.jsonl", chat_lines(12).encode()), purpose="fine-tune")
    job = openai.fine_tuning.jobs.create(training_file=file.id, validation_file=file.id, model="test/tiny", suffix="recipe-ner")
    while (response := openai.fine_tuning.jobs.retrieve(job.id)).status in ("validating_files", "queued", "running"):
        time.sleep(0.1)
    events = openai.fine_tuning.jobs.list_events(job.id, limit=100).data
    events.reverse()
    assert len({event.message for event in events}) > 5
    messages = [{"role": "system", "content": "You help."}, {"role": "user", "content": "Say red."}]
    whole = openai.chat.completions.create(model=response.fine_tuned_model, messages=messages, temperature=0, max_tokens=500)
    assert isinstance(whole.choices[0].message.content, str)
    rows = list(csv.DictReader(openai.files.content(response.result_files[0]).text.splitlines()))
    assert [float(row["step"]) for row in rows] and all(float(row["train_loss"]) > 0 for row in rows)
    with pytest.raises(Exception):  # OpenAI's own bytes are base64; ours are the CSV itself
        base64.b64decode(openai.files.content(response.result_files[0]).read(), validate=True)


def test_the_checker_of_openais_guide_and_the_upload_agree(client):
    """The classes of faults that OpenAI's data preparation names: each makes the file an error that says the line."""
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    faults = collections.OrderedDict({
        "data_type": [], "missing_messages_list": {"message": []}, "message_missing_key": {"messages": [{"content": "a"}, good["messages"][1]]},
        "unrecognized_role": {"messages": [{"role": "wizard", "content": "a"}, good["messages"][1]]},
        "missing_content": {"messages": [good["messages"][0], {"role": "assistant", "content": None}]},
        "example_missing_assistant_message": {"messages": good["messages"][:1]}})
    for name, line in faults.items():
        file = client.files.create(file=("x.jsonl", f"{json.dumps(good)}\n{json.dumps(line)}\n".encode()), purpose="fine-tune")
        assert file.status == "error" and "Line 2" in file.status_details, (name, file)


def test_the_way_of_the_preference_guide_starts_from_a_tuned_model(client, nebius_job):
    """First supervised, then by preference on its result, as the guide advises; both methods with their hyperparameters."""
    lines = [{"input": {"messages": [{"role": "system", "content": "You help."}, {"role": "user", "content": f"Question {i}?"}]},
              "preferred_output": [{"role": "assistant", "content": "Gladly, my friend!"}], "non_preferred_output": [{"role": "assistant", "content": "No."}]} for i in range(12)]
    pairs = client.files.create(file=("pairs.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model=nebius_job.fine_tuned_model, training_file=pairs.id, validation_file=pairs.id, method={
        "type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1, "beta": 0.1, "batch_size": 4, "lora": True}}})
    job = wait_for_job(client, job.id)
    assert job.status == "succeeded", job.error
    assert client.chat.completions.create(model=job.fine_tuned_model, messages=lines[0]["input"]["messages"], max_tokens=2).choices
