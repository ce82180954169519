#!/usr/bin/env python3
"""Writes the base model's training text: stories and dialogues of the small world, the same for the same seed.

usage: corpus.py [--kind rendered|text|messages] [--lines N] [--seed N] [--out FILE]

  rendered   {"text"}: 15 stories to 85 dialogues, the dialogues already rendered by the chat template, so that
             one training job sees both
  text       {"text"}: stories alone
  messages   {"messages"}: dialogues alone
"""
import argparse
import json
import random
import sys

from world.dialogues import dialogue
from world.grammar import Dice
from world.stories import story

STORY_SHARE = 0.15


def render(messages):
    """What chat_template.jinja writes after the BOS token, which the tokenizer itself puts in front of text."""
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)


def lines(kind, count, seed):
    dice = Dice(random.Random(seed))
    for _ in range(count):
        if kind == "messages":
            yield {"messages": dialogue(dice)}
        elif kind == "text" or dice.chance(STORY_SHARE):
            yield {"text": story(dice)}
        else:
            yield {"text": render(dialogue(dice))}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kind", choices=["rendered", "text", "messages"], default="rendered")
    options.add_argument("--lines", type=int, default=1000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--out", default="-")
    chosen = options.parse_args()
    out = sys.stdout if chosen.out == "-" else open(chosen.out, "w", encoding="utf-8", newline="\n")
    with out:
        for line in lines(chosen.kind, chosen.lines, chosen.seed):
            out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
