"""The server is killed at its Nth fsync, and at its Nth fdatasync (SQLite's), for every N: what it acknowledged is there afterwards,
and nothing is half done. The same for the trainer, which ends with the bits of one that was left alone. The release binary runs as it
is: the server, whose threads sync side by side, under fault.c, which counts all of them; the trainer under strace.

make test takes a sample of the Ns, make fault all of them."""
import os
import random
import shutil
import signal
import subprocess

import pytest
from service import BIN, FULL, GONE, Ledger, Service, chat_lines, check_disk, check_folder, faults
from test_trainer_kill import attempt_dir, figures, final_files, finish, make_run

SEED = int(os.environ.get("ATTUNE_FAULT_SEED", random.SystemRandom().randrange(1 << 30)))
SAMPLE = 4


def killing(call, n, trace):
    """strace leaves the process as our child (-D)."""
    return ["strace", "-D", "-f", "-b", "execve", "-qq", "-o", str(trace), "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={n}"]


def live(service, ledger):
    """Everything that a client has written for it, step by step: gives the name of the step before it is taken."""
    yield "an upload"
    file_id = ledger.upload(service, chat_lines(8))
    yield "an upload in parts"
    ledger.upload_in_parts(service, [chat_lines(4), chat_lines(4)])
    yield "a deletion"
    ledger.delete(service, ledger.upload(service, chat_lines(2)))
    yield "a job's creation"
    job_id = ledger.create(service, file_id, epochs=2)
    yield "a job's cancellation"
    ledger.cancel(service, ledger.create(service, file_id))
    yield "a job's checkpoints and end"
    ledger.wait(service, job_id)


def live_until_killed(service, ledger):
    """The step in which the server was killed; None: it was not."""
    step = None
    try:
        for step in live(service, ledger):
            pass
        service.stop()
    except (*GONE, AssertionError):
        if service.process.wait() == 0:
            raise
        service.process.stdout.close()
        return step or "the start"
    return None


def survive(service, ledger):
    """Another server on the folder, and one more: the second finds nothing to do."""
    service.start()
    ledger.check(service)
    service.stop()
    service.start()
    ledger.check(service)
    service.stop()
    check_disk(service.data)


def kill_at(service, call, n):
    service.data = service.folder / f"{call}-{n}"
    ledger = Ledger()
    if service.start(env=faults(f"call={call} program=serve nth={n} do=kill"), must=False):
        step = live_until_killed(service, ledger)
    else:
        step = "the start"
    survive(service, ledger)
    shutil.rmtree(service.data)
    return step


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    running = Service(tmp_path_factory.mktemp("sync"), model={"hidden": 32, "layers": 2}, recovery_steps=2)
    running.stop()
    return running


def count_calls(service, call):
    """How often an undisturbed life makes the call."""
    mark = service.folder / "mark"
    service.data = service.folder / "whole"
    ledger = Ledger()
    service.start(env=faults(f"call={call} program=serve do=count mark={mark}"))
    assert live_until_killed(service, ledger) is None
    survive(service, ledger)
    shutil.rmtree(service.data)
    return int(mark.read_text())


def sample(calls):
    print(f"seed {SEED}")
    return range(1, calls + 1) if FULL else sorted(random.Random(SEED).sample(range(1, calls + 1), SAMPLE))


@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
def test_a_server_killed_at_any_sync_has_lost_nothing_that_it_acknowledged(service, call):
    calls = count_calls(service, call)
    ns, kills = sample(calls), {}
    for n in ns:
        step = kill_at(service, call, n)
        kills[step] = kills.get(step, 0) + 1
    killed = sum(count for step, count in kills.items() if step)
    print(f"{call}: {calls} calls, {killed} kills: " + ", ".join(f"{count} in {step}" for step, count in kills.items() if step))
    assert killed >= len(ns) * 3 // 4  # how often a server syncs while a job runs depends on its pace


def run_traced(run, before):
    return subprocess.run([*before, BIN, "train", "--run", str(run), "--attempt", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_a_trainer_killed_at_any_sync_ends_with_the_same_bits(tmp_path):
    whole = make_run(tmp_path / "whole", n_epochs=1)
    trace = tmp_path / "trace"
    assert run_traced(whole, ["strace", "-D", "-f", "-qq", "-o", str(trace), "-e", "trace=fsync"]).returncode == 0
    calls = trace.read_text().count("fsync(")
    ns, in_checkpoints = sample(calls), 0
    for n in ns:
        run = make_run(tmp_path / f"at-{n}", n_epochs=1)
        assert run_traced(run, killing("fsync", n, trace)).returncode == -signal.SIGKILL, n
        for folder in (*run.glob("attempts/*/checkpoints/*"), *run.glob("attempts/*/recovery/*")):
            if folder.suffix == ".tmp":
                in_checkpoints += 1
            else:
                check_folder(folder)
        if not (attempt_dir(run, 1) / "exit.json").exists():
            finish(run, 2)
        assert final_files(run) == final_files(whole)
        assert figures(run, "step") == figures(whole, "step") and figures(run, "checkpoint") == figures(whole, "checkpoint")
        assert not list(run.glob("attempts/*/*/*.tmp"))
        shutil.rmtree(run)
    print(f"trainer: {calls} fsyncs, {len(ns)} kills, {in_checkpoints} of them while a folder was written")
