#!/usr/bin/env python3
"""Runs the unit tests of a build folder and the pytest suites, and closes with "N passed, N failed".

Most tests wait for a server or a trainer, so several run side by side, one in each lane: every unit test is a task, and
every folder of pytest. Each has ports and folders of its own. What a task says comes out in one piece when it ends."""
import argparse
import collections
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / "build/venv"
FOLDERS = ["api", "fault", "track", "e2e", "schemathesis"]  # what takes longest begins first
UNIT_SECONDS_MAX, FOLDER_SECONDS_MAX = 1800, 4 * 3600  # ThreadSanitizer, and all kill points, take long
SLOWEST = 20


@dataclasses.dataclass
class Result:
    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0
    told: list = dataclasses.field(default_factory=list)  # lines worth reading
    cases: list = dataclasses.field(default_factory=list)  # (seconds, name)

    def print(self):
        counts = [f"{self.passed} passed"]
        counts += [f"{n} {what}" for n, what in ((self.failed, "failed"), (self.skipped, "skipped")) if n]
        took = f" in {self.seconds:.0f} s" if self.seconds >= 10 else ""
        print(f"{'FAIL' if self.failed else 'ok  '} {self.name}: {', '.join(counts)}{took}")
        for line in self.told:
            print("     " + line)
        sys.stdout.flush()


def environment(build):
    env = dict(os.environ)
    env["XDG_CONFIG_HOME"] = str(build.resolve() / "config")  # where servers make their master key
    env.setdefault("ATTUNE_SHARED", str(ROOT.parent / "shared"))
    env.setdefault("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0")
    env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1")
    return env


def end(process):
    process.send_signal(signal.SIGINT)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return 1


def run(command, env, seconds_max):
    """Exit status, output and seconds; one that takes too long has failed. It is interrupted first, so that a folder of
    pytest ends its servers. The output goes through a file, because what is left behind would hold a pipe open."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out)
        try:
            code = process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            code = end(process)
            print(f"\nended after {seconds_max} s", file=out)
        out.seek(0)
        return code, out.read(), time.monotonic() - began


def unit_test(test, env):
    code, out, seconds = run(test["cmd"], env, UNIT_SECONDS_MAX)
    good = len(re.findall(r"^\[       OK \]", out, re.M))
    bad = len(re.findall(r"^\[  FAILED  \] \S+$", out, re.M)) // 2  # named as it ends and in the summary
    skipped = len(re.findall(r"^\[  SKIPPED \] \S+$", out, re.M)) // 2
    if "[==========]" not in out:  # a plain program: its exit status is the verdict
        good = 1 if code == 0 else 0
    if code != 0:
        bad = max(bad, 1)
    told = [line for line in out.splitlines() if bad or re.match(r"^(skipped:|[A-Za-z0-9 _-]+: \d+ )", line)]
    return Result(test["name"], good, bad, skipped, seconds, told, [(seconds, test["name"])])


def pytest_folder(folder, env):
    report = ROOT / f"build/pytest-{folder}.xml"
    report.unlink(missing_ok=True)
    command = [VENV / "bin/pytest", "-q", "-rs", f"--junitxml={report}", f"tests/{folder}"]
    code, out, seconds = run(command, env, FOLDER_SECONDS_MAX)
    dull = re.compile(r"^[.sxFE]*( *\[ *\d+%\])?$|^-+ generated xml file")
    told = [line for line in out.splitlines() if not dull.match(line)]
    if not report.exists():
        return Result(f"tests/{folder}", failed=1, seconds=seconds, told=told)
    suite = xml.parse(report).getroot().find("testsuite")
    bad, skipped = int(suite.get("failures")) + int(suite.get("errors")), int(suite.get("skipped"))
    good = int(suite.get("tests")) - bad - skipped
    cases = [(float(case.get("time")), f"{case.get('classname').replace('.', '/')}.py::{case.get('name')}")
             for case in suite.iter("testcase")]
    return Result(f"tests/{folder}", good, max(bad, 0 if code == 0 else 1), skipped, seconds, told, cases)


def make_venv():
    wanted, stamp = (ROOT / "tests/requirements.txt").read_text(), VENV / "installed.txt"
    if (VENV / "bin/pytest").exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    subprocess.run([VENV / "bin/pip", "install", "-q", "-r", "tests/requirements.txt"], cwd=ROOT, check=True)
    stamp.write_text(wanted)


def tasks(build, only, env):
    """What is to run, as functions without arguments that give a Result."""
    folders = [name for name in FOLDERS if only in (None, name) and list((ROOT / "tests" / name).glob("test_*.py"))]
    if folders:
        make_venv()
    wanted = [lambda name=name: pytest_folder(name, env) for name in folders]
    if only in (None, "unit"):
        listing = subprocess.run(["meson", "introspect", "--tests", build], capture_output=True, text=True, check=True)
        units = sorted(json.loads(listing.stdout), key=lambda test: test["name"])
        wanted += [lambda test=test: unit_test(test, env) for test in units]
    return wanted


def run_all(wanted, lanes):
    results = []
    with concurrent.futures.ThreadPoolExecutor(lanes) as pool:
        for done in concurrent.futures.as_completed([pool.submit(task) for task in wanted]):
            results.append(done.result())
            results[-1].print()
    return results


def print_slowest(results):
    cases = sorted((case for result in results for case in result.cases), reverse=True)[:SLOWEST]
    print(f"the slowest {len(cases)}, side by side with others:")
    for seconds, name in cases:
        print(f"{seconds:8.1f} s  {name}")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("build", type=pathlib.Path)
    options.add_argument("--only", choices=["unit", *FOLDERS])
    options.add_argument("--lanes", type=int, default=len(os.sched_getaffinity(0)) + 1,
                         help="tasks at once (default: processors + 1)")
    given = options.parse_args()
    results = run_all(tasks(given.build, given.only, environment(given.build)), given.lanes)
    total = collections.Counter()
    for result in results:
        total.update(passed=result.passed, failed=result.failed, skipped=result.skipped)
    print_slowest(results)
    if total["skipped"]:
        print(f"{total['skipped']} skipped (each says why above)")
    print(f"{total['passed']} passed, {total['failed']} failed")
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
