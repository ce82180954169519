"""attune data: what a file becomes, for people and for programs."""
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/api"))
from conftest import BINARY  # noqa: E402

MODEL = ROOT / "models/attune/world-3m"
CHAT = {"messages": [{"role": "user", "content": "Where is Mia?"}, {"role": "assistant", "content": "In the garden."}]}


def data(*words, status=0):
    run = subprocess.run([BINARY, "data", *map(str, words)], capture_output=True, text=True, timeout=120)
    assert run.returncode == status, run.stdout + run.stderr
    return run.stdout if status == 0 else run.stderr


def lines(*words):
    return [json.loads(line) for line in data(*words).splitlines()]


def write(path, examples):
    path.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return path


def test_every_line_is_shown_or_told_what_is_wrong(tmp_path):
    shapes = [CHAT,
              {"conversations": [{"from": "human", "value": "Where is Mia?"},
                                 {"from": "gpt", "value": "In the garden."}]}]
    file = write(tmp_path / "file.jsonl", [*shapes, {"messages": []}])
    first, same, wrong = lines("show", file, "--model", MODEL, "--json")
    assert first["line"] == 1 and (first["ids"], first["labels"]) == (same["ids"], same["labels"])
    assert {label for label in first["labels"]} - {-100}
    assert all(label in (-100, token) for token, label in zip(first["ids"], first["labels"]))
    assert wrong == {"line": 3, "error": "messages holds no assistant message: there is nothing to train on"}
    assert "In" in data("show", file, "--model", MODEL, "--line", 2)


def test_rows_hold_every_example_once_in_an_order_of_their_own(tmp_path):
    file = write(tmp_path / "file.jsonl", [{"text": "word " * count} for count in (30, 3, 12, 40, 7, 21)])
    shown = {line["line"]: line for line in lines("show", file, "--model", MODEL, "--json")}
    answers = lines("rows", file, "--model", MODEL, "--context-length", 50, "--epochs", 2, "--seed", 3)
    rows, orders = [answer for answer in answers if "row" in answer], [answer["order"]
                                                                       for answer in answers if "epoch" in answer]
    assert sorted(line for row in rows for line in row["lines"]) == list(range(1, 7)) and len(rows) < 6
    for row in rows:
        assert row["ids"] == [token for line in row["lines"] for token in shown[line]["ids"]]
        assert row["labels"] == [label for line in row["lines"] for label in shown[line]["labels"]]
        assert row["lengths"] == [len(shown[line]["ids"]) for line in row["lines"]] and sum(row["lengths"]) <= 50
    assert all(sorted(order) == list(range(len(rows))) for order in orders) and len(orders) == 2


def test_rows_are_cut_on_request(tmp_path):
    file = write(tmp_path / "file.jsonl", [{"text": "word " * 40}] * 2)
    assert "longer than context_length 8" in data("rows", file, "--model", MODEL, "--context-length", 8, status=1)
    rows = lines("rows", file, "--model", MODEL, "--context-length", 8, "--over-length", "truncate", "--no-packing")
    assert [row["lengths"] for row in rows] == [[8], [8]]
    assert "must be drop, error or truncate" in data("rows", file, "--model", MODEL, "--over-length", "cut", status=2)


def test_what_is_wrong_is_told_with_file_and_line(tmp_path):
    file = tmp_path / "file.jsonl"
    for content, told in ((b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}',
                           "2 examples of kind text, 3 lines, 0 wrong"),
                          (b'{"text": "a"}\n{', f"{file}:2: JSON, column 2"),
                          (b"", f"{file}: the file holds no examples")):
        file.write_bytes(content)
        run = subprocess.run([BINARY, "data", "check", file], capture_output=True, text=True, timeout=120)
        assert told in run.stdout and run.returncode == (0 if "0 wrong" in told else 1), run.stdout + run.stderr
