"""Tokenizer and chat template against `tokenizers` and transformers' own rendering, on random text and chats."""
import json
import random

from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

import attune

FIXTURES = attune.ROOT / "tests/fixtures/tokenizers"
TEXTS = 400
CHATS = 200

WORDS = ("the cat sat Kite's don't I'LL we've 12 1234567 3.14 x=y; foo_bar() …  \t \n\n \r\n naïve café Straße Ελλάδα привет мир "
         "日本語 한국어 हिन्दी العربية עברית ไทย 👍🏽 👩‍👩‍👧 e\u0301 ﬁ Å ½ \u200b \u00a0 \ufeff ſ K").split(" ")
# Ranges of characters that every Unicode version of the last years knows.
RANGES = ((0x20, 0x7E), (0x20, 0x7E), (0xA0, 0x17F), (0x370, 0x3FF), (0x400, 0x45F), (0x5D0, 0x5EA), (0x621, 0x64A), (0x905, 0x939),
          (0x300, 0x36F), (0x2010, 0x205E), (0x3041, 0x3096), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3), (0x1F300, 0x1F64F), (0x1D400, 0x1D454))


def text_of(rng, specials=()):
    pieces = []
    for _ in range(rng.randrange(24)):
        kind = rng.random()
        if kind < 0.55:
            pieces.append(rng.choice(WORDS))
        elif kind < 0.9:
            low, high = rng.choice(RANGES)
            pieces.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randrange(1, 8))))
        elif kind < 0.95 and specials:
            pieces.append(rng.choice(specials))
        else:
            pieces.append(rng.choice((" ", "\n", "\t", "\r\n", "\x00", "\x0b", "\u3000")) * rng.randrange(1, 6))
    return rng.choice(("", " ", "")).join(pieces) if rng.random() < 0.5 else " ".join(pieces)


def count(what, differences):
    """How many there are; the first is shown."""
    for given, expected, answer in differences[:1]:
        print(f"  {what}, given {given!r}\n    reference {expected!r}\n    attune    {answer!r}")
    return len(differences)


def count_tokenizer_differences(path, rng, texts):
    reference = Tokenizer.from_file(str(path))
    specials = [token["content"] for token in json.loads(path.read_text())["added_tokens"]]
    differences = []
    lines = [{"text": text_of(rng, specials), "add_special_tokens": rng.random() < 0.5} for _ in range(texts)]
    for line, answer in zip(lines, attune.filtered("tokenize", "--tokenizer", path, lines=lines)):
        ids = reference.encode(line["text"], add_special_tokens=line["add_special_tokens"]).ids
        decoded = reference.decode(ids, skip_special_tokens=False)
        if ids != answer["ids"] or decoded != answer["decoded"]:
            differences.append((line, (ids, decoded), (answer["ids"], answer["decoded"])))
    return count(path.name, differences)


def all_fixtures(rng):
    paths = sorted(path for path in FIXTURES.glob("*.json"))
    return sum(count_tokenizer_differences(path, rng, TEXTS // 4) for path in paths), f"{len(paths)} tokenizers"


# A template in the manner of several families: system text, tools, trimming, dates, loops with namespaces, macros.
FAMILY = """{%- macro head(role) -%}<|{{ role }}|>{%- endmacro -%}
{%- set ns = namespace(turn=0) -%}
{%- if messages[0].role == 'system' %}{{ head('system') }}{{ messages[0].content | trim }}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif -%}
{%- if tools %}{% for tool in tools %}{{ '\\n' }}{{ tool | tojson }}{% endfor %}{% endif -%}
{%- for message in rest %}
{%- set ns.turn = ns.turn + (1 if message.role == 'user' else 0) %}
{{ head(message['role']) }}[{{ ns.turn }}/{{ loop.index0 }}{{ ',' if not loop.last }}]
{%- if message.role == 'assistant' %}{% generation %}{{ message.content.split('</think>')[-1].lstrip('\\n') }}<|end|>{% endgeneration %}
{%- else %}{{ message.content | replace('a', message.role | upper) if loop.index is divisibleby 3 else message.content }}<|end|>{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ head('assistant') }}{% endif %}"""


def chat_of(rng):
    turns = [{"role": "system", "content": text_of(rng)}] if rng.random() < 0.5 else []
    for _ in range(rng.randrange(1, 5)):
        turns += [{"role": "user", "content": text_of(rng)}, {"role": "assistant", "content": text_of(rng)}]
    return turns[:-1] if rng.random() < 0.3 else turns


def count_template_differences(template, rng):
    path = attune.ROOT / "build/parity/template.jinja"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(template)
    tools = [{"type": "function", "function": {"name": "find", "description": "Finds <things> & \"more\" é",
                                               "parameters": {"type": "object", "properties": {"n": {"type": "number", "default": 1.5}}}}}]
    lines = [{"messages": chat_of(rng), "add_generation_prompt": rng.random() < 0.3, "bos_token": "<|begin_of_text|>",
              "tools": tools if rng.random() < 0.3 else None} for _ in range(CHATS)]
    differences = []
    for line, answer in zip(lines, attune.filtered("render", "--template", path, lines=lines)):
        texts, spans = render_jinja_template(
            [line["messages"]], tools=line["tools"], chat_template=template, return_assistant_tokens_mask=True,
            add_generation_prompt=line["add_generation_prompt"], bos_token=line["bos_token"])
        expected = {"text": texts[0], "generation_spans": [list(span) for span in spans[0]]}
        if answer != expected:
            differences.append((line, expected, answer))
    return count("template", differences)


def measure(table, seed):
    rng = random.Random(seed)
    table.heading("text: how many differ")
    table.measure(f"tokenizer: the bundled one on {TEXTS} random texts, ids and decoded text", 0,
                  count_tokenizer_differences, attune.BUNDLED / "tokenizer.json", rng, TEXTS)
    table.measure(f"tokenizer: the fixtures on {TEXTS // 4} random texts each", 0, all_fixtures, rng)
    table.measure(f"template: the bundled one on {CHATS} random chats, text and spans", 0,
                  count_template_differences, (attune.BUNDLED / "chat_template.jinja").read_text(), rng)
    table.measure(f"template: macros, namespaces, tools, slices on {CHATS} random chats", 0, count_template_differences, FAMILY, rng)
