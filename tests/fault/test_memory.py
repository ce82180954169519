"""The Nth allocation fails, once or with all behind it, in the libraries too: a command ends with the right answer or with a line
that says what was missing, never by a signal; a server answers, refuses in form or ends with such a line, and the next one has all
that was acknowledged. (Our own code ends the process when memory is out: base/arena.h.)

make test takes a sample of the Ns, make fault every one of the first thousand and a sample of the rest."""
import json
import os
import random
import shutil
import subprocess
import urllib.error

import pytest
from service import BIN, FULL, GONE, ROOT, Ledger, Service, chat_lines, check_disk, faults
from test_trainer_kill import MODEL, write_data

SEED = int(os.environ.get("ATTUNE_FAULT_SEED", random.SystemRandom().randrange(1 << 30)))
SAMPLE, EACH, SAMPLE_OF_REST = 10, 1000, 200
BUNDLED = ROOT / "models/attune/world-3m"
RENDERED = {"messages": [{"role": "user", "content": "Say hello."}], "add_generation_prompt": True}

COMMANDS = {
    "tokenize": (["tokenize", "--tokenizer", str(BUNDLED)], json.dumps({"text": "The bird sings.", "add_special_tokens": True})),
    "render": (["render", "--template", str(BUNDLED / "chat_template.jinja")], json.dumps(RENDERED)),
    "data check": (["data", "check", "{folder}/train.jsonl"], ""),
    "models list": (["models", "list", "--url", "{url}"], ""),
    "train": (["train", "--model", str(MODEL), "--init", "random", "--train", "{folder}/train.jsonl", "--out", "{folder}/out", "--dtype", "float32",
               "--batch-size", "2", "--threads", "2"], ""),
}


def run(name, folder, url, env=None):
    words, text = COMMANDS[name]
    shutil.rmtree(folder / "out", ignore_errors=True)
    words = [word.format(folder=folder, url=url) for word in words]
    return subprocess.run([BIN, *words], input=text, capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})})


def count(name, folder, url):
    mark = folder / "count"
    whole = run(name, folder, url, faults(f"call=memory do=count mark={mark}"))
    assert whole.returncode == 0, whole.stderr
    return whole.stdout, int(mark.read_text())


def points(calls):
    rng = random.Random(SEED)
    if not FULL:
        return sorted(rng.sample(range(1, calls + 1), min(SAMPLE, calls)))
    rest = range(EACH + 1, calls + 1)
    return [*range(1, min(EACH, calls) + 1), *sorted(rng.sample(rest, min(SAMPLE_OF_REST, len(rest))))]


def result_of(folder):
    """What a training that went well has left."""
    return {path.name: path.read_bytes() for path in folder.glob("out/run/attempts/*/checkpoints/*/*.safetensors")}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    running = Service(tmp_path_factory.mktemp("memory"), "--jobs", "1", model={"hidden": 32, "layers": 2}, recovery_steps=2)
    running.stop()
    return running


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_without_memory_says_so(name, tmp_path, service):
    print(f"seed {SEED}")
    write_data(tmp_path / "train.jsonl", 6, 1)
    if name == "models list":
        service.start()
    answer, calls = count(name, tmp_path, service.url)
    files = result_of(tmp_path)
    right = told = 0
    for nth in points(calls):
        for behind in ("", "+"):
            ended = run(name, tmp_path, service.url, faults(f"call=memory nth={nth}{behind} do=ENOMEM"))
            assert ended.returncode >= 0, (nth, behind, ended.stderr)
            if ended.returncode == 0:
                assert ended.stdout == answer and result_of(tmp_path) == files, (nth, behind, ended)
                right += 1
            else:
                assert ended.stderr.strip() and "Sanitizer" not in ended.stderr, (nth, behind, ended)
                told += 1
            for path in tmp_path.glob("out/run/attempts/*/checkpoints/*"):
                assert path.suffix == ".tmp" or (path / "MANIFEST").exists()
    if name == "models list":
        service.stop()
    print(f"{name}: {calls} allocations; {right} right answers, {told} clear ends")
    assert told


def live(service, ledger):
    file_id = ledger.upload(service, chat_lines(4))
    ledger.upload_in_parts(service, [chat_lines(2), chat_lines(2)])
    ledger.cancel(service, ledger.create(service, file_id))
    service.list("/v1/fine_tuning/jobs")
    ledger.delete(service, ledger.upload(service, chat_lines(2)))


def serve_at(service, nth):
    """How it went: "right", "refused", "ended"."""
    service.data, ledger, how = service.folder / f"at-{nth}", Ledger(), "right"
    log = service.folder / "server.log"
    log.write_bytes(b"")
    if service.start(env=faults(f"call=memory program=serve nth={nth} do=ENOMEM"), must=False):
        try:
            live(service, ledger)
        except urllib.error.HTTPError as answer:
            assert answer.code in (500, 503, 507) and set(json.loads(answer.read())["error"]) == {"message", "type", "param", "code"}
            how = "refused"
        except GONE:
            how = "ended"
    if service.process.poll() is None and how != "ended":
        service.kill()
    elif service.process.wait() != 0:
        assert service.process.returncode == 1 and log.read_text().strip(), (nth, service.process.returncode, log.read_text())
        how = "ended"
    for _ in range(2):
        service.start()
        ledger.check(service)
        service.stop()
    check_disk(service.data)
    shutil.rmtree(service.data)
    return how


def test_a_server_without_memory_loses_nothing(service):
    print(f"seed {SEED}")
    service.data, mark = service.folder / "whole", service.folder / "count"
    service.start(env=faults(f"call=memory program=serve do=count mark={mark}"))
    live(service, Ledger())
    service.stop()
    calls = int(mark.read_text())
    ns = random.Random(SEED).sample(range(1, calls + 1), 200 if FULL else SAMPLE)
    ways = [serve_at(service, f"{n}{behind}") for n in sorted(ns) for behind in ("", "+")]
    print(f"server: {calls} allocations; " + ", ".join(f"{ways.count(way)} {way}" for way in ("right", "refused", "ended")))
    assert "ended" in ways
