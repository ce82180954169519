import csv
import json

import openai
import pytest
from conftest import job_in, wait_for, wait_for_job

LONG = {"n_epochs": 100, "batch_size": 1}  # for what is paused or cancelled at once


def test_a_job_runs_from_queued_to_succeeded(client, finished_job):
    job = finished_job
    assert job.object == "fine_tuning.job"
    assert job.fine_tuned_model.startswith("ft:test/tiny:")
    assert ":done:" in job.fine_tuned_model
    assert job.trained_tokens > 0 and job.finished_at >= job.created_at and job.error is None
    assert job.seed == 3
    assert job.hyperparameters.n_epochs == 2 and job.hyperparameters.batch_size == 4
    extra = job.model_dump()
    assert extra["trained_steps"] == extra["total_steps"] == 12
    assert extra["hyperparameters"]["lora"] is True and extra["hyperparameters"]["learning_rate"] == 1e-3
    assert job.id in [j.id for j in client.fine_tuning.jobs.list()]


def test_a_jobs_result_file_has_the_metrics_of_every_step(client, finished_job):
    assert len(finished_job.result_files) == 1
    file = client.files.retrieve(finished_job.result_files[0])
    assert (file.filename, file.purpose) == ("step_metrics.csv", "fine-tune-results")
    rows = list(csv.DictReader(client.files.content(file.id).text.splitlines()))
    assert list(rows[0])[:5] == ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    told = {event.data["step"]: event.data for event in client.fine_tuning.jobs.list_events(finished_job.id, limit=100)
            if event.type == "metrics" and "train_loss" in event.data}
    for row in rows:
        data = told[int(row["step"])]
        assert [float(row[name]) for name in ("train_loss", "learning_rate", "grad_norm")] == [data[name] for name in ("train_loss", "learning_rate", "grad_norm")]
        assert float(row["train_accuracy"]) == data["train_mean_token_accuracy"]
    assert any(row["valid_loss"] for row in rows) and float(rows[-1]["valid_loss"]) > 0


def test_events_tell_every_step_once(client, finished_job):
    events = list(client.fine_tuning.jobs.list_events(finished_job.id, limit=5))
    steps = [e.data["step"] for e in events if e.type == "metrics" and "train_loss" in (e.data or {})]
    assert steps == list(range(1, 13))
    assert len({e.id for e in events}) == len(events)
    assert events[0].message == "Job is submitted"
    texts = [e.message for e in events if e.type == "message"]
    assert texts[:4] == ["Job is submitted", "Fine-tuning job started", "Dataset 'validation' processed successfully", "Dataset 'training' processed successfully"]
    assert [t for t in texts if "Snapshot" in t] == [f"Checkpoint created at step {s} with Snapshot ID: {finished_job.fine_tuned_model}:ckpt-step-{s}" for s in (6, 12)]
    assert texts.count("Training completed successfully") == 1 and events[-1].message == "Training completed successfully"
    for event in events:
        if event.type == "metrics":
            assert event.data["total_steps"] == 12 and event.message.startswith(f"Step {event.data['step']}/12: ")
            assert {"train_loss", "train_mean_token_accuracy"} <= set(event.data) or {"valid_loss", "valid_mean_token_accuracy"} <= set(event.data)
    newest_first = list(client.fine_tuning.jobs.list_events(finished_job.id, extra_query={"order": "desc"}))
    assert [e.id for e in newest_first] == [e.id for e in events][::-1]


def test_checkpoints_have_metrics_and_files_that_download(client, finished_job, tmp_path):
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(finished_job.id))
    assert [c.step_number for c in checkpoints] == [6, 12]
    for checkpoint in checkpoints:
        assert checkpoint.metrics.train_loss > 0 and checkpoint.metrics.full_valid_loss > 0
        names = {}
        for file_id in checkpoint.model_dump()["result_files"]:
            file = client.files.retrieve(file_id)
            folder, _, name = file.filename.partition("/")
            assert (file.purpose, file.status) == ("fine-tune-results", "processed") and folder
            client.files.content(file_id).write_to_file(tmp_path / name)
            content = (tmp_path / name).read_bytes()
            assert len(content) == file.bytes > 0
            names[name] = content
        assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= set(names)
        header = json.loads(names["adapter_model.safetensors"][8:8 + int.from_bytes(names["adapter_model.safetensors"][:8], "little")])
        assert any("lora_A" in tensor for tensor in header)
        assert json.loads(names["adapter_config.json"])["r"] == 8
    one = client.get(f"/fine_tuning/jobs/{finished_job.id}/checkpoints/{checkpoints[0].id}", cast_to=object)
    assert one["id"] == checkpoints[0].id


def test_what_peft_calls_its_options_reaches_the_adapter(client, training_file):
    options = {"use_dora": True, "use_rslora": True, "lora_target_modules": ["q_proj", "v_proj"], "exclude_modules": ["layers.0.self_attn.v_proj"],
               "rank_pattern": {"v_proj": 3}, "alpha_pattern": {"q_proj": 2.5}, "modules_to_save": ["norm"], "layers_to_transform": [0, 1]}
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, extra_body={
        "hyperparameters": {"n_epochs": 1, "learning_rate": 1e-3, "lora": True}, **options})
    job = wait_for_job(client, job.id)
    assert job.status == "succeeded", job.error
    checkpoint = list(client.fine_tuning.jobs.checkpoints.list(job.id))[-1]
    files = {client.files.retrieve(file).filename.partition("/")[2]: file for file in checkpoint.model_dump()["result_files"]}
    written = client.files.content(files["adapter_config.json"]).json()
    assert {name: written[name.removeprefix("lora_")] for name in options} == options
    header = client.files.content(files["adapter_model.safetensors"]).content
    tensors = json.loads(header[8:8 + int.from_bytes(header[:8], "little")])
    assert tensors["base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"]["shape"][0] == 3
    assert "base_model.model.model.norm.weight" in tensors and "base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector" in tensors
    assert not any("layers.0.self_attn.v_proj" in name for name in tensors)


def test_a_running_job_is_cancelled_within_a_step(client, training_file):
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, hyperparameters={"n_epochs": 50, "batch_size": 1})
    assert job.status == "queued"
    wait_for(lambda: client.fine_tuning.jobs.retrieve(job.id).trained_tokens is not None)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    job = wait_for_job(client, job.id)
    assert job.status == "cancelled" and job.fine_tuned_model is None
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.pause(job.id)


def test_a_running_job_pauses_goes_on_and_tells_every_step_once(client, training_file):
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, hyperparameters={"n_epochs": 40, "batch_size": 1})
    wait_for(lambda: job_in(client, job.id, "running"))
    paused = client.fine_tuning.jobs.pause(job.id)
    assert paused.model_dump()["paused"] and paused.status in ("running", "queued")
    assert wait_for(lambda: job_in(client, job.id, "queued")).model_dump()["paused"]
    resumed = client.fine_tuning.jobs.resume(job.id)
    assert not resumed.model_dump()["paused"]
    job = wait_for_job(client, job.id)
    assert job.status == "succeeded", job.error
    steps = [e.data["step"] for e in client.fine_tuning.jobs.list_events(job.id) if e.type == "metrics" and "train_loss" in (e.data or {})]
    assert steps == list(range(1, job.model_dump()["total_steps"] + 1))
    for change in (client.fine_tuning.jobs.pause, client.fine_tuning.jobs.resume, client.fine_tuning.jobs.cancel):
        with pytest.raises(openai.BadRequestError) as refused:
            change(job.id)
        assert refused.value.code == "invalid_state"


@pytest.mark.parametrize("optim", ["adamw_bf16", "adamw_8bit"])
def test_full_training_in_few_bytes_a_parameter(client, training_file, optim):
    hyperparameters = {"n_epochs": 1, "batch_size": 2}
    job = wait_for_job(client, client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, hyperparameters=hyperparameters,
                                                           extra_body={"optim": optim}).id)
    assert job.status == "succeeded", job.error
    assert client.get(f"/fine_tuning/jobs/{job.id}/receipt", cast_to=object)["optim"] == optim
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, extra_body={"optim": optim, "hyperparameters": {"lora": True}})
    assert refused.value.param == "optim" and "full" in refused.value.message
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, extra_body={"optim": "adamw_4bit"})
    assert refused.value.param == "optim"


def test_a_queued_job_that_is_paused_waits_for_its_resumption(client, training_file):
    first = client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, hyperparameters={"n_epochs": 100, "batch_size": 1})
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, hyperparameters={"n_epochs": 1})
    assert client.fine_tuning.jobs.pause(job.id).model_dump()["paused"]
    assert client.fine_tuning.jobs.cancel(first.id).status == "cancelled"
    after = client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, hyperparameters={"n_epochs": 1})
    assert wait_for_job(client, after.id).status == "succeeded"
    assert client.fine_tuning.jobs.retrieve(job.id).status == "queued"
    client.fine_tuning.jobs.resume(job.id)
    assert wait_for_job(client, job.id).status == "succeeded"
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, hyperparameters=LONG)
    client.fine_tuning.jobs.pause(job.id)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert not client.fine_tuning.jobs.retrieve(job.id).model_dump()["paused"]


def test_a_tuned_model_is_the_base_of_the_next_job(client, finished_job, training_file):
    checkpoint = list(client.fine_tuning.jobs.checkpoints.list(finished_job.id))[0]
    for name in (finished_job.fine_tuned_model, checkpoint.fine_tuned_model_checkpoint):
        job = client.fine_tuning.jobs.create(model=name, training_file=training_file.id,
                                             extra_body={"hyperparameters": {"n_epochs": 1, "lora": True, "learning_rate": 1e-3}})
        job = wait_for_job(client, job.id)
        assert job.status == "succeeded", job.error
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.fine_tuning.jobs.create(model=finished_job.fine_tuned_model, training_file=training_file.id)
    assert refused.value.param == "hyperparameters.lora"


def test_an_adapter_over_weights_of_four_bits_is_served_like_any_other(client, training_file):
    lora = {"n_epochs": 1, "lora": True, "learning_rate": 1e-3}
    job = wait_for_job(client, client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id,
                                                              extra_body={"quantization": "nf4", "hyperparameters": lora}).id)
    assert job.status == "succeeded", job.error
    assert client.get(f"/fine_tuning/jobs/{job.id}/receipt", cast_to=object)["quantization"] == "nf4"
    answer = client.chat.completions.create(model=job.fine_tuned_model, messages=[{"role": "user", "content": "hi"}], max_tokens=3)
    assert answer.choices[0].finish_reason in ("stop", "length")
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, extra_body={"quantization": "nf4"})
    assert refused.value.param == "quantization" and "lora" in refused.value.message


def test_products_in_eight_bits_are_an_option_that_the_receipt_tells(client, training_file):
    lora = {"n_epochs": 1, "lora": True, "learning_rate": 1e-3}
    job = wait_for_job(client, client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id,
                                                              extra_body={"fp8": True, "hyperparameters": lora}).id)
    assert job.status == "succeeded", job.error
    assert client.get(f"/fine_tuning/jobs/{job.id}/receipt", cast_to=object)["fp8"] is True
    assert any("fp8 is for GPUs" in event.message for event in client.fine_tuning.jobs.list_events(job.id))
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id,
                                       extra_body={"fp8": True, "quantization": "nf4", "hyperparameters": lora})
    assert refused.value.param == "fp8" and "nf4" in refused.value.message


def test_full_training_gives_a_whole_model(client, training_file):
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}},
                                         metadata={"who": "me"}, extra_body={"tags": ["a", "b"]})
    assert job.metadata == {"who": "me"} and job.model_dump()["tags"] == ["a", "b"]
    job = wait_for_job(client, job.id)
    assert job.status == "succeeded", job.error
    files = [client.files.retrieve(f).filename.split("/")[1] for f in client.fine_tuning.jobs.checkpoints.list(job.id).data[0].model_dump()["result_files"]]
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(files)


@pytest.mark.parametrize("change, param, said", [
    ({"hyperparameters": {"learning_rate": -1}}, "hyperparameters.learning_rate", "from 0 to 1"),
    ({"hyperparameters": {"learnin_rate": 1}}, "hyperparameters.learnin_rate", "learning_rate"),
    ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "from 1 to 100"),
    ({"hyperparameters": {"context_length": 100000}}, "hyperparameters.context_length", "at most 256"),
    ({"method": {"type": "reinforcement"}}, "method.type", "supervised"),
    ({"suffix": "x" * 65}, "suffix", "64"),
    ({"seed": -5}, "seed", "0 to"),
])
def test_wrong_requests_name_the_field(client, training_file, change, param, said):
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.post("/fine_tuning/jobs", body={"model": "test/tiny", "training_file": training_file.id, **change}, cast_to=object)
    assert refused.value.param == param and said in refused.value.message
    assert refused.value.response.json()["detail"][0]["loc"][0] == "body"


def test_a_missing_model_names_those_there_are(client, training_file):
    with pytest.raises(openai.NotFoundError) as refused:
        client.fine_tuning.jobs.create(model="test/nothing", training_file=training_file.id)
    assert refused.value.code == "model_not_found" and "test/tiny" in refused.value.message


def test_a_finished_job_has_a_receipt_whose_probes_pass(client, finished_job):
    receipt = client.get(f"/fine_tuning/jobs/{finished_job.id}/receipt", cast_to=object)
    assert receipt["job"] == finished_job.id and receipt["steps"] == 12 and receipt["verdict"] == "pass"
    probes = {probe.pop("name"): probe for probe in receipt["probes"]}
    assert all(probe["verdict"] == "pass" for probe in probes.values())
    assert probes["supervised_tokens"]["scored"] == receipt["supervised_tokens"] > 0
    assert probes["dropped_lines"]["examples"] == 24 and probes["stop_token_trained"]["turns"] == 24
    merged = probes["merged_equals_adapter"]
    assert merged["products"] == 14 and merged["largest_at"].startswith("model.layers.") and 0 < merged["logit_difference"] < merged["pass_below"]
    assert "model.safetensors" in receipt["sha256"]["base"] and receipt["sha256"]["adapter"] is None


def test_a_job_that_did_not_succeed_has_no_receipt(client, training_file):
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, hyperparameters=LONG)
    client.fine_tuning.jobs.cancel(job.id)
    with pytest.raises(openai.BadRequestError) as refused:
        client.get(f"/fine_tuning/jobs/{job.id}/receipt", cast_to=object)
    assert refused.value.code == "invalid_state" and job.id in refused.value.message


def test_missing_things_are_404(client):
    for call in (lambda: client.fine_tuning.jobs.retrieve("ftjob-0"), lambda: client.fine_tuning.jobs.cancel("ftjob-0"),
                 lambda: client.fine_tuning.jobs.pause("ftjob-0"), lambda: client.fine_tuning.jobs.resume("ftjob-0"),
                 lambda: client.fine_tuning.jobs.list_events("ftjob-0"), lambda: client.fine_tuning.jobs.checkpoints.list("ftjob-0"),
                 lambda: client.get("/fine_tuning/jobs/ftjob-0/checkpoints/x", cast_to=object),
                 lambda: client.get("/fine_tuning/jobs/ftjob-0/receipt", cast_to=object),
                 lambda: client.files.content("file-0"), lambda: client.files.delete("file-0"),
                 lambda: client.models.retrieve("nothing/here"),
                 lambda: client.fine_tuning.jobs.create(model="test/tiny", training_file="file-0")):
        with pytest.raises(openai.NotFoundError) as refused:
            call()
        assert set(refused.value.response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_broken_model_fails_the_job_with_the_reason(client, models, training_file):
    broken = models / "test/broken"
    broken.mkdir(exist_ok=True)
    for file in (models / "test/tiny").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").write_bytes(b"\xff" * 100)
    job = wait_for_job(client, client.fine_tuning.jobs.create(model="test/broken", training_file=training_file.id).id)
    assert job.status == "failed" and "model.safetensors" in job.error.message
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.chat.completions.create(model="test/broken", messages=[{"role": "user", "content": "x"}])
    assert "model.safetensors" in refused.value.message
    (broken / "config.json").write_text((broken / "config.json").read_text().replace('"llama"', '"mamba"').replace("LlamaForCausalLM", "MambaForCausalLM"))
    job = wait_for_job(client, client.fine_tuning.jobs.create(model="test/broken", training_file=training_file.id).id)
    assert job.status == "failed" and "mamba" in job.error.message


def test_odd_requests_leave_a_warning(client, training_file):
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, hyperparameters={"n_epochs": 1, "learning_rate_multiplier": 2e-5},
                                         extra_body={"surprise": 1})
    assert job.model_dump()["hyperparameters"]["learning_rate"] == 2e-5
    warnings = [e.message for e in client.fine_tuning.jobs.list_events(job.id) if e.level == "warn"]
    assert any("surprise" in w for w in warnings) and any("learning_rate_multiplier" in w for w in warnings)
    wait_for_job(client, job.id)


def test_lists_of_jobs_events_and_checkpoints_check_their_queries(client, finished_job):
    for path in ("/fine_tuning/jobs", f"/fine_tuning/jobs/{finished_job.id}/events", f"/fine_tuning/jobs/{finished_job.id}/checkpoints"):
        with pytest.raises(openai.UnprocessableEntityError):
            client.get(path, options={"params": {"limit": -1}}, cast_to=object)
        assert client.get(path, options={"params": {"limit": 0}}, cast_to=object)["data"] == []



def test_waiting_jobs_tell_their_place_in_the_queue(client, training_file):
    jobs = [client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, hyperparameters={"n_epochs": 100}, extra_body={"priority": priority})
            for priority in (9, 0, 0, 5)]

    def places():
        listed = {job.id: job.queue_position for job in client.fine_tuning.jobs.list(limit=10).data}
        assert all(client.fine_tuning.jobs.retrieve(job.id).queue_position == listed[job.id] for job in jobs[1:])
        return [listed[job.id] for job in jobs]

    try:
        wait_for(lambda: not job_in(client, jobs[0].id, "queued"))
        assert places() == [None, 2, 3, 1]
        assert client.fine_tuning.jobs.pause(jobs[3].id).queue_position is None
        assert places() == [None, 1, 2, None]
        assert client.fine_tuning.jobs.resume(jobs[3].id).queue_position == 1
        assert client.fine_tuning.jobs.cancel(jobs[1].id).queue_position is None
        assert places() == [None, None, 2, 1]
    finally:
        for job in jobs[::-1]:
            if client.fine_tuning.jobs.retrieve(job.id).status != "cancelled":
                client.fine_tuning.jobs.cancel(job.id)
