"""Preferences and method dpo, as the stock SDK sends them."""
import json

import openai
import pytest
from conftest import wait_for_job

PAIRS = [("red", "rouge"), ("green", "vert"), ("blue", "bleu"), ("small", "petit"), ("big", "grand"), ("old", "vieux")]


def openai_lines(count):
    lines = []
    for i in range(count):
        good, bad = PAIRS[i % len(PAIRS)]
        lines.append(json.dumps({
            "input": {"messages": [{"role": "user", "content": f"Say {good} {i}."}], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [{"role": "assistant", "content": f"The word is {good}."}],
            "non_preferred_output": [{"role": "assistant", "content": f"Le mot est {bad}."}]}))
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def preference_file(client):
    return client.files.create(file=("pairs.jsonl", openai_lines(12).encode()), purpose="fine-tune")


def dpo(**hyperparameters):
    return {"type": "dpo", "dpo": {"hyperparameters": hyperparameters}}


@pytest.fixture(scope="module")
def dpo_job(client, preference_file):
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=preference_file.id, validation_file=preference_file.id, suffix="liked", seed=3,
                                         method=dpo(beta=0.2, n_epochs=2, batch_size=4, lora=True, learning_rate=1e-2))
    assert job.method.type == "dpo" and job.method.dpo.hyperparameters.beta == 0.2
    job = wait_for_job(client, job.id)
    assert job.status == "succeeded", job.error
    return job


def test_a_dpo_job_runs_to_its_end_and_is_echoed_as_it_ran(dpo_job):
    values = dpo_job.method.dpo.hyperparameters.model_dump()
    assert dpo_job.method.supervised is None
    assert values["beta"] == 0.2 and values["n_epochs"] == 2 and values["batch_size"] == 4
    assert values["lora"] is True and values["learning_rate"] == 1e-2 and values["packing"] is False
    assert dpo_job.hyperparameters.model_dump() == values
    assert dpo_job.model_dump()["total_steps"] == 6 and dpo_job.fine_tuned_model.startswith("ft:test/tiny:")


def test_events_tell_rewards_of_training_and_validation(client, dpo_job):
    events = [e.data for e in client.fine_tuning.jobs.list_events(dpo_job.id) if e.type == "metrics"]
    steps = [data for data in events if "train_loss" in data]
    names = ("rewards_chosen", "rewards_rejected", "reward_accuracy", "reward_margin", "logps_chosen", "logps_rejected")
    assert [data["step"] for data in steps] == [1, 2, 3, 4, 5, 6]
    assert all(set(names) <= set(data) for data in steps)
    assert steps[0]["train_loss"] == pytest.approx(0.6931471805599453, abs=1e-12) and steps[0]["reward_margin"] == 0
    assert all(data["reward_margin"] == pytest.approx(data["rewards_chosen"] - data["rewards_rejected"]) for data in steps)
    last = [data for data in events if "valid_loss" in data][-1]
    assert last["valid_loss"] < 0.6 and last["valid_reward_accuracy"] == 1 and last["valid_reward_margin"] > 0


def test_checkpoints_and_receipt_of_a_dpo_job(client, dpo_job):
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(dpo_job.id))
    assert [c.step_number for c in checkpoints] == [3, 6]
    assert 0 < checkpoints[-1].metrics.full_valid_loss < checkpoints[0].metrics.train_loss < 0.7
    receipt = client.get(f"/fine_tuning/jobs/{dpo_job.id}/receipt", cast_to=object)
    assert receipt["examples"] == 12 and receipt["verdict"] == "pass"
    reply = client.chat.completions.create(model=dpo_job.fine_tuned_model, messages=[{"role": "user", "content": "Say red 0."}], max_tokens=4)
    assert reply.choices[0].message.role == "assistant"


def test_trls_lines_train_all_weights_with_its_defaults(client):
    lines = "".join(json.dumps({"prompt": f"Say {good} {i}:", "chosen": f" {good}", "rejected": f" {bad}"}) + "\n" for i, (good, bad) in enumerate(PAIRS))
    file = client.files.create(file=("trl.jsonl", lines.encode()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, method={"type": "dpo"})
    assert job.method.dpo.hyperparameters.beta == 0.1
    assert job.method.dpo.hyperparameters.model_dump()["learning_rate"] == 1e-6
    assert wait_for_job(client, job.id).status == "succeeded"


def test_files_and_methods_must_fit(client, preference_file, training_file):
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.fine_tuning.jobs.create(model="test/tiny", training_file=preference_file.id)
    assert refused.value.param == "training_file" and 'set method.type to "dpo"' in refused.value.message
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.fine_tuning.jobs.create(model="test/tiny", training_file=preference_file.id, validation_file=training_file.id, method={"type": "dpo"})
    assert refused.value.param == "validation_file" and "holds messages" in refused.value.message


@pytest.mark.parametrize("method, param, said", [
    (dpo(beta=0), "method.hyperparameters.beta", "to 2"),
    (dpo(beta="high"), "method.hyperparameters.beta", '"auto"'),
    (dpo(packing=True), "hyperparameters.packing", "must be false"),
    (dpo(lora=True, lora_dropout=0.1), "hyperparameters.lora_dropout", "must be 0"),
    ({"type": "supervised", "supervised": {"hyperparameters": {"beta": 0.1}}}, "method.hyperparameters.beta", "method dpo alone"),
])
def test_wrong_values_of_dpo_are_named(client, preference_file, method, param, said):
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.post("/fine_tuning/jobs", body={"model": "test/tiny", "training_file": preference_file.id, "method": method}, cast_to=object)
    assert refused.value.param == param and said in refused.value.message


def test_a_line_without_its_counterpart_is_found_on_upload(client):
    file = client.files.create(file=("half.jsonl", b'{"prompt":"a","chosen":"b"}\n'), purpose="fine-tune")
    assert file.status == "error" and "chosen stands there without rejected" in file.status_details
