"""The program under test, driven from outside as a user drives it."""
import json
import pathlib
import subprocess

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "build/attune"
BUNDLED = ROOT / "models/attune/world-3m"
THREADS = 2


def run(*arguments, lines=None):
    """Runs a command to its end; lines are sent as JSON Lines. Its standard output."""
    given = "".join(json.dumps(line) + "\n" for line in lines) if lines is not None else None
    done = subprocess.run([PROGRAM, *map(str, arguments)], input=given, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"attune {arguments[0]} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


def filtered(*arguments, lines):
    """A command that answers every line with a line."""
    answers = [json.loads(line) for line in run(*arguments, lines=lines).split("\n") if line]
    if len(answers) != len(lines):
        raise RuntimeError(f"attune {arguments[0]} answered {len(answers)} of {len(lines)} lines")
    return answers


class Worker:
    """`attune infer` in f32, as a context manager."""

    def __init__(self, model, adapter=None, backend="cpu"):
        command = [PROGRAM, "infer", "--model", model, "--dtype", "float32", "--device", backend, "--threads", str(THREADS)]
        if adapter:
            command += ["--adapter", adapter]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        first = self.answer()
        if not first.get("ready"):
            raise RuntimeError(f"attune infer: {first}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("attune infer ended")
        return json.loads(line)

    def ask(self, request):
        self.process.stdin.write(json.dumps({"id": 1, **request}) + "\n")
        self.process.stdin.flush()

    def logits(self, ids):
        self.ask({"ids": ids, "logits": True})
        answer = self.answer()
        if "logits" not in answer:
            raise RuntimeError(f"attune infer: {answer}")
        return np.array(answer["logits"], dtype=np.float32)

    def greedy(self, ids, count):
        """Log-probabilities of the tokens that a greedy continuation takes."""
        self.ask({"prompt_ids": ids, "max_tokens": count, "temperature": 0, "logprobs": 0})
        values = []
        while not (answer := self.answer()).get("done"):
            if "error" in answer:
                raise RuntimeError(f"attune infer: {answer}")
            values += [token["logprob"] for token in answer.get("tokens", ())]
        return np.array(values)


class Run:
    """What `attune train` left: the last checkpoint's folder and the steps as it told them."""

    def __init__(self, out, model, data, **options):
        flags = []
        for name, value in {"dtype": "float32", "threads": THREADS, **options}.items():
            name = name.replace("_", "-")
            if isinstance(value, bool):
                flags.append(f"--{name}" if value else f"--no-{name}")
            else:
                flags += [f"--{name}", value]
        self.checkpoint = pathlib.Path(run("train", "--model", model, "--train", data, "--out", out, *flags).strip())
        events = [json.loads(line) for line in (out / "run/attempts/0001/events.jsonl").read_text().split("\n") if line]
        self.start = next(event for event in events if event["kind"] == "start")
        self.steps = [event for event in events if event["kind"] == "step"]
        self.plan = json.loads((out / "run/plan.json").read_text())


def shown_lines(model, data):
    """`attune data show --json`: for each line {line, ids, labels} or {line, error}."""
    return [json.loads(line) for line in run("data", "show", data, "--model", model, "--json").split("\n") if line]


def rows(model, data, epochs=0, **options):
    """`attune data rows`: the rows in the packer's order, and the order of each epoch."""
    flags = [part for name, value in options.items() for part in
             ([f"--{'' if value else 'no-'}{name}"] if isinstance(value, bool) else [f"--{name.replace('_', '-')}", value])]
    answers = [json.loads(line) for line in run("data", "rows", data, "--model", model, "--epochs", epochs, *flags).split("\n") if line]
    return [answer for answer in answers if "row" in answer], [answer["order"] for answer in answers if "epoch" in answer]
