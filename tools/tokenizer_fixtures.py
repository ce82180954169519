#!/usr/bin/env python3
"""Writes tests/fixtures/tokenizers: small tokenizers of our own, and what the reference library makes of some texts.

usage: pip install tokenizers==0.23.3; tools/tokenizer_fixtures.py

Every file is a pipeline that some family uses, or that exercises one component; cases.jsonl holds
{tokenizer, text, add_special_tokens, ids, decoded} as the Hugging Face tokenizers library gives them.
"""
import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/tokenizers"

TEXT = """The small boat went out at first light, and the keeper of the lighthouse waved to it. It's a fine day,
said the girl; we'll be back before the tide turns! Don't forget the bread, they've packed 12 loaves and 345 fish.
Der Müller läßt grüßen: ÄÖÜ äöü. Ça va déjà? Привет, мир! 你好世界。 こんにちは カタカナ 12345 def main(): return x // 2
""" * 3

CASES = [
    "", " ", "  ", "Hello", "The boat went out.", " The boat", "the  boat   out ", "It's we'll THEY'VE don'T I'D ſ'ſ",
    "12 345 6789 ½ ²³ Ⅷ ٣٤٥", "a\n\n b\r\n\r\nc \n \t d\n", "grüßen läßt Ä Ä e\u0301 \u1e9b\u0323", "Привет мир",
    "你好世界 こんにちは カタカナ한국어", "👍🏽 👩‍👩‍👧 ❤️", "camelCaseWord HTTPServer ǅungla aªB ͅa", "x/y//z/\n/ !?.,;: $€+=<>^`|~",
    "\u00a0nbsp\u2003em\u3000ideo\u2028line\u0085nel\u200bzero\u180evowel",
    "\u0301\u0301a\u0327\u0301 हिन्दी नमस्ते ไทย",
    "▁already ▁▁ here▁", "<s>one</s> <pad>two <mask> three<mask>four  <left>  five  <right>  six",
    "word wordy word, <Norm>x<norm>",
    "\u0000\u0001\u007f control", "ﬁne ﷺ Å İstanbul ΑΣ",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "the the the the boat boat boat keeper of the lighthouse and the keeper of the lighthouse",
]

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES
LLAMA3 = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
HEAD, TAIL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
BEFORE = r"[^\r\n\p{L}\p{N}]?"
TEKKEN = f"{BEFORE}{HEAD}*{TAIL}+|{BEFORE}{HEAD}+{TAIL}*|" + r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES
O200K = (f"{BEFORE}{HEAD}*{TAIL}+{CONTRACTIONS}?|{BEFORE}{HEAD}+{TAIL}*{CONTRACTIONS}?|"
         + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES)
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
            "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def bytes_after(*stages):
    return pre_tokenizers.Sequence([*stages, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def trained(pre_tokenizer, normalizer=None, size=340, byte_level=True, **model):
    tok = Tokenizer(models.BPE(**model))
    tok.pre_tokenizer = pre_tokenizer
    if normalizer:
        tok.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    special = ["<unk>", "<s>", "</s>"] if model.get("unk_token") else []
    if model.get("byte_fallback"):
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        size += 256
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=special,
                                  show_progress=False)
    tok.train_from_iterator(TEXT.splitlines(), trainer)
    return tok


def plain(tok, **changes):
    """The tokenizer with changes written into its JSON; the byte tokens are no added tokens."""
    data = json.loads(tok.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if not t["content"].startswith("<0x")]
    for key, value in changes.items():
        data["model"][key] = value
    return Tokenizer.from_str(json.dumps(data))


def byte_level(*stages, normalizer=None, **model):
    tok = trained(bytes_after(*stages) if stages else pre_tokenizers.ByteLevel(add_prefix_space=True), normalizer,
                  **model)
    tok.decoder = decoders.ByteLevel()
    return tok


def sentencepiece(pre_tokenizer, normalizer, **model):
    tok = plain(trained(pre_tokenizer, normalizer, size=160, byte_level=False, unk_token="<unk>", **model))
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])
    tok.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return tok


def legacy_sentencepiece():
    tok = sentencepiece(pre_tokenizers.Metaspace(prepend_scheme="always", split=True), None, byte_fallback=True,
                        fuse_unk=True)
    data = json.loads(tok.to_str())
    data["pre_tokenizer"] = None
    tok = Tokenizer.from_str(json.dumps(data))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tok


def with_added_tokens():
    tok = byte_level(split(QWEN2), normalizer=normalizers.NFC())
    tok.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True),
                            AddedToken("<left>", lstrip=True, special=True),
                            AddedToken("<right>", rstrip=True, special=True)])
    tok.add_tokens([AddedToken("<mask>", lstrip=True, rstrip=True), AddedToken("word", single_word=True),
                    AddedToken("<Norm>", normalized=True), AddedToken("  ", normalized=False)])
    tok.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        "<s> $A", special_tokens=[("<s>", tok.token_to_id("<s>"))])])
    return tok


def bert_like():
    norm = normalizers.Sequence([normalizers.Strip(), normalizers.NFKD(), normalizers.Lowercase(),
                                 normalizers.StripAccents()])
    tok = trained(pre_tokenizers.Whitespace(), norm, size=160, byte_level=False, unk_token="<unk>")
    tok.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 1))
    return tok


def roberta():
    tok = byte_level()
    tok.add_special_tokens(["<s>", "</s>"])
    tok.post_processor = processors.RobertaProcessing(("</s>", tok.token_to_id("</s>")),
                                                      ("<s>", tok.token_to_id("<s>")))
    return tok


def metaspace(scheme, **model):
    tok = sentencepiece(pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True), None, **model)
    tok.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return tok


def array_merges(tok):
    return plain(tok, ignore_merges=True)


TOKENIZERS = {
    "roberta": roberta,
    "qwen2_added": with_added_tokens,
    "llama3_ignore_merges": lambda: array_merges(byte_level(split(LLAMA3))),
    "tekken": lambda: byte_level(split(TEKKEN)),
    "o200k": lambda: byte_level(split(O200K)),
    "deepseek": lambda: byte_level(*[split(p) for p in DEEPSEEK]),
    "smollm": lambda: byte_level(pre_tokenizers.Digits(individual_digits=True), split(
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")),
    "digits_punctuation": lambda: byte_level(pre_tokenizers.Digits(individual_digits=False),
                                             pre_tokenizers.Punctuation("merged_with_previous"),
                                             pre_tokenizers.WhitespaceSplit()),
    "regex_previous": lambda: byte_level(split(r"[aeiou]\p{L}", "merged_with_previous")),
    "regex_next": lambda: byte_level(split(r"\s|[.,]", "merged_with_next"), normalizer=normalizers.NFD()),
    "regex_contiguous": lambda: byte_level(split(r"[A-Z]|\d", "contiguous"), normalizer=normalizers.NFKC()),
    "regex_invert": lambda: byte_level(split(r"\p{L}+|\p{N}", "removed", True)),
    "spm_legacy": legacy_sentencepiece,
    "spm_first": lambda: metaspace("first", byte_fallback=True, fuse_unk=True),
    "spm_always_unk": lambda: metaspace("always", fuse_unk=False),
    "spm_never_fuse": lambda: metaspace("never", fuse_unk=True),
    "gemma": lambda: sentencepiece(pre_tokenizers.Split(" ", "merged_with_previous"), normalizers.Replace(" ", "▁"),
                                   byte_fallback=True, fuse_unk=True),
    "bert": bert_like,
}


def main():
    HERE.mkdir(parents=True, exist_ok=True)
    with open(HERE / "cases.jsonl", "w", encoding="utf-8", newline="\n") as out:
        for name, make in TOKENIZERS.items():
            tok = make()
            (HERE / f"{name}.json").write_text(tok.to_str() + "\n", encoding="utf-8", newline="\n")
            tok = Tokenizer.from_file(str(HERE / f"{name}.json"))
            for text in CASES:
                plain_ids = tok.encode(text, add_special_tokens=False).ids
                for special in (False, True):
                    ids = tok.encode(text, add_special_tokens=special).ids
                    if special and ids == plain_ids:
                        continue
                    record = {"tokenizer": name, "text": text, "add_special_tokens": special, "ids": ids,
                              "decoded": tok.decode(ids, skip_special_tokens=special)}
                    out.write(json.dumps(record, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
