"""The short version of `make schemathesis`: a fixed seed, a few requests a route, in the virtual environment of its own."""
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
VENV = HERE.parents[1] / "build/venv-schemathesis"


def test_a_few_requests_of_every_route_find_no_fault():
    stamp, wanted = VENV / "requirements.txt", (HERE / "requirements.txt").read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        subprocess.run([VENV / "bin/pip", "install", "-q", "-r", HERE / "requirements.txt"], check=True)
        stamp.write_text(wanted)
    run = subprocess.run([VENV / "bin/python", HERE / "run.py", "--phases", "fuzzing,stateful", "--examples", "4"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(run.stdout)
    assert run.returncode == 0
