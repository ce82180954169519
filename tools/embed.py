#!/usr/bin/env python3
"""embed.py OUTPUT SYMBOL=FILE…: each file as a NUL-terminated char array and its size, as C."""
import sys

with open(sys.argv[1], "w") as out:
    out.write("#include <stddef.h>\n")
    for item in sys.argv[2:]:
        symbol, _, path = item.partition("=")
        data = open(path, "rb").read()
        out.write(f"extern const char {symbol}[];\nextern const size_t {symbol}_bytes;\n")
        out.write(f"const size_t {symbol}_bytes = {len(data)};\nconst char {symbol}[] = {{")
        for i in range(0, len(data), 32):
            out.write("\n" + ",".join(map(str, data[i : i + 32])) + ",")
        out.write("0};\n")
