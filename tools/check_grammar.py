#!/usr/bin/env python3
"""Says which share of the sentences in sampled text the small world's grammar accepts.

usage: check_grammar.py [FILE] [--limit N] [--least SHARE] [--show]

FILE (default: standard input) is plain text, or JSON Lines with "text", "reply" or "messages" (the assistant's turns
count). One JSON line is printed; the exit status is 1 when the share is below --least.
"""
import argparse
import json
import sys

from world.grammar import accepts, sentences


def texts(lines):
    for line in lines:
        if not line.startswith("{"):
            yield line
            continue
        row = json.loads(line)
        if "messages" in row:
            yield from (m["content"] for m in row["messages"] if m["role"] == "assistant")
        else:
            yield row["text"] if "text" in row else row["reply"]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("file", nargs="?", default="-")
    options.add_argument("--limit", type=int, default=None, help="judge only the first N sentences")
    options.add_argument("--least", type=float, default=0.0, help="the share that must be accepted, 0 to 1")
    options.add_argument("--show", action="store_true", help="list the sentences that are not accepted")
    chosen = options.parse_args()
    file = sys.stdin if chosen.file == "-" else open(chosen.file, encoding="utf-8")
    with file:
        found = [s.strip() for text in texts(file) for s in sentences(text)][:chosen.limit]
    refused = [s for s in found if not accepts(s)]
    if chosen.show:
        print("\n".join(refused), file=sys.stderr)
    share = 1 - len(refused) / len(found) if found else 0.0
    print(json.dumps({"sentences": len(found), "accepted": len(found) - len(refused), "share": round(share, 4)}))
    sys.exit(share < chosen.least)


if __name__ == "__main__":
    main()
