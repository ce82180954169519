#!/usr/bin/env python3
"""Refuses tracked text that names a folder of one machine, or that says it is unfinished.

Pages may speak of such marks. Elsewhere other people's words (HTTP's "Not Implemented") are fine: those count in
comments only."""
import re
import subprocess
import sys

MACHINE = re.compile(r"(?<![\w.~$}-])/(?:work|farm|root|home/\w+|Users/\w+|tmp/bash_jobs)/")
MARKS = re.compile(r"\b(?:TODO|FIXME|XXX)\b|(?:/\*|//|#|^ \*).*\b(?:not implemented|unimplemented|placeholder)\b")
TEXT = (".c", ".h", ".py", ".sh", ".md", ".build", ".txt", ".yaml", ".sql", ".html", ".js", ".css", ".service",
        "Makefile")
SELF = "tools/check_words.py"


def main():
    names = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True).stdout.split("\n")
    wrong = []
    for name in names:
        if name == SELF or not name.endswith(TEXT):
            continue
        with open(name, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if MACHINE.search(line) or (not name.endswith(".md") and MARKS.search(line)):
                    wrong.append(f"{name}:{number}: {line.strip()[:160]}")
    print("\n".join(wrong) if wrong else "words: no path of one machine, no mark of unfinished work")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
