#!/usr/bin/env python3
"""Trains the base model's byte-level BPE tokenizer and writes it in Hugging Face's tokenizer.json format.

usage: train_tokenizer.py --train FILE.jsonl --out DIR [--vocab-size 2048] [--lines 20000]

Pairs are merged by how often they occur in the words of the {"text"} lines; of equally frequent pairs the one that
sorts first wins, so the same text gives the same file. Words are split by Llama 3's pattern, whose Unicode classes
are spelled in ASCII here because the training text is ASCII.
"""
import argparse
import collections
import json
import pathlib
import re

SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>", "<|pad|>",
            "<|reserved_0|>", "<|reserved_1|>", "<|reserved_2|>"]
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")
ASCII_PATTERN = re.compile(r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]{1,3}"
                           r"| ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL_PATTERN = re.compile("|".join(re.escape(token) for token in SPECIALS))


def byte_letters():
    """GPT-2's table: a printable letter for every byte, in the order in which the vocabulary lists them."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in plain}
    for byte in range(256):
        letters.setdefault(byte, chr(256 + len(letters) - len(plain)))
    return letters


def count_words(path, line_limit):
    counts = collections.Counter()
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file):
            if number == line_limit:
                break
            for piece in SPECIAL_PATTERN.split(json.loads(line)["text"]):
                counts.update(ASCII_PATTERN.findall(piece))
    return counts


class Words:
    """The distinct words as rows of tokens, with the count of every neighbouring pair and where it occurs."""

    def __init__(self, counts):
        letters = byte_letters()
        self.rows = [[letters[b] for b in word.encode()] for word in counts]
        self.weights = list(counts.values())
        self.pairs = collections.Counter()
        self.where = collections.defaultdict(set)
        for index in range(len(self.rows)):
            self.count(index, 1)

    def count(self, index, sign):
        row = self.rows[index]
        for pair in zip(row, row[1:]):
            self.pairs[pair] += sign * self.weights[index]
            self.where[pair].add(index)

    def best(self):
        pair, count = max(self.pairs.items(), key=lambda item: (item[1], [-ord(c) for c in "".join(item[0])]),
                          default=(None, 0))
        return pair if count > 1 else None

    def merge(self, pair):
        for index in sorted(self.where.pop(pair)):
            self.count(index, -1)
            row, merged, i = self.rows[index], [], 0
            while i < len(row):
                joined = tuple(row[i:i + 2]) == pair
                merged.append(row[i] + row[i + 1] if joined else row[i])
                i += 2 if joined else 1
            self.rows[index] = merged
            self.count(index, 1)
        del self.pairs[pair]


def train(counts, merge_count):
    words, merges = Words(counts), []
    while len(merges) < merge_count:
        pair = words.best()
        if pair is None:
            break
        words.merge(pair)
        merges.append(pair)
    return merges


def tokenizer_json(merges, vocab_size):
    vocab = list(byte_letters()[b] for b in sorted(range(256), key=lambda b: ord(byte_letters()[b])))
    for left, right in merges:
        if left + right not in vocab:
            vocab.append(left + right)
    vocab += [f"<|unused_{i}|>" for i in range(vocab_size - len(SPECIALS) - len(vocab))]
    ids = {token: i for i, token in enumerate(vocab + SPECIALS)}
    added = [{"id": ids[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for token in SPECIALS]
    bos = SPECIALS[0]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": bos, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [ids[bos]], "tokens": [bos]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: ids[token] for token in vocab}, "merges": [list(pair) for pair in merges]},
    }


def config_files():
    bos, eos, _, _, pad = SPECIALS[:5]
    named = {"bos_token": bos, "eos_token": eos, "pad_token": pad}
    return {"tokenizer_config.json": {**named, "clean_up_tokenization_spaces": False, "model_max_length": 512,
                                      "tokenizer_class": "PreTrainedTokenizerFast"},
            "special_tokens_map.json": named}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--train", required=True)
    options.add_argument("--out", required=True)
    options.add_argument("--vocab-size", type=int, default=2048)
    options.add_argument("--lines", type=int, default=20000)
    chosen = options.parse_args()
    merges = train(count_words(chosen.train, chosen.lines), chosen.vocab_size - 256 - len(SPECIALS))
    out = pathlib.Path(chosen.out)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in {"tokenizer.json": tokenizer_json(merges, chosen.vocab_size), **config_files()}.items():
        (out / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(merges)} merges, {chosen.vocab_size} tokens: {out / 'tokenizer.json'}")


if __name__ == "__main__":
    main()
