"""The Nth call that writes to the data folder fails, once or with all behind it: what the server cannot do it refuses with a
well-formed 5xx, it lives on and does it when asked again; afterwards, also behind a kill, nothing acknowledged is lost.

make test takes a sample of the Ns, make fault all of them."""
import contextlib
import json
import os
import random
import shutil
import subprocess
import time
import urllib.error

import pytest
from service import BIN, FULL, Ledger, Service, chat_lines, check_disk, check_folder, faults, form
from test_trainer_kill import attempt_dir, figures, final_files, finish, make_run

SEED = int(os.environ.get("ATTUNE_FAULT_SEED", random.SystemRandom().randrange(1 << 30)))
SAMPLE = 5
CALLS = "create,write,pwrite,fsync,fdatasync,ftruncate,rename,link,mkdir,unlink"


class Persistent(Service):
    """Asks again after a 5xx, and counts them."""

    refused = 0

    def call(self, method, path, body=None, headers=None):
        for _ in range(8):
            try:
                return super().call(method, path, body, headers)
            except urllib.error.HTTPError as answer:
                content = answer.read()
                if answer.code == 404 and method == "DELETE":
                    return None  # the first time did it
                assert answer.code in (500, 503, 507), (method, path, answer.code, content)
                assert set(json.loads(content)["error"]) == {"message", "type", "param", "code"}
                self.refused += 1
        raise ConnectionRefusedError(f"{method} {path} is refused for good")


def live(service, ledger, for_good=False):
    file_id = ledger.upload(service, chat_lines(8))
    ledger.upload_in_parts(service, [chat_lines(4), chat_lines(4)])
    ledger.delete(service, ledger.upload(service, chat_lines(2)))
    job_id = ledger.create(service, file_id, epochs=2)
    ledger.cancel(service, ledger.create(service, file_id))
    if not for_good:  # a server that can store nothing any more cannot end the job
        ledger.wait(service, job_id)


def survive(service, ledger, may_fail):
    for _ in range(2):
        service.start()
        ledger.check(service, ("succeeded", "cancelled", "failed") if may_fail else ("succeeded", "cancelled"))
        service.stop()
    check_disk(service.data)


def fail_at(service, nth, error):
    """False when no call was the Nth."""
    service.data, mark = service.folder / f"at-{nth}", service.folder / "mark"
    ledger, for_good = Ledger(), nth.endswith("+")
    mark.unlink(missing_ok=True)
    rule = f"call={CALLS} path={service.data}/* program=serve nth={nth} do={error} mark={mark}"
    if service.start(env=faults(rule), must=False):
        try:
            live(service, ledger, for_good)
        except ConnectionRefusedError:
            assert for_good
        assert service.process.poll() is None
        service.kill()
    else:
        assert service.process.returncode == 1
    survive(service, ledger, for_good)
    shutil.rmtree(service.data)
    return mark.exists()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    running = Persistent(tmp_path_factory.mktemp("io"), model={"hidden": 32, "layers": 2}, recovery_steps=2)
    running.stop()
    return running


def count_calls(service):
    """How many calls an undisturbed life makes."""
    service.data, mark, ledger = service.folder / "whole", service.folder / "count", Ledger()
    service.start(env=faults(f"call={CALLS} path={service.data}/* program=serve do=count mark={mark}"))
    live(service, ledger)
    service.stop()
    survive(service, ledger, False)
    shutil.rmtree(service.data)
    return int(mark.read_text())


@pytest.mark.parametrize("error, behind, stride", [("EIO", "", 1), ("ENOSPC", "", 4), ("short", "", 4), ("EIO", "+", 8), ("ENOSPC", "+", 8)])
def test_a_call_that_fails_costs_no_acknowledged_write_and_no_server(service, error, behind, stride):
    print(f"seed {SEED}")
    calls = count_calls(service) * (3 if behind else 5) // 5  # with all that is behind it failing, a life ends before its job does
    ns = range(1, calls + 1, stride) if FULL else sorted(random.Random(f"{SEED}{error}{behind}").sample(range(1, calls + 1), SAMPLE))
    service.refused = 0
    failed = sum(fail_at(service, f"{n}{behind}", error) for n in ns)
    print(f"{error}{' from then on' * bool(behind)}: {calls} calls, {failed} runs with a failure, {service.refused} requests refused")
    assert failed >= len(ns) * 3 // 4  # how often a server writes while a job runs depends on its pace


def test_what_a_failed_commit_may_have_written_is_whole_when_it_comes_to_light(service):
    """The commit's sync fails, the client is told so, the server is killed: the next one may find the row, and then its bytes."""
    found = 0
    for nth in range(1, 6):
        service.data, mark = service.folder / f"doubt-{nth}", service.folder / "mark"
        mark.unlink(missing_ok=True)
        service.start()
        service.stop()  # the schema is there
        rule = f"call=fdatasync path=*/attune.db-wal program=serve nth={nth} do=EIO mark={mark}"
        if service.start(env=faults(rule), must=False):
            with contextlib.suppress(urllib.error.HTTPError):
                Service.call(service, "POST", "/v1/files", *form([('name="purpose"', b"fine-tune"), ('name="file"; filename="a.jsonl"', chat_lines(3))]))
            time.sleep(0.2)  # time for what the server does behind its answer
            service.kill()
        ledger = Ledger()
        service.start()
        found += len(service.list("/v1/files"))
        ledger.check(service)
        service.stop()
        check_disk(service.data)
    print(f"{found} files came to light or were acknowledged")
    assert found


def train(run, rule):
    return subprocess.run([BIN, "train", "--run", str(run), "--attempt", "1"], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **faults(f"call={CALLS} path={run}/* program=train {rule}")})


@pytest.mark.parametrize("error, behind", [("EIO", ""), ("ENOSPC", "+"), ("short", "")])
def test_a_trainer_whose_writing_fails_says_so_and_the_next_attempt_ends_with_the_same_bits(tmp_path, error, behind):
    whole, mark = make_run(tmp_path / "whole", n_epochs=1), tmp_path / "count"
    assert train(whole, f"do=count mark={mark}").returncode == 0
    calls = int(mark.read_text())
    rng, failed = random.Random(f"{SEED}{error}"), 0
    print(f"seed {SEED}")
    ns = range(1, calls + 1, max(1, calls // 60)) if FULL else sorted(rng.sample(range(1, calls + 1), SAMPLE))
    for n in ns:
        run = make_run(tmp_path / f"at-{n}", n_epochs=1)
        ended = train(run, f"nth={n}{behind} do={error}")
        assert ended.returncode in (0, 1) and (ended.returncode == 0 or ended.stderr.strip()), (n, ended)
        failed += ended.returncode
        for folder in (*run.glob("attempts/*/checkpoints/*"), *run.glob("attempts/*/recovery/*")):
            if folder.suffix != ".tmp":
                check_folder(folder)
        exit_path = attempt_dir(run, 1) / "exit.json"
        if not exit_path.exists() or json.loads(exit_path.read_text())["status"] != "succeeded":
            finish(run, 2)
        assert final_files(run) == final_files(whole) and figures(run, "step") == figures(whole, "step")
        shutil.rmtree(run)
    print(f"trainer, {error}{behind}: {calls} calls, {len(ns)} of them failed, {failed} attempts ended with a message")
