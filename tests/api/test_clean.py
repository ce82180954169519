"""The disk of old jobs: checkpoints that are deleted go with their files, models and bytes, and not while something needs them."""
import pathlib

import openai
import pytest
from conftest import Server, chat_lines, make_client, wait_for, wait_for_job

HYPERPARAMETERS = {"n_epochs": 2, "batch_size": 4}


@pytest.fixture(scope="module")
def world(tmp_path_factory, models):
    server = Server(tmp_path_factory.mktemp("clean") / "data", models).start()
    client = make_client(server, (server.data / "first-key").read_text().strip())
    yield server, client, client.files.create(file=("t.jsonl", chat_lines(24).encode()), purpose="fine-tune")
    assert server.stop() == 0


def train(world, model="test/tiny", **hyperparameters):
    _, client, file = world
    job = client.fine_tuning.jobs.create(model=model, training_file=file.id, hyperparameters={**HYPERPARAMETERS, **hyperparameters})
    return wait_for_job(client, job.id)


def delete(client, job, checkpoint):
    return client.delete(f"/fine_tuning/jobs/{job.id}/checkpoints/{checkpoint.id}", cast_to=object)


def weights(server, job):
    return list(pathlib.Path(server.data / "runs" / job.id).rglob("*.safetensors"))


def test_a_checkpoint_goes_with_its_files_its_models_and_its_bytes(world):
    server, client, _ = world
    job = train(world)
    first, last = client.fine_tuning.jobs.checkpoints.list(job.id, extra_query={"order": "asc"}).data
    assert delete(client, job, first) == {"id": first.id, "object": "fine_tuning.job.checkpoint", "deleted": True}
    assert [checkpoint.id for checkpoint in client.fine_tuning.jobs.checkpoints.list(job.id)] == [last.id]
    names = [model.id for model in client.models.list()]
    assert first.fine_tuned_model_checkpoint not in names and job.fine_tuned_model in names
    with pytest.raises(openai.NotFoundError):
        delete(client, job, first)
    delete(client, job, last)
    assert job.fine_tuned_model not in [model.id for model in client.models.list()]
    assert not [file for file in client.files.list(purpose="fine-tune-results") if file.id in last.result_files]
    wait_for(lambda: not weights(server, job), lambda: weights(server, job))
    told = [event.message for event in client.fine_tuning.jobs.list_events(job.id) if "was deleted" in event.message]
    assert len(told) == 2 and client.fine_tuning.jobs.retrieve(job.id).status == "succeeded"


def test_what_is_needed_stays(world):
    server, client, file = world
    job = train(world, n_epochs=1)
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job.id).data

    def refused():
        with pytest.raises(openai.BadRequestError) as why:
            delete(client, job, checkpoint)
        return why.value.message

    adapter = client.fine_tuning.jobs.create(model=job.fine_tuned_model, training_file=file.id, hyperparameters={"n_epochs": 100, "lora": True})
    assert "a job that has not ended begins with it" in refused()
    client.fine_tuning.jobs.cancel(adapter.id)
    wait_for_job(client, adapter.id)
    adapter = train(world, model=job.fine_tuned_model, n_epochs=1, lora=True)
    assert "another model is an adapter on it" in refused()
    for made in client.fine_tuning.jobs.checkpoints.list(adapter.id).data:
        delete(client, adapter, made)
    delete(client, job, checkpoint)
    running = client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, hyperparameters={"n_epochs": 100, "batch_size": 4})
    made = wait_for(lambda: client.fine_tuning.jobs.checkpoints.list(running.id).data)
    with pytest.raises(openai.BadRequestError) as why:
        delete(client, running, made[0])
    assert "its job has not ended" in why.value.message
    client.fine_tuning.jobs.cancel(running.id)
    wait_for_job(client, running.id)
