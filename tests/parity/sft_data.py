"""The reference's side of the data: TRL's own preparation (SFTTrainer._prepare_dataset), line by line and without Arrow in between.

Arrow gives every line the columns and the nested keys of all others (as None), which templates then print; lines go through
TRL's functions as they are, so each one stands for itself."""
import functools
import json
import os
import pathlib
import re
import types

from datasets import Dataset
from transformers import PreTrainedTokenizerFast
from trl import SFTTrainer
from trl.chat_template_utils import get_training_chat_template, has_generation_markers
from trl.data_utils import pack_dataset

import attune

PLACES = [os.environ.get("ATTUNE_SHARED", ""), attune.ROOT.parent / "shared", attune.ROOT.parent.parent / "shared"]
SHARED = next((pathlib.Path(place) / "data" for place in PLACES if place and (pathlib.Path(place) / "data").is_dir()), None)
CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1,
          "intermediate_size": 8, "rms_norm_eps": 1e-5, "max_position_embeddings": 8192, "tie_word_embeddings": True, "torch_dtype": "float32"}


def model_folder(folder, tokenizer, template=None, **names):
    """A folder with a tokenizer and a template, and a config.json that is big enough for both."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((tokenizer / "tokenizer_config.json").read_text())
    template = config.get("chat_template") if template is None else template
    config.pop("chat_template", None)
    pipeline = (tokenizer / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(pipeline)
    (folder / "tokenizer_config.json").write_text(json.dumps(config | names | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    (folder / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": 1 << 18}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


class Lines(list):
    """A data set as far as TRL's preparation needs one."""
    column_names = None

    def map(self, function, fn_kwargs=None, remove_columns=None, **_):
        removed = [remove_columns] if isinstance(remove_columns, str) else remove_columns or []
        return Lines({name: value for name, value in (line | function(dict(line), **(fn_kwargs or {}))).items() if name not in removed}
                     for line in self)

    def filter(self, function, **_):
        return Lines(line for line in self if function(line))


@functools.lru_cache(maxsize=4)
def load_tokenizer(folder):
    """The pipeline as tokenizer.json has it: a tokenizer class of transformers would build another from its parts."""
    return PreTrainedTokenizerFast.from_pretrained(folder)


class Preparation:
    """What an SFTTrainer would do to the lines of a file with the tokenizer and template of a folder."""

    def __init__(self, folder, assistant_only=False, max_length=None):
        self.tokenizer = load_tokenizer(folder)
        self.settings = types.SimpleNamespace(
            max_length=max_length, truncation_mode="keep_start", shuffle_dataset=False, dataset_text_field="text", dataset_num_proc=None,
            assistant_only_loss=assistant_only, packing_strategy="bfd")
        self.template, self.is_known = None, True
        if assistant_only and not has_generation_markers(self.tokenizer.chat_template):
            try:
                self.template = get_training_chat_template(self.tokenizer)
            except ValueError:  # TRL has no variant of it
                self.is_known = False

    def rows(self, lines):
        trainer = types.SimpleNamespace(_tokenizer=self.tokenizer, chat_template=self.template,
                                        completion_only_loss="prompt" in lines[0] and "completion" in lines[0])
        return SFTTrainer._prepare_dataset(trainer, Lines(lines), self.tokenizer, self.settings, False, None, "train")

    def line(self, line):
        """(ids, labels) with nothing predicted for the first token; None when it is refused or nothing trains."""
        try:
            row = self.rows([line])[0]
        except Exception:
            return None
        labels = [-100] + row["labels"][1:]
        return (row["input_ids"], labels) if any(label != -100 for label in labels) else None

    def chat(self, line):
        return self.line(line) if self.is_known else self.by_prefixes(line)

    def render(self, messages, tools, add_generation_prompt=False):
        return self.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, chat_template=self.template,
                                                  add_generation_prompt=add_generation_prompt)

    def by_prefixes(self, line):
        """What a template without marks means: a turn is what it adds to the messages before it and the generation prompt."""
        messages, tools = line["messages"], line.get("tools")
        try:
            whole, spans = self.render(messages, tools), []
            for index, message in enumerate(messages):
                if message["role"] != "assistant":
                    continue
                before = self.render(messages[:index], tools, True) if index else self.render_nothing(tools)
                through = self.render(messages[:index + 1], tools)
                if not (through.startswith(before) and whole.startswith(through)):
                    return None
                spans.append((len(before), self.end_of_turn(whole, len(before), len(through))))
        except Exception:
            return None
        return self.labelled(whole, spans)

    def render_nothing(self, tools):
        raise ValueError("transformers renders no empty conversation")

    def end_of_turn(self, whole, start, end):
        """Behind the last special token when nothing but white space follows it."""
        specials = sorted((re.escape(token) for token in self.tokenizer.all_special_tokens + self.added_specials()), key=len, reverse=True)
        found = list(re.finditer("|".join(specials), whole[start:end])) if specials else []
        return start + found[-1].end() if found and not whole[start + found[-1].end():end].strip() else end

    def added_specials(self):
        return [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]

    def labelled(self, text, spans):
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        labels = [token if any(start < end_of_span and end > start_of_span for start_of_span, end_of_span in spans) else -100
                  for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"])]
        return encoded["input_ids"], [-100] + labels[1:]

    def without_turns(self, line, weighted, answer):
        """The answer with the labels of turns of weight 0 removed: a turn is what the template adds for it."""
        if answer is None:
            return None
        messages, tools = line["messages"], line.get("tools")
        ids, labels = answer
        whole = self.render(messages, tools)
        offsets = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        for index, message in enumerate(weighted["messages"]):
            if message.get("weight") != 0:
                continue
            start, end = (self.prefix_length(messages[:count], tools, whole) for count in (index, index + 1))
            labels = [-100 if left < end and right > start else label for label, (left, right) in zip(labels, offsets)]
        return (ids, labels) if any(label != -100 for label in labels) else None

    def prefix_length(self, messages, tools, whole):
        """Phi-3 ends every rendering with an end-of-text token, which is not part of the turn."""
        part = self.render(messages, tools) if messages else ""
        part = part if whole.startswith(part) else part.removesuffix(self.tokenizer.eos_token)
        if not whole.startswith(part):
            raise ValueError("the training template is not prefix-stable")
        return len(part)


def without_first_labels(row):
    """Nothing predicts the first token of a packed document."""
    ids, labels, lengths = row
    labels, start = list(labels), 0
    for length in lengths:
        labels[start] = -100
        start += length
    return ids, labels, lengths


def packed(rows, max_length):
    """(ids, labels, lengths of the documents) of TRL's packed rows."""
    dataset = pack_dataset(Dataset.from_list([{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows]), max_length, "bfd")
    return [(row["input_ids"], row["labels"], row["seq_lengths"]) for row in dataset]
