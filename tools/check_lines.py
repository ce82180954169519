#!/usr/bin/env python3
"""No line of C is longer than 120 columns; tables of data may be.
With --fold, clang-format breaks those that are, and no others; comments and strings stay for a person."""
import pathlib
import subprocess
import sys

COLUMNS = 120
NAMES = ("*.c", "*.h", "*.cu", "*.cpp")
DATA = ("tests/unit/text/template_cases.h", "tests/unit/compute/eight_bit_goldens.h")
ROOT = pathlib.Path(__file__).resolve().parent.parent


def long_lines(name):
    lines = (ROOT / name).read_text().splitlines()
    return [(number, len(line)) for number, line in enumerate(lines, 1) if len(line) > COLUMNS]


listed = subprocess.run(["git", "ls-files", *NAMES], cwd=ROOT, capture_output=True, text=True, check=True)
bad = 0
for name in listed.stdout.splitlines():
    if name in DATA:
        continue
    if "--fold" in sys.argv and long_lines(name):
        ranges = [f"--lines={number}:{number}" for number, _ in long_lines(name)]
        subprocess.run(["clang-format", "-i", *ranges, name], cwd=ROOT, check=True)
    for number, columns in long_lines(name):
        print(f"{name}:{number}: {columns} columns, at most {COLUMNS} (tools/check_lines.py --fold breaks code)")
        bad += 1
print(f"long lines: {bad}")
sys.exit(1 if bad else 0)
