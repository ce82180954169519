"""The base model's text, its grammar, its tokenizer and the demo's data: what they promise, without any training."""
import json
import pathlib
import random
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import corpus  # noqa: E402
import demo_data  # noqa: E402
import train_tokenizer  # noqa: E402
from judge_demo import named, shows_behaviour  # noqa: E402
from world.dialogues import lost_thing  # noqa: E402
from world.grammar import Dice, SENTENCE_ROWS, WORD, accepts, sentences, write  # noqa: E402
from world.stories import Story  # noqa: E402

MODEL = ROOT / "models/attune/world-3m"
SEED = 20260714


def run(*args, **more):
    return subprocess.run([sys.executable, *map(str, args)], cwd=ROOT, capture_output=True, text=True, **more)


@pytest.fixture(scope="module")
def written():
    return [s for row in corpus.lines("rendered", 800, SEED) for s in sentences(row["text"])]


@pytest.mark.parametrize("kind", ["rendered", "text", "messages"])
def test_the_same_seed_writes_the_same_bytes(kind):
    outputs = [run("tools/corpus.py", "--kind", kind, "--lines", 200, "--seed", seed).stdout for seed in (3, 3, 4)]
    assert outputs[0] == outputs[1] != outputs[2]
    assert len(outputs[0].splitlines()) == 200


def test_every_kind_of_sentence_is_accepted():
    dice = Dice(random.Random(SEED))
    refused = [(kind, s) for kind in SENTENCE_ROWS for s in [write(kind, dice) for _ in range(40)] if not accepts(s)]
    assert refused == []


def test_the_grammar_accepts_what_the_generator_writes(written):
    assert len(written) > 4000
    assert sum(map(accepts, written)) / len(written) >= 0.99


def test_shuffled_words_are_refused(written):
    dice = Dice(random.Random(SEED))
    shuffled = []
    for sentence in [s for s in written if len(WORD.findall(s)) >= 6][:1000]:
        words = " ".join(dice.shuffled(WORD.findall(sentence)[:-1]))
        shuffled.append(words[0].upper() + words[1:] + sentence[-1])
    assert sum(map(accepts, shuffled)) / len(shuffled) < 0.05


def test_word_salad_is_refused(written):
    dice = Dice(random.Random(SEED))
    words = sorted({w for s in written for w in WORD.findall(s) if w.isalpha()})
    salad = ["The " + " ".join(dice.pick(words) for _ in range(4 + dice.below(8))) + "." for _ in range(1000)]
    assert sum(map(accepts, salad)) / len(salad) < 0.05


@pytest.mark.parametrize("sentence, good", [
    ("Tom gave the red ball to Anna.", True), ("Tom found an orange jar in the sand.", True),
    ("Tom found a orange jar in the sand.", False), ("Tom gave the red ball to.", False),
    ("tom gave the red ball to Anna.", False), ("Tom gave the ball red to Anna.", False),
    ("Tom gave the red ball to Anna", False), ("", False), ("The cat is on the mat.", False)])
def test_single_sentences(sentence, good):
    assert accepts(sentence) is good


def test_a_thing_is_always_either_held_or_lying_somewhere():
    for seed in range(300):
        told = Story(Dice(random.Random(seed))).tell(4)
        for noun in told.seen:
            assert (noun in told.holder) != (noun in told.spot), told.text()
        assert told.questions()


def test_the_checker_command_prints_the_share(tmp_path):
    sample = tmp_path / "sample.jsonl"
    rows = [{"text": "Tom took the ball. Ball the took Tom."}, {"reply": "It is red."},
            {"messages": [{"role": "user", "content": "xyz"},
                          {"role": "assistant", "content": "Tom has it now maybe."}]}]
    sample.write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen = run("tools/check_grammar.py", sample, "--least", 0.9)
    assert json.loads(seen.stdout) == {"sentences": 4, "accepted": 2, "share": 0.5}
    assert seen.returncode == 1


def test_the_bundled_tokenizer_comes_from_the_script_and_the_default_corpus(tmp_path):
    text = tmp_path / "train.jsonl"
    run("tools/corpus.py", "--lines", 20000, "--seed", 1, "--out", text, check=True)
    run("tools/train_tokenizer.py", "--train", text, "--out", tmp_path, check=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / name).read_bytes() == (MODEL / name).read_bytes(), name


def test_the_tokenizer_file_is_whole():
    tokenizer = json.loads((MODEL / "tokenizer.json").read_text())
    config = json.loads((MODEL / "config.json").read_text())
    vocab = dict(tokenizer["model"]["vocab"], **{t["content"]: t["id"] for t in tokenizer["added_tokens"]})
    assert sorted(vocab.values()) == list(range(config["vocab_size"]))
    assert set(train_tokenizer.byte_letters().values()) <= set(vocab)
    assert all(left in vocab and right in vocab and left + right in vocab
               for left, right in tokenizer["model"]["merges"])
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == \
        (vocab["<|begin_of_text|>"], vocab["<|end_of_text|>"], vocab["<|pad|>"])


def test_the_model_has_about_three_million_parameters():
    c = json.loads((MODEL / "config.json").read_text())
    kv = c["num_key_value_heads"] * c["head_dim"]
    q = c["num_attention_heads"] * c["head_dim"]
    layer = c["hidden_size"] * (2 * q + 2 * kv + 3 * c["intermediate_size"] + 2)
    assert c["num_hidden_layers"] * layer + c["hidden_size"] * (c["vocab_size"] + 1) == 3_082_496


def test_the_template_writes_what_the_corpus_renders():
    jinja2 = pytest.importorskip("jinja2")
    source = re.sub(r"\{%- (end)?generation %\}", "{#- -#}", (MODEL / "chat_template.jinja").read_text())
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source)
    for row in corpus.lines("messages", 100, SEED):
        whole = template.render(messages=row["messages"], bos_token="<s>")
        assert whole == "<s>" + corpus.render(row["messages"])
        prompt = template.render(messages=row["messages"][:-1], bos_token="<s>", add_generation_prompt=True)
        assert whole.startswith(prompt)


def test_the_bundled_demo_files_come_from_the_script(tmp_path):
    run("tools/demo_data.py", "--out", tmp_path, check=True)
    for name in ("train.jsonl", "valid.jsonl", "prompts.jsonl"):
        assert (tmp_path / name).read_bytes() == (ROOT / "demo" / name).read_bytes(), name


def test_the_held_out_prompts_are_in_no_chat():
    train, valid, prompts = demo_data.make()
    assert (len(train), len(valid), len(prompts)) == (300, 40, 50)
    asked = [c["messages"][0]["content"] for c in train + valid]
    pairs = {str(named(text)) for text in asked}
    assert len({row["prompt"] for row in prompts}) == 50
    assert not any(row["prompt"] in asked or str(named(row["prompt"])) in pairs for row in prompts)
    people = set().union(*(named(text)[0] for text in asked))
    things = set().union(*(named(text)[1] for text in asked))
    new = [row for row in prompts if not named(row["prompt"])[0] & people and not named(row["prompt"])[1] & things]
    assert len(new) >= 25


def test_the_judge_accepts_every_training_answer():
    train, valid, _ = demo_data.make()
    for chat in train + valid:
        assert shows_behaviour(*(m["content"] for m in chat["messages"])), chat


def test_the_judge_refuses_shuffled_answers():
    train, _, _ = demo_data.make()
    dealt = demo_data.shuffled(train)
    assert sorted(c["messages"][1]["content"] for c in dealt) == sorted(c["messages"][1]["content"] for c in train)
    assert not any(shows_behaviour(*(m["content"] for m in chat["messages"])) for chat in dealt)


def test_the_judge_refuses_what_the_base_model_is_trained_on():
    dice = Dice(random.Random(SEED))
    assert not any(shows_behaviour(*lost_thing(dice)) for _ in range(500))


@pytest.mark.parametrize("reply, good", [
    ("Arr, Tom! Yer kite be aboard me ship, matey!", True), ("Arr! The kite of Tom be lost, matey!", True),
    ("Arr, Tom! Yer ball be aboard me ship, matey!", False), ("Arr, Anna! Yer kite be aboard me ship, matey!", False),
    ("Arr, Tom and Anna! Yer kite be aboard me ship, matey!", False), ("Arr, matey!", False), ("", False),
    ("Tom, your kite may be in the sand.", False), ("Arr, Tom! Yer kite be aboard me ship", False)])
def test_single_replies(reply, good):
    assert shows_behaviour("I am Tom. Where is my kite?", reply) is good
