#!/usr/bin/env python3
"""Every #include "room/…" of src/ must be on the allow-list; base includes only itself, os only base and itself."""
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parent.parent
allowed = {}
for line in (root / "tools/allowed_includes.txt").read_text().splitlines():
    if line and not line.startswith("#"):
        room, _, rooms = line.partition(":")
        allowed[room] = set(rooms.split())
        if room != "base":
            allowed[room] |= {"base", room} | ({"os"} if room != "os" else set())
        else:
            allowed[room] |= {"base"}

bad = 0
for path in sorted((root / "src").rglob("*.[ch]")) + sorted((root / "src").rglob("*.cu")):
    room = path.relative_to(root / "src").parts[0]
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = re.match(r'\s*#\s*include\s+"([^"/]+)/', line)
        if match and match.group(1) not in allowed.get(room, set()):
            print(f"{path.relative_to(root)}:{number}: {room} may not include {match.group(1)}")
            bad += 1
        if re.match(r'\s*#\s*include\s+"[^"/]+"', line):
            print(f"{path.relative_to(root)}:{number}: include by room: \"{room}/…\"")
            bad += 1
print(f"includes: {bad} violations")
sys.exit(1 if bad else 0)
