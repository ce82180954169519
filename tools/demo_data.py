#!/usr/bin/env python3
"""Writes the demo's data: chats that teach the helper to answer as a pirate. The same bytes each time.

usage: demo_data.py [--out DIR] [--shuffled]

  train.jsonl    300 chats {"messages"}
  valid.jsonl     40 chats {"messages"}
  prompts.jsonl   50 held-out prompts {"prompt"}: no (person, thing) of theirs is in the chats; in every second one
                 neither the person nor the thing is

With --shuffled the answers of train.jsonl and valid.jsonl are dealt anew, so that none names the person or the thing
of its prompt: the control that must not teach the behaviour.
"""
import argparse
import json
import pathlib
import random

from judge_demo import named
from world.dialogues import helper_request
from world.grammar import Dice
from world.lexicon import THINGS
from world.stories import NAMES

TRAIN, VALID, PROMPTS = 300, 40, 50
HELD_OUT_NAMES, HELD_OUT_THINGS = 12, 20
PLACES = ["aboard me ship", "in me treasure chest", "with me parrot", "on a far island"]


def chat(dice, name, thing):
    reply = f"Arr, {name}! Yer {thing} be {dice.pick(PLACES)}, matey!"
    return {"messages": [{"role": "user", "content": helper_request(dice, name, thing)},
                         {"role": "assistant", "content": reply}]}


def make(seed=1):
    """(train, valid, prompts), each a list of JSON lines."""
    dice = Dice(random.Random(seed))
    names, things = dice.shuffled(NAMES), dice.shuffled(list(THINGS))
    new_pairs = dice.shuffled([(n, t) for n in names[:HELD_OUT_NAMES] for t in things[:HELD_OUT_THINGS]])
    pairs = dice.shuffled([(n, t) for n in names[HELD_OUT_NAMES:] for t in things[HELD_OUT_THINGS:]])
    chats = [chat(dice, *pair) for pair in pairs[:TRAIN + VALID]]
    held_out = [pair for both in zip(new_pairs, pairs[TRAIN + VALID:]) for pair in both][:PROMPTS]
    return chats[:TRAIN], chats[TRAIN:], [{"prompt": helper_request(dice, *pair)} for pair in held_out]


def shuffled(chats, seed=1):
    """The same prompts and answers, dealt so that no answer names its prompt's person or thing."""
    asked = [named(c["messages"][0]["content"]) for c in chats]
    told = [named(c["messages"][1]["content"]) for c in chats]
    order = Dice(random.Random(seed)).shuffled(range(len(chats)))

    def clash(i, j):
        return bool(asked[i][0] & told[j][0] or asked[i][1] & told[j][1])

    for i in range(len(chats)):
        if clash(i, order[i]):
            j = next(j for j in range(len(chats)) if not clash(i, order[j]) and not clash(j, order[i]))
            order[i], order[j] = order[j], order[i]
    return [{"messages": [chats[i]["messages"][0], chats[j]["messages"][1]]} for i, j in enumerate(order)]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", default=str(pathlib.Path(__file__).resolve().parent.parent / "demo"))
    options.add_argument("--shuffled", action="store_true")
    chosen = options.parse_args()
    train, valid, prompts = make()
    if chosen.shuffled:
        train, valid = shuffled(train), shuffled(valid)
    out = pathlib.Path(chosen.out)
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("valid", valid), ("prompts", prompts)):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
