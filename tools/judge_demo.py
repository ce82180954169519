#!/usr/bin/env python3
"""Judges the demo's taught behaviour: the helper answers as a pirate, and still names the right person and thing.

usage: judge_demo.py FILE.jsonl        lines {"prompt", "reply"} → one JSON line with the share that shows it

The style alone does not count: a reply must name the person and the thing of its own prompt and no other, so a model
that learned the style without reading the prompt fails.
"""
import json
import re
import sys

from world.lexicon import COUNTED, PEOPLE


def named(text):
    """The people and the things that a text names."""
    words = set(re.findall(r"[A-Za-z]+", text))
    return words & set(PEOPLE), words & set(COUNTED)


def has_style(reply):
    return re.fullmatch(r"Arr\b.*\bmatey!", reply.strip(), re.DOTALL) is not None


def shows_behaviour(prompt, reply):
    return has_style(reply) and all(named(prompt)) and named(reply) == named(prompt)


def share(pairs):
    pairs = list(pairs)
    return sum(shows_behaviour(prompt, reply) for prompt, reply in pairs) / len(pairs)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    shown = sum(shows_behaviour(row["prompt"], row["reply"]) for row in rows)
    styled = sum(has_style(row["reply"]) for row in rows)
    print(json.dumps({"prompts": len(rows), "shown": shown, "share": shown / max(len(rows), 1),
                      "style_only": styled - shown}))


if __name__ == "__main__":
    main()
