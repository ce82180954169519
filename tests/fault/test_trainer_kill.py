"""A trainer that is killed at any moment and started again ends with the bits of one that was left alone.

The trainer is killed with SIGKILL at random moments; the next attempt finds the newest recovery point. Seeds are printed; set
ATTUNE_FAULT_SEED to take one back, ATTUNE_BIN to test another binary."""
import hashlib
import json
import os
import pathlib
import random
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BIN = os.environ.get("ATTUNE_BIN", str(ROOT / "build/attune"))
MODEL = ROOT / "tests/fixtures/tiny-model"
SEED = int(os.environ.get("ATTUNE_FAULT_SEED", random.SystemRandom().randrange(1 << 30)))
EPOCHS, BATCH, EXAMPLES = 3, 2, 40


def write_data(path, count, seed):
    words = "the bird then other there path think with both moth".split()
    rng = random.Random(seed)
    with open(path, "w") as out:
        for _ in range(count):
            talk = [{"role": role, "content": " ".join(rng.choices(words, k=rng.randint(1, 9)))} for role in ("user", "assistant")]
            out.write(json.dumps({"messages": talk}) + "\n")


def write_preferences(path, count, seed):
    words = "the bird then other there path think with both moth".split()
    rng = random.Random(seed)
    with open(path, "w") as out:
        for _ in range(count):
            prompt, chosen, rejected = (" ".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(3))
            out.write(json.dumps({"prompt": prompt, "chosen": " " + chosen, "rejected": " " + rejected}) + "\n")


def make_run(folder, threads=2, method="supervised", **hyperparameters):
    folder.mkdir(parents=True)
    write = write_preferences if method == "dpo" else write_data
    write(folder / "train.jsonl", EXAMPLES, 1)
    write(folder / "valid.jsonl", 12, 2)
    job = {
        "format": 1, "id": "ftjob-test", "model": {"id": "tiny", "path": str(MODEL)}, "adapter": None,
        "training_file": {"id": "a", "path": str(folder / "train.jsonl"), "name": "train.jsonl"},
        "validation_file": {"id": "b", "path": str(folder / "valid.jsonl"), "name": "valid.jsonl"},
        "output_name": "ft:tiny", "seed": 7, "method": method,
        "hyperparameters": {"batch_size": BATCH, "learning_rate": 3e-3, "n_epochs": EPOCHS, "packing": False, **hyperparameters},
        "options": {"init": "random", "recovery_steps": 5, "checkpoint_steps": 20, "threads": threads, "dtype": "float32"},
        "cache": str(folder / "cache"),
    }
    (folder / "job.json").write_text(json.dumps(job))
    return folder


def start(run, attempt):
    return subprocess.Popen([BIN, "train", "--run", str(run), "--attempt", str(attempt)], stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE)


def finish(run, attempt):
    process = start(run, attempt)
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log.decode()


def attempt_dir(run, attempt):
    return run / "attempts" / f"{attempt:04d}"


def events(run):
    """What a server would store: complete lines of all attempts, the first one of each identity."""
    stored = {}
    for path in sorted((run / "attempts").glob("*/events.jsonl")):
        text = path.read_bytes()
        for line in text[:text.rfind(b"\n") + 1].splitlines():
            event = json.loads(line)
            stored.setdefault((event["kind"], event["code"], event["step"]), event)
    return stored


def figures(run, kind):
    """Events of a kind without what a clock decides."""
    timed = {"time", "seq", "tokens_per_s", "seconds_left", "path"}
    return {step: {k: v for k, v in event.items() if k not in timed} for (k0, _, step), event in events(run).items() if k0 == kind}


def final_files(run):
    final = [e for e in events(run).values() if e["kind"] == "checkpoint" and e["is_final"]]
    assert len(final) == 1
    folder = run / final[0]["path"]
    names = sorted(p.name for p in folder.iterdir() if p.name != "MANIFEST")
    assert names == sorted(f["name"] for f in final[0]["files"])
    for entry in final[0]["files"]:
        data = (folder / entry["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])
    return {name: (folder / name).read_bytes() for name in names}


def same(run, reference):
    assert final_files(run) == final_files(reference)
    for kind in ("step", "valid", "checkpoint"):
        assert figures(run, kind) == figures(reference, kind)
    steps = sorted(figures(run, "step"))
    assert steps == list(range(1, EPOCHS * EXAMPLES // BATCH + 1))
    assert [e["status"] for e in events(run).values() if e["kind"] == "end"] == ["succeeded"]


def wait_for_start(run, attempt, process):
    """Until the attempt has written its first event, or has ended."""
    path = attempt_dir(run, attempt) / "events.jsonl"
    while process.poll() is None and not (path.exists() and path.stat().st_size):
        time.sleep(0.001)


def kill_at_random(run, attempt, rng, span):
    """True when the kill came before the end."""
    process = start(run, attempt)
    wait_for_start(run, attempt, process)
    time.sleep(rng.uniform(0, span))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("fault") / "reference")
    begin = time.monotonic()
    finish(folder, 1)
    return folder, time.monotonic() - begin


@pytest.mark.parametrize("index", range(10))
def test_a_job_killed_once_ends_with_the_same_bits(index, reference, tmp_path):
    folder, seconds = reference
    print(f"seed {SEED}")
    rng = random.Random(SEED * 100 + index)
    run = make_run(tmp_path / "run")
    attempt = 1
    if kill_at_random(run, attempt, rng, seconds):
        attempt += 1
        finish(run, attempt)
    same(run, folder)


def test_a_job_killed_ten_times_ends_with_the_same_bits(reference, tmp_path):
    folder, seconds = reference
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    run = make_run(tmp_path / "run")
    for attempt in range(1, 11):
        if not kill_at_random(run, attempt, rng, seconds / 8):
            break
    else:
        finish(run, 11)
    same(run, folder)


def test_a_paused_job_goes_on_where_it_stopped(reference, tmp_path):
    folder, _ = reference
    run = make_run(tmp_path / "run")
    process = start(run, 1)
    while process.poll() is None and len(figures(run, "step")) < 12:
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads((attempt_dir(run, 1) / "exit.json").read_text())["status"] == "paused"
    done = max(figures(run, "step"))
    finish(run, 2)
    begin = [e for e in events(run).values() if e["kind"] == "start" and e["resumed_from_step"] is not None]
    assert [e["resumed_from_step"] for e in begin] == [done]
    ends = {e["status"] for e in events(run).values() if e["kind"] == "end"}
    assert ends == {"paused", "succeeded"}
    assert final_files(run) == final_files(folder)


def test_a_damaged_recovery_point_is_passed_over(reference, tmp_path):
    folder, _ = reference
    run = make_run(tmp_path / "run")
    process = start(run, 1)
    while process.poll() is None and len(figures(run, "step")) < 23:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    points = sorted(p for p in (attempt_dir(run, 1) / "recovery").iterdir() if not p.name.endswith(".tmp"))
    state = points[-1] / "state.safetensors"
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    finish(run, 2)
    codes = {e["code"] for e in events(run).values() if e["kind"] == "message"}
    assert {"recovery_point_unusable", "resumed"} <= codes
    assert final_files(run) == final_files(folder)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_does_not_change_a_bit(threads, reference, tmp_path):
    run = make_run(tmp_path / "run", threads=threads)
    finish(run, 1)
    same(run, reference[0])


def test_a_lora_job_killed_once_ends_with_the_same_bits(tmp_path):
    lora = {"lora": True, "lora_dropout": 0.1, "packing": True}
    whole, broken = make_run(tmp_path / "whole", **lora), make_run(tmp_path / "broken", **lora)
    finish(whole, 1)
    process = start(broken, 1)
    while process.poll() is None and len(figures(broken, "step")) < 8:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    finish(broken, 2)
    assert final_files(broken) == final_files(whole)
    assert figures(broken, "step") == figures(whole, "step")


def test_a_dpo_job_killed_at_any_time_ends_with_the_same_bits_and_the_same_reference(tmp_path):
    whole, broken = make_run(tmp_path / "whole", method="dpo"), make_run(tmp_path / "broken", method="dpo")
    begin = time.monotonic()
    finish(whole, 1)
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    for attempt in range(1, 5):
        if not kill_at_random(broken, attempt, rng, (time.monotonic() - begin) / 4):
            break
    else:
        finish(broken, 5)
    same(broken, whole)
    reference = "reference/logps.bin"
    assert (broken / reference).read_bytes() == (whole / reference).read_bytes() and (whole / reference).stat().st_size == 8 * 2 * (EXAMPLES + 12)


def test_cancel_is_obeyed_at_the_next_step(tmp_path):
    run = make_run(tmp_path / "run", n_epochs=100)
    process = start(run, 1)
    wait_for_start(run, 1, process)
    (run / "control.tmp").write_text(json.dumps({"format": 1, "attempt": 1, "wanted": "cancel"}))
    (run / "control.tmp").rename(run / "control")
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads((attempt_dir(run, 1) / "exit.json").read_text())["status"] == "cancelled"


def test_wrong_data_fails_with_its_lines(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "train.jsonl").write_text('{"text": "a b"}\n{"text": 1}\n')
    process = start(run, 1)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 1
    end = json.loads((attempt_dir(run, 1) / "exit.json").read_text())
    assert end["status"] == "failed" and end["error"]["param"] == "training_file" and "line 2" in end["error"]["message"]
    told = [e for e in events(run).values() if e["code"] == "training_errors"]
    assert told[0]["data"]["errors"] == [{"line": 2, "message": "text is a number: it must be a string"}]


@pytest.mark.parametrize("method, kind", [("supervised", "dpo"), ("dpo", "supervised")])
def test_data_for_another_method_fails_with_its_file(tmp_path, method, kind):
    run = make_run(tmp_path / "run", method=kind)
    job = json.loads((run / "job.json").read_text())
    (run / "job.json").write_text(json.dumps(job | {"method": method}))
    start(run, 1).communicate(timeout=60)
    error = json.loads((attempt_dir(run, 1) / "exit.json").read_text())["error"]
    assert error["param"] == "validation_file" and "method dpo" in error["message"]


def command_line(out, *more):
    return [BIN, "train", "--model", str(MODEL), "--init", "random", "--train", str(out / "train.jsonl"), "--out", str(out / "out"),
            "--dtype", "float32", "--recovery-steps", "3", "--learning-rate", "1e-3", "--batch-size", "2", *more]


def test_the_same_command_line_goes_on_after_a_kill_and_never_twice(tmp_path):
    write_data(tmp_path / "train.jsonl", 40, 1)
    process = subprocess.Popen(command_line(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(figures(tmp_path / "out/run", "step")) < 7:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    again = subprocess.run(command_line(tmp_path), capture_output=True, text=True, timeout=120)
    assert again.returncode == 0 and "Resumed behind step" in again.stderr
    checkpoint = pathlib.Path(again.stdout.strip())
    assert (checkpoint / "model.safetensors").exists() and (checkpoint / "tokenizer.json").exists()
    finished = subprocess.run(command_line(tmp_path), capture_output=True, text=True, timeout=120)
    assert finished.returncode == 1 and "is finished" in finished.stderr
    other = subprocess.run(command_line(tmp_path, "--seed", "5"), capture_output=True, text=True, timeout=120)
    assert other.returncode == 1 and "holds another run" in other.stderr


def test_a_run_that_failed_before_it_had_anything_to_keep_is_in_nobodys_way(tmp_path):
    write_data(tmp_path / "train.jsonl", 8, 1)
    nothing = subprocess.run(command_line(tmp_path, "--memory-bytes", "1000"), capture_output=True, text=True, timeout=120)
    assert nothing.returncode == 1 and (tmp_path / "out/run/job.json").exists(), nothing.stderr
    (tmp_path / "out/run/mine").write_text("not attune's")
    run = subprocess.run(command_line(tmp_path, "--n-epochs", "1"), capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "attempts/0001/" in run.stdout and (tmp_path / "out/run/mine").exists()


def test_a_checkpoint_is_the_base_of_a_new_job_and_a_loss_that_is_no_number_ends_one(tmp_path):
    first = make_run(tmp_path / "first", n_epochs=1)
    finish(first, 1)
    final = [e for e in events(first).values() if e["kind"] == "checkpoint" and e["is_final"]][0]

    def second(name, model):
        run = make_run(tmp_path / name, n_epochs=1)
        job = json.loads((run / "job.json").read_text())
        job["model"]["path"] = str(model)
        job["options"]["init"] = "model"
        (run / "job.json").write_text(json.dumps(job))
        return run

    good = second("good", first / final["path"])
    finish(good, 1)
    assert figures(good, "step")[1]["loss"] < figures(first, "step")[1]["loss"]

    broken = tmp_path / "broken-model"
    broken.mkdir()
    for path in (first / final["path"]).iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = bytearray((broken / "model.safetensors").read_bytes())
    weights[-4:] = b"\x00\x00\xc0\x7f"
    (broken / "model.safetensors").write_bytes(weights)
    run = second("bad", broken)
    process = start(run, 1)
    process.communicate(timeout=60)
    end = json.loads((attempt_dir(run, 1) / "exit.json").read_text())
    assert end["error"]["code"] == "training_diverged" and "is not a finite number" in end["error"]["message"]
    assert not figures(run, "step")
