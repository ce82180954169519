"""The self-test that people run on their own machine."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/api"))
from conftest import BINARY  # noqa: E402

OPS = len(re.findall(r"X\(\w+\)",
                     re.search(r"#define OPS\(X\)(.*?)\n\n", (ROOT / "src/compute/backend.h").read_text(), re.DOTALL).group(1)))


def selftest(*words):
    return subprocess.run([BINARY, "selftest", *words], capture_output=True, text=True, timeout=300)


def test_this_machine_passes():
    run = selftest("--rounds", "2")
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    paths = re.fullmatch(r"paths of this processor: (.*); training takes (\w+)", lines[1])
    assert lines[0].startswith(("no GPU: ", "device cuda:0: "))
    count = len(paths[1].split())
    assert paths[2] == paths[1].split()[-1]
    assert sum(line.endswith(" ok") for line in lines) == OPS * count + 2
    assert lines[-1] == f"selftest: {OPS * count + 2} passed, 0 failed"


def test_the_step_runs_on_a_given_model():
    run = selftest("--rounds", "1", "--model", ROOT / "models/attune/world-3m")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "one step of " in run.stdout and "world-3m" in run.stdout


def test_the_reference_in_f32_and_bf16_agrees_with_its_f64():
    run = selftest("--backend", "ref", "--rounds", "1", "--seed", "5")
    assert run.returncode == 0 and run.stdout.endswith(f"selftest: {OPS} passed, 0 failed\n"), run.stdout + run.stderr


def test_one_part_runs_alone():
    run = selftest("--backend", "ref", "--rounds", "1", "--only", "norm_grad")
    assert run.returncode == 0, run.stdout + run.stderr
    assert [line.split()[0] for line in run.stdout.splitlines()[1:-1]] == ["norm_grad"], run.stdout
    run = selftest("--only", "steps")
    assert run.returncode == 0 and run.stdout.endswith("selftest: 2 passed, 0 failed\n"), run.stdout + run.stderr


def test_what_cannot_be_tested_is_said_in_one_line():
    for words, status, text in [(["--backend", "cuda:63"], 1, "device cuda:63: "),
                                (["--backend", "abacus"], 2, "abacus"), (["--rounds", "0"], 2, "rounds"), (["--only", "attent"], 2, "attent"),
                                (["--rounds", "1", "--model", "/nowhere"], 1, "/nowhere")]:
        run = selftest(*words)
        assert run.returncode == status and text in run.stderr and run.stderr.count("\n") == 1, run.stderr
