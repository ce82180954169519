#!/usr/bin/env python3
"""Runs the unit tests of a build folder and the pytest suites, and closes with "N passed, N failed".

usage: run_tests.py BUILD_DIR [--only unit|api|…]"""
import json
import os
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as xml

root = pathlib.Path(__file__).resolve().parent.parent
build = pathlib.Path(sys.argv[1])
only = sys.argv[3] if len(sys.argv) > 3 and sys.argv[2] == "--only" else None
env = dict(os.environ)
env["XDG_CONFIG_HOME"] = str(build.resolve() / "config")  # where servers make their master key
env.setdefault("ATTUNE_SHARED", str(root.parent / "shared"))
env.setdefault("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0")
env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1")
passed = failed = skipped = 0


def unit_tests():
    global passed, failed, skipped
    listing = subprocess.run(["meson", "introspect", "--tests", str(build)], capture_output=True, text=True, check=True)
    for test in sorted(json.loads(listing.stdout), key=lambda t: t["name"]):
        try:
            run = subprocess.run(test["cmd"], cwd=root, env=env, capture_output=True, text=True, errors="replace", timeout=900)
            out, code = run.stdout + run.stderr, run.returncode
        except subprocess.TimeoutExpired as late:
            out, code = str(late), 1
        good = len(re.findall(r"^\[       OK \]", out, re.M))
        bad = len(re.findall(r"^\[  FAILED  \] \S+$", out, re.M)) // 2
        skip = len(re.findall(r"^\[  SKIPPED \] \S+$", out, re.M)) // 2
        if "[==========]" not in out:  # a plain program: its exit status is the verdict
            good, bad = (1, 0) if code == 0 else (0, 1)
        if code != 0 and bad == 0:
            bad = 1
        passed, failed, skipped = passed + good, failed + bad, skipped + skip
        print(f"{'ok  ' if bad == 0 else 'FAIL'} {test['name']}: {good} passed" + (f", {bad} failed" if bad else "") +
              (f", {skip} skipped" if skip else ""), flush=True)
        for line in out.splitlines():
            if bad or re.match(r"^(skipped:|[A-Za-z0-9 _-]+: \d+ )", line):
                print("     " + line, flush=True)


def pytest_suites():
    global passed, failed, skipped
    folders = [f"tests/{name}" for name in ("api", "schemathesis", "track", "e2e", "fault") if list((root / "tests" / name).glob("test_*.py"))]
    if only:
        folders = [f for f in folders if f.endswith(only)]
    if not folders:
        return
    venv = root / "build/venv"
    if not (venv / "bin/pytest").exists() or \
            (root / "tests/requirements.txt").read_text() != (venv / "installed.txt").read_text():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin/pip"), "install", "-q", "-r", "tests/requirements.txt"], cwd=root, check=True)
        (venv / "installed.txt").write_text((root / "tests/requirements.txt").read_text())
    report = root / "build/pytest.xml"
    report.unlink(missing_ok=True)
    run = subprocess.run([str(venv / "bin/pytest"), "-q", "-rs", f"--junitxml={report}", *folders], cwd=root, env=env)
    if not report.exists():
        failed += 1
        return
    suite = xml.parse(report).getroot().find("testsuite")
    bad = int(suite.get("failures")) + int(suite.get("errors"))
    skip = int(suite.get("skipped"))
    passed, failed, skipped = passed + int(suite.get("tests")) - bad - skip, failed + bad, skipped + skip
    if run.returncode not in (0, 1):
        failed += 1


if only in (None, "unit"):
    unit_tests()
if only != "unit":
    pytest_suites()
if skipped:
    print(f"{skipped} skipped (each says why above)")
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed else 0)
