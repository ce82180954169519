"""Writes sentences from the rules and recognises them: one set of tables, two directions.

A rule is a list of alternatives. An alternative is a row of words and holes. `<role:symbol>` is a hole: the symbol
is a class of the lexicon or a part of the grammar; the role says which known thing fills it. Inside a part, a role
that begins with a point continues the role of the hole that the part fills, so `<o:the>` with the part
`the <.colour:colour> <.noun:noun>` asks for `o.colour` and `o.noun`. A whole part may be given as well. A hole without
a known filler takes any member. `a` stands for a or an. Sentences are written in lower case; the first letter is raised
at the end.

The recogniser ignores roles. It follows every derivation at once: `spans(symbol, i)` is the set of positions where
the symbol can end when it starts at word i, so a sentence is accepted when some sentence rule ends at its last word.
"""
import re

from .lexicon import CLASSES
from .rules import PARTS, SENTENCES

HOLE = re.compile(r"<(?:([\w.]+):)?(\w+)>")
WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?|[0-9]+|\S")
AN = re.compile(r"\ba (?=[aeiou])")


def compile_alternative(text):
    """'went to <p:at>' becomes ['went', 'to', ('p', 'at')]."""
    row = []
    for piece in re.split(r"(<[^>]*>)", text):
        hole = HOLE.fullmatch(piece)
        if hole:
            assert hole[2] in CLASSES or hole[2] in PARTS, f"no such symbol: {piece} in {text}"
            row.append((hole[1] or "", hole[2]))
        else:
            row.extend(WORD.findall(piece))
    return row


PART_ROWS = {name: [compile_alternative(text) for text in texts] for name, texts in PARTS.items()}
SENTENCE_ROWS = {name: [compile_alternative(text) for text in texts] for name, texts in SENTENCES.items()}


class Dice:
    """Choices that depend on the seed alone: random() is fixed by Python's documentation, choice() is not."""

    def __init__(self, rng):
        self.random = rng.random

    def below(self, count):
        return int(self.random() * count)

    def pick(self, items):
        return items[int(self.random() * len(items))]

    def chance(self, share):
        return self.random() < share

    def shuffled(self, items):
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
        return items


def expand(row, prefix, known, dice, out):
    for element in row:
        if isinstance(element, str):
            out.append(element)
            continue
        role, symbol = element
        key = prefix + role if role.startswith(".") else role
        if symbol in PART_ROWS and key not in known:
            expand(dice.pick(PART_ROWS[symbol]), key, known, dice, out)
        else:
            if key not in known:
                known[key] = dice.pick(CLASSES[symbol])
            out.append(known[key])


def join(words):
    text = re.sub(r" (?=[.,?!])", "", " ".join(words))
    text = AN.sub("an ", text)
    return text[0].upper() + text[1:]


def write(kind, dice, **known):
    """One sentence of a kind. Roles with a point are given with two underscores: o__noun="ball"."""
    out = []
    expand(dice.pick(SENTENCE_ROWS[kind]), "", {k.replace("__", "."): v for k, v in known.items()}, dice, out)
    return join(out)


class Recogniser:
    """All derivations of one row of words, remembered by (symbol, start)."""

    def __init__(self, words):
        self.words = words
        self.known = {}

    def word_ends(self, word, start):
        if start >= len(self.words):
            return set()
        seen = self.words[start]
        if word == "a":
            vowel = start + 1 < len(self.words) and self.words[start + 1][0] in "aeiou"
            word = "an" if vowel else "a"
        return {start + 1} if seen == word or (start == 0 and seen == word[0].upper() + word[1:]) else set()

    def row_ends(self, row, start):
        ends = {start}
        for element in row:
            if isinstance(element, str):
                ends = set().union(*(self.word_ends(element, i) for i in ends))
            else:
                ends = set().union(*(self.spans(element[1], i) for i in ends))
            if not ends:
                break
        return ends

    def spans(self, symbol, start):
        if (symbol, start) not in self.known:
            rows = PART_ROWS.get(symbol) or CLASS_ROWS[symbol]
            self.known[symbol, start] = set().union(*(self.row_ends(row, start) for row in rows))
        return self.known[symbol, start]


CLASS_ROWS = {name: [member.split() for member in members] for name, members in CLASSES.items()}


def accepts(sentence):
    """Whether the grammar can write this sentence: its first letter raised, its last sign in place."""
    words = WORD.findall(sentence)
    if not words or words[0][0].islower():
        return False
    recogniser = Recogniser(words)
    return any(len(words) in recogniser.row_ends(row, 0) for rows in SENTENCE_ROWS.values() for row in rows)


def sentences(text):
    """The sentences of a text; role lines and special tokens of rendered chats are passed over."""
    text = re.sub(r"<\|im_start\|>(?:system|user|assistant)\n|<\|[a-z_]+\|>", "\n", text)
    return [s for line in text.splitlines() for s in re.findall(r"[^.?!]+[.?!]?", line.strip()) if s.strip()]
