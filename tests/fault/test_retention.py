"""keep_checkpoints: older ones go behind a newer one, and a server killed at any removal leaves what is listed whole.

make test takes a sample of the removals, make fault all of them."""
import json
import shutil
import subprocess

import pytest
from service import BIN, GONE, Service, chat_lines, check_disk, check_folder
from test_sync_kill import SAMPLE, killing, sample
from test_trainer_kill import make_run

REMOVALS = "unlink,rmdir"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    running = Service(tmp_path_factory.mktemp("retention"), model={"hidden": 32, "layers": 2}, recovery_steps=3)
    running.stop()
    return running


def create(service):
    return service.create(service.upload(chat_lines(8)), epochs=2, checkpoint_steps=2, keep_checkpoints=2)  # steps 2, 4, 6, 8


def check_kept(service, job_id):
    """The two newest are there, whole, and nothing else of the job's is listed anywhere."""
    service.wait(job_id)
    assert {step for step, _ in service.checkpoint_files(job_id)} == {6, 8}
    checkpoints = service.list(f"/v1/fine_tuning/jobs/{job_id}/checkpoints")
    result = service.job(job_id)["fine_tuned_model"]
    models = {model["id"] for model in service.call("GET", "/v1/models")["data"] if model["id"].startswith(result)}
    assert models == {result} | {checkpoint["fine_tuned_model_checkpoint"] for checkpoint in checkpoints}
    files = {file["id"] for file in service.list("/v1/files") if file["purpose"] == "fine-tune-results"}
    of_checkpoints = {file_id for checkpoint in checkpoints for file_id in checkpoint["result_files"]}
    assert files == of_checkpoints | set(service.job(job_id)["result_files"])


def test_the_newest_checkpoints_stay_with_their_files_and_models(service):
    service.data = service.folder / "plain"
    service.start()
    job_id = create(service)
    check_kept(service, job_id)
    assert len(list((service.data / "runs" / job_id / "attempts").glob("*/checkpoints/*"))) == 2
    service.stop()
    check_disk(service.data)


def live_until_killed(service):
    try:
        service.wait(create(service))
        service.stop()
    except (*GONE, AssertionError):
        service.process.wait()
        service.process.stdout.close()


def test_a_server_killed_at_any_removal_leaves_what_it_lists(service):
    trace = service.folder / "trace"
    service.data = service.folder / "whole"
    service.start(["strace", "-D", "-f", "-b", "execve", "-qq", "-o", str(trace), "-e", f"trace={REMOVALS}"])
    live_until_killed(service)
    calls = sum(trace.read_text().count(name + "(") for name in REMOVALS.split(","))
    assert calls > SAMPLE
    for n in sample(calls):
        service.data = service.folder / f"at-{n}"
        if service.start(killing(REMOVALS, n, trace), must=False):
            live_until_killed(service)
        service.start()
        for job in service.list("/v1/fine_tuning/jobs"):
            check_kept(service, job["id"])
        service.stop()
        check_disk(service.data)
        shutil.rmtree(service.data)


def test_a_run_from_the_command_line_keeps_as_many(tmp_path):
    job = json.loads((make_run(tmp_path / "source", n_epochs=1) / "job.json").read_text())
    command = [BIN, "train", "--model", job["model"]["path"], "--train", job["training_file"]["path"], "--out", tmp_path / "out", "--n-epochs", "3",
               "--batch-size", "4", "--no-packing", "--over-length", "truncate", "--init", "random", "--keep-checkpoints", "1"]
    subprocess.run(command, check=True, capture_output=True)
    checkpoints = list((tmp_path / "out/run/attempts").glob("*/checkpoints/*"))
    assert len(checkpoints) == 1
    check_folder(checkpoints[0])
    receipt = json.loads((tmp_path / "out/run/receipt.json").read_text())
    assert checkpoints[0] == tmp_path / "out/run" / receipt["checkpoint"]
