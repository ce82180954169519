"""The systemd unit: how much it exposes, by systemd's own count, and that the system calls of a whole life pass its
filter."""
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/fault"))
from service import Service, chat_lines  # noqa: E402

UNIT = ROOT / "tools/systemd/attune.service"


@pytest.fixture(scope="module")
def analyze():
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    return lambda *words: subprocess.run(["systemd-analyze", *words], capture_output=True, text=True)


def test_the_unit_exposes_little(analyze):
    told = analyze("security", "--offline=true", "--no-pager", str(UNIT)).stdout
    level = re.search(r"Overall exposure level for attune.service: ([\d.]+)", told)
    assert level and float(level.group(1)) <= 2.0, told[-500:]


def calls_of(analyze, group, seen=()):
    """The system calls of a group, groups in it included."""
    names = set()
    for line in analyze("syscall-filter", group).stdout.splitlines()[1:]:
        word = line.strip()
        if word.startswith("@") and word not in seen:
            names |= calls_of(analyze, word, (*seen, group))
        elif word and not word.startswith(("#", "@")):
            names.add(word)
    return names


def test_its_filter_lets_every_call_of_a_life_pass(analyze, tmp_path):
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    service = Service(tmp_path, model={"hidden": 32, "layers": 2})
    service.stop()
    trace = tmp_path / "trace"
    service.start(["strace", "-D", "-f", "-qq", "-e", "signal=none", "-o", str(trace)])
    file_id = service.upload(chat_lines(8))
    service.wait(service.create(file_id, epochs=1))
    service.call("POST", "/v1/chat/completions",
                 json.dumps({"model": "test/tiny", "max_tokens": 2,
                             "messages": [{"role": "user", "content": "Say 1."}]}).encode(),
                 {"Content-Type": "application/json"})
    service.process.terminate()
    service.process.wait()
    used = set(re.findall(r"^\d+ +(?:<\.\.\. )?([a-z_0-9]+)(?:\(| resumed)", trace.read_text(), re.M))
    allowed = calls_of(analyze, "@system-service") - calls_of(analyze, "@privileged")
    as_root = {"fchown"}  # SQLite gives its log the database's owner when it runs as root, which the unit does not
    assert len(used) > 40 and not used - allowed - as_root, used - allowed
