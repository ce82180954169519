"""What the suites of the stock clients are about: a server, a finished job, its model, a file, another project."""
import sys

from conftest import ROOT, Server, chat_lines, make_client, wait_for_job

sys.path.insert(0, str(ROOT / "tests/track"))
from fake_wandb import FakeWandb  # noqa: E402


class World:
    """What the calls are about, and a W&B for which the project has a key. A long job holds the only place in the queue, so fresh jobs stay queued and cost nothing."""

    def __init__(self, data, models):
        self.wandb = FakeWandb()
        self.server = Server(data, models, "--no-auth", "--jobs", "1", "--outgoing", f"internal:{self.wandb.url}", "--wandb-url", self.wandb.url).start()
        self.client = make_client(self.server)
        self.client.post("/organization/projects/proj-default/secrets", body={"name": "WANDB_API_KEY", "value": "k" * 40}, cast_to=object)
        self.file = self.upload_file()
        done = self.client.fine_tuning.jobs.create(model="test/tiny", training_file=self.file, hyperparameters={"n_epochs": 1})
        self.done = wait_for_job(self.client, done.id)
        assert self.done.status == "succeeded", self.done.error
        self.model = self.done.fine_tuned_model
        self.hold_queue()
        self.project = self.client.post("/organization/projects", body={"name": "friends"}, cast_to=object)["id"]

    def hold_queue(self):
        self.holder = self.client.fine_tuning.jobs.create(model="test/tiny", training_file=self.upload_file(2000),
                                                          hyperparameters={"n_epochs": 100, "batch_size": 1}).id

    def release_queue(self):
        self.client.fine_tuning.jobs.cancel(self.holder)

    def stop(self):
        self.release_queue()
        assert self.server.stop() == 0
        self.wandb.close()

    def upload_file(self, lines=24):
        return self.client.files.create(file=("train.jsonl", chat_lines(lines).encode()), purpose="fine-tune").id

    def job(self, paused=False):
        job = self.client.fine_tuning.jobs.create(model="test/tiny", training_file=self.file).id
        if paused:
            self.client.fine_tuning.jobs.pause(job)
        return job

    def upload(self, size=0):
        return self.client.uploads.create(bytes=size, filename="filename", mime_type="mime_type", purpose="assistants").id

    def full_upload(self):
        upload = self.upload(12)
        return {"upload_id": upload, "part_ids": [self.client.uploads.parts.create(upload, data=b"Example data").id]}

    def tuned_model(self):
        job = self.client.fine_tuning.jobs.create(model="test/tiny", training_file=self.file, hyperparameters={"n_epochs": 1})
        return wait_for_job(self.client, job.id).fine_tuned_model

    def permission(self):
        return self.client.fine_tuning.checkpoints.permissions.create(self.model, project_ids=[self.project]).data[0].id
