"""What trains, token by token, against TRL's preparation; rows and their order; an adapter's first values against PEFT's."""
import functools
import json
import random
import tempfile
from pathlib import Path

import torch
import trl
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

import attune
import models
import reference
import samples
import sft_data
import train_rows

LINES = 12
SHAPE = "grouped heads, untied"
AWKWARD = 200
TEMPLATES = Path(trl.__file__).parent / "chat_templates"
# Templates that TRL trains with a variant of its own; those that only know images and text parts are left out.
VARIANTS = ("cohere cohere2 deepseek_r1_distill deepseekv3 gemma gemma3 gptoss lfm2 lfm2_v2 llama3 muse_glimmer nemotron_3_5_lightning nemotron_3_nano "
            "nemotron_3_super nemotron_3_ultra phi3 phi3_5 qwen2_5 qwen3 qwen3_5_nothink qwen3_5_think qwen3_6 qwen3_8 qwen3_instruct_2507").split()
# Tokenizers of shared data with templates as released models have them: the first are TRL's variants, the others go by rendered prefixes or by their own marks.
PAIRS = (("qwen2.5", "trl/qwen2_5"), ("qwen2.5", "trl/qwen3"), ("llama3", "trl/llama3"), ("phi-3-mini", "trl/phi3"), ("llama2", "trl/gemma"),
         ("llama3", "trl/llama3_1"), ("llama3", "trl/llama3_2"), ("llama3", "llama.cpp/HuggingFaceTB-SmolLM3-3B"),
         ("qwen2.5", "llama.cpp/mistralai-Mistral-Nemo-Instruct-2407"), ("llama2", "llama.cpp/google-gemma-2-2b-it"))


def template(name):
    source, file = name.split("/")
    return ((TEMPLATES if source == "trl" else sft_data.SHARED / "chat-templates" / source) / f"{file}.jinja").read_text()


@functools.cache
def shared_folder(scratch, tokenizer, name):
    return sft_data.model_folder(scratch / f"{tokenizer} {name.replace('/', ' ')}", sft_data.SHARED / "tokenizers" / tokenizer, template(name))


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def answer(line):
    """(ids, labels) of attune's line; None when nothing in it trains or it is refused."""
    if "error" in line or all(label == -100 for label in line["labels"]):
        return None
    return line["ids"], line["labels"]


def compare(ours, theirs, lines):
    """How many lines differ, and a note; the first is shown."""
    bad = [index for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)) if answer(mine) != other]
    for index in bad[:1]:
        print(f"  given {json.dumps(lines[index])[:600]}\n    reference {str(theirs[index])[:1200]}\n    attune    {str(ours[index])[:1200]}")
    refused = theirs.count(None)
    return len(bad), f"{len(theirs)} lines" + (f", {refused} refused by both" if refused else "")


def together(results):
    """Several comparisons as one row."""
    return sum(bad for bad, _ in results), "; ".join(dict.fromkeys(note for _, note in results)) if len(results) < 4 else f"{len(results)} times {results[0][1].split(',')[0]}"


def count_differences(scratch, kind, seed):
    """Against a whole SFTTrainer, through Arrow and its own tokenizer."""
    folder, data = models.make(scratch / f"{kind} model", SHAPE, seed), scratch / f"{kind}.jsonl"
    lines = samples.write(data, kind, LINES, random.Random(f"{seed} {kind}"))
    rows = reference.sft_trainer(models.load(folder), folder, lines, scratch / "trl", packing=False, context_length=None).train_dataset
    expected = [(row["input_ids"], [-100] + row["labels"][1:]) for row in rows]
    return compare(attune.shown_lines(folder, data), expected, lines)


def compare_chats(folder, lines, path, is_weighted=False):
    """Against TRL's training template, or rendered prefixes where TRL has none."""
    preparation, given = sft_data.Preparation(folder, assistant_only=True), [samples.as_trl_takes_it(line) for line in lines]
    theirs = [preparation.chat(line) for line in given]
    if is_weighted:
        theirs = [preparation.without_turns(line, weights, other) for line, weights, other in zip(given, lines, theirs)]
    return compare(attune.shown_lines(folder, write(path, lines)), theirs, lines)


def compare_variants(scratch, seed):
    results = []
    for name in VARIANTS:
        rng = random.Random(f"{seed} {name}")
        folder = sft_data.model_folder(scratch / f"variant {name}", attune.BUNDLED, (TEMPLATES / f"{name}.jinja").read_text())
        bad, note = compare_chats(folder, [samples.awkward(rng, number % 2 == 0) for number in range(60)], scratch / "variant.jsonl")
        if bad:
            print(f"  {name}: {bad} of {note}")
        results.append((bad, note))
    return together(results)


def compare_awkward(scratch, tokenizer, name, seed, is_weighted):
    rng, is_strict = random.Random(f"{seed} {tokenizer} {name}"), any(family in name for family in ("gemma", "Mistral"))
    lines = [samples.awkward(rng, is_strict) for _ in range(AWKWARD)]
    if is_weighted:
        lines = [samples.weighted(rng, line) for line in lines]
    return compare_chats(shared_folder(scratch, tokenizer, name), lines, scratch / "awkward.jsonl", is_weighted)


def compare_plain(folder, lines, path):
    """Prompts, texts and tokens against TRL."""
    preparation = sft_data.Preparation(folder)
    return compare(attune.shown_lines(folder, write(path, lines)), [preparation.line(line) for line in lines], lines)


def shared_lines(name):
    text = (sft_data.SHARED / name).read_text()
    return json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.split("\n") if line]


def gsm8k_chat(line):
    return {"messages": [{"role": "user", "content": line["question"]}, {"role": "assistant", "content": line["answer"]}]}


def gsm8k_prompt(line):
    return {"prompt": line["question"] + "\n", "completion": line["answer"]}


def gsm8k_parts(line):
    return {"prompt": gsm8k_chat(line)["messages"][:1], "completion": gsm8k_chat(line)["messages"][1:]}


def compare_gsm8k(scratch, tokenizer, name, make, count):
    folder, lines = shared_folder(scratch, tokenizer, name), [make(line) for line in shared_lines("gsm8k/train.jsonl")[:count]]
    return (compare_chats if make is gsm8k_chat else compare_plain)(folder, lines, scratch / "gsm8k.jsonl")


def compare_packed(scratch, tokenizer, name, context_length):
    """The rows of 2,500 lines: two and a half of the packer's windows."""
    folder, lines = shared_folder(scratch, tokenizer, name), [gsm8k_chat(line) for line in shared_lines("gsm8k/train.jsonl")[:2500]]
    prepared = sft_data.Preparation(folder, assistant_only=True, max_length=context_length).rows(lines)
    theirs = sft_data.packed(prepared, context_length)
    ours, _ = attune.rows(folder, write(scratch / "packed.jsonl", lines), context_length=context_length, over_length="truncate")
    bad = abs(len(ours) - len(theirs)) + sum(
        (row["ids"], row["labels"], row["lengths"]) != sft_data.without_first_labels(other) for row, other in zip(ours, theirs))
    return bad, f"{len(theirs)} rows of {len(prepared)} examples, {len(lines) - len(prepared)} left out by both"


def compare_unpacked(scratch, tokenizer, name, context_length):
    folder, lines = shared_folder(scratch, tokenizer, name), [gsm8k_prompt(line) for line in shared_lines("gsm8k/train.jsonl")[:500]]
    theirs = sft_data.Preparation(folder, max_length=context_length).rows(lines)
    ours, _ = attune.rows(folder, write(scratch / "cut.jsonl", lines), context_length=context_length, over_length="truncate", packing=False)
    bad = abs(len(ours) - len(theirs)) + sum((row["ids"], row["labels"]) != (other["input_ids"], [-100] + other["labels"][1:])
                                             for row, other in zip(ours, theirs))
    return bad, f"{len(theirs)} of {len(lines)} lines have something left"


def compare_order(scratch, seed):
    """The rows of three epochs in the Hugging Face Trainer's order."""
    rng, epochs, seed = random.Random(seed), 3, seed % 10000
    lines = [samples.text(rng) for _ in range(157)]
    _, ours = attune.rows(attune.BUNDLED, write(scratch / "order.jsonl", lines), epochs=epochs, seed=seed, packing=False)
    settings = TrainingArguments(output_dir=str(scratch / "order"), per_device_train_batch_size=8, seed=seed, use_cpu=True, report_to="none",
                                 remove_unused_columns=False)
    loader = Trainer(model=torch.nn.Linear(1, 1), args=settings, train_dataset=[{"row": row} for row in range(len(lines))],
                     data_collator=lambda batch: {"row": torch.tensor([item["row"] for item in batch])}).get_train_dataloader()
    theirs = []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        theirs.append([int(row) for batch in loader for row in batch["row"]])
    return sum(mine != other for mine, other in zip(ours, theirs, strict=True)), f"{epochs} epochs of {len(lines)} rows"


def glaive(line):
    """The ShareGPT speakers as roles, as attune documents it."""
    messages = []
    for message in line["conversations"]:
        if message["from"] == "function_call":
            messages.append({"role": "assistant", "tool_calls": [{"type": "function", "function": json.loads(message["value"])}]})
        else:
            role = {"human": "user", "gpt": "assistant", "observation": "tool"}.get(message["from"], message["from"])
            messages.append({"role": role, "content": message["value"]})
    return {"messages": messages, "tools": json.loads(line["tools"])}


def reasoning_tools(line):
    """LlamaFactory's parts as messages of the usual shape."""
    messages = []
    for message in line["messages"]:
        parts = {kind: [part["value"] for part in message["content"] if part["type"] == kind] for kind in ("text", "reasoning", "tool_call")}
        messages.append({"role": message["role"], "content": "".join(parts["text"])})
        if parts["reasoning"]:
            messages[-1]["reasoning_content"] = "".join(parts["reasoning"])
        if parts["tool_call"]:
            messages[-1]["tool_calls"] = [{"type": "function", "function": json.loads(call)} for call in parts["tool_call"]]
    return {"messages": messages, "tools": line["tools"]}


def as_text_arguments(line):
    """Tool calls' arguments as JSON text, as OpenAI's files have them."""
    line = json.loads(json.dumps(line))
    for message in line["messages"]:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return line


def compare_demos(scratch, tokenizer, name):
    folder = shared_folder(scratch, tokenizer, name)
    preparation = sft_data.Preparation(folder, assistant_only=True)
    raw = shared_lines("llamafactory-demo/glaive_toolcall_en_demo.json")
    theirs = [preparation.chat(glaive(line)) for line in raw]
    results = [compare(attune.shown_lines(folder, write(scratch / "glaive.jsonl", raw)), theirs, raw)]
    lines = [as_text_arguments(reasoning_tools(line)) for line in shared_lines("llamafactory-demo/reason_tool_use_demo_50.jsonl")]
    results.append(compare_chats(folder, lines, scratch / "reasoning.jsonl"))
    return together(results)


def identity(line):
    return {"prompt": line["instruction"] + line["input"], "completion": line["output"]}


def compare_texts(scratch, tokenizer):
    """Real prompts and texts: EOS rules, what stands in front, borders inside tokens."""
    folder = shared_folder(scratch, tokenizer, "trl/llama3")
    alpaca = [identity(line) for line in shared_lines("alpaca/alpaca_5000.json")[:300]]
    texts = [{"text": line["text"]} for line in shared_lines("llamafactory-demo/c4_demo.jsonl")[:100]]
    eos = sft_data.Preparation(folder).tokenizer.eos_token
    bos = "<|begin_of_text|>" if tokenizer == "llama3" else "<s>"
    ends = [{"text": text} for text in (f"a{eos}", f"{eos}", "a ", " a", "\n", f"a{eos}\n", "naïve 👍🏽", f"{bos}a", f" {bos}a")]
    prompts = [{"prompt": prompt, "completion": completion} for prompt in ("a", "a ", "", f"a{eos}", "1", "the quick bro", f"{bos}a")
               for completion in ("b", " b", "", f"b{eos}", "2", "wn fox")]
    return together([compare_plain(folder, lines, scratch / "texts.jsonl") for lines in (alpaca, texts, ends, prompts)])


def compare_shapes(scratch, seed):
    """The other shapes that TRL takes: from and value, template variables, tokens with masks."""
    rng, preparation = random.Random(seed), sft_data.Preparation(attune.BUNDLED, assistant_only=True)
    chats = [samples.chat(rng) for _ in range(40)]
    renamed = [{"conversations": [{"from": message["role"], "value": message["content"]} for message in line["messages"]]} for line in chats]
    tokens = []
    for line in chats:
        ids, labels = preparation.line(line)
        mask = [rng.randrange(2) for _ in ids]
        tokens.append(rng.choice(({"input_ids": ids}, {"input_ids": ids, "labels": labels}, {"input_ids": ids, "assistant_masks": mask})))
    theirs = [preparation.line(line) for line in renamed + tokens]
    return compare(attune.shown_lines(attune.BUNDLED, write(scratch / "shapes.jsonl", renamed + tokens)), theirs, renamed + tokens)


def compare_variables(scratch):
    """chat_template_kwargs reach the template."""
    lines = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "chat_template_kwargs": kwargs}
             for kwargs in ({}, {"mood": "grim"}, {"mood": "très gai", "bos_token": "X"}, {"mood": ["a", 1, None]})]
    folder = sft_data.model_folder(scratch / "variables", attune.BUNDLED, "{{ bos_token }}{{ mood }}" + (attune.BUNDLED / "chat_template.jinja").read_text())
    return compare_chats(folder, lines, scratch / "variables.jsonl")


def measure_first_values(scratch, seed):
    """A run with rate 0 writes the adapter as it began."""
    folder, data = models.make(scratch / "model", SHAPE, seed), scratch / "lines.jsonl"
    samples.write(data, "text", 4, random.Random(seed))
    options = train_rows.LORA | {"learning_rate": 0.0, "n_epochs": 1, "seed": seed % 1000}
    written = load_file(attune.Run(scratch / "out", folder, data, **options).checkpoint / "adapter_model.safetensors")
    drawn = {name.replace(".default", ""): values for name, values in train_rows.adapted(models.load(folder), options).named_parameters()
             if values.requires_grad}
    if written.keys() != drawn.keys():
        raise RuntimeError(f"names differ: {sorted(written.keys() ^ drawn.keys())[:4]}")
    return max(float((written[name] - values.detach()).abs().max()) for name, values in drawn.items())


def measure_shared(table, scratch, seed):
    for tokenizer, name in PAIRS:
        table.measure(f"{AWKWARD} awkward chats: {name} on {tokenizer}", 0, compare_awkward, scratch, tokenizer, name, seed, False)
        if (tokenizer, name) not in PAIRS[:4]:
            continue
        table.measure(f"{AWKWARD} awkward chats with weights: {name} on {tokenizer}", 0, compare_awkward, scratch, tokenizer, name, seed, True)
        table.measure(f"GSM8K as chats: {name} on {tokenizer}", 0, compare_gsm8k, scratch, tokenizer, name, gsm8k_chat, 1000)
        table.measure(f"GSM8K as prompts of messages: {name} on {tokenizer}", 0, compare_gsm8k, scratch, tokenizer, name, gsm8k_parts, 200)
        if name != "trl/qwen3":
            table.measure(f"GSM8K as prompts: {tokenizer}", 0, compare_gsm8k, scratch, tokenizer, name, gsm8k_prompt, 500)
    for context_length in (1024, 200):
        table.measure(f"GSM8K packed, cut at {context_length}: llama3", 0, compare_packed, scratch, "llama3", "trl/llama3", context_length)
    table.measure("GSM8K prompts cut at 100: qwen2.5", 0, compare_unpacked, scratch, "qwen2.5", "trl/qwen2_5", 100)
    for tokenizer, name in (PAIRS[0], PAIRS[1], PAIRS[5]):
        table.measure(f"LlamaFactory demos with tools: {name} on {tokenizer}", 0, compare_demos, scratch, tokenizer, name)
    for tokenizer in ("llama2", "llama3", "phi-3-mini", "qwen2.5"):
        table.measure(f"Alpaca prompts, C4 texts, ends and borders: {tokenizer}", 0, compare_texts, scratch, tokenizer)


def measure(table, seed):
    table.heading("data: how many differ; first values: largest difference")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for kind in samples.KINDS:
            table.measure(f"tokens and labels of {LINES} lines, {kind}, by SFTTrainer", 0, count_differences, scratch, kind, seed)
        table.measure(f"awkward chats: each of TRL's {len(VARIANTS)} training templates", 0, compare_variants, scratch, seed)
        table.measure("from and value; tokens with labels and masks", 0, compare_shapes, scratch, seed)
        table.measure("chat_template_kwargs", 0, compare_variables, scratch)
        table.measure("order of the rows over epochs, by Trainer", 0, compare_order, scratch, seed)
        table.measure("first values of an adapter, by PEFT", 0, measure_first_values, scratch, seed)
        if sft_data.SHARED:
            measure_shared(table, scratch, seed)
        else:
            print("skipped: GSM8K, LlamaFactory's demos and real tokenizers are not here (set ATTUNE_SHARED to the folder that holds data/)")
