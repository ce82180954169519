"""What the benches of the data path share: tokenizers and texts, model folders with random weights, the server, and the
CSV of results.

Tokenizers and GSM8K come from the folder that ATTUNE_SHARED names, as in the tests; what is not there is left out, and
said. The bundled model's tokenizer and the text of tools/corpus.py are always there.
"""
import csv
import datetime
import http.client
import json
import os
import pathlib
import pydoc_data.topics
import random
import re
import shutil
import struct
import subprocess
import sys
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
ATTUNE = ROOT / "build/release/attune"
WORLD = ROOT / "models/attune/world-3m"
SHARED = pathlib.Path(os.environ.get("ATTUNE_SHARED", ROOT.parent / "shared")) / "data"
PEER = ROOT / "build/venv-parity/bin/python"
RESULTS = ROOT / "bench/results"
# ChatML and Llama 3's format, with the marks from which Python's apply_chat_template makes its assistant mask.
CHATML = ("{{- bos_token }}{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\n' }}{%- if "
          "message['role'] == 'assistant' %}{%- generation %}"
          "{{- message['content'] + '<|im_end|>' }}{%- endgeneration %}{%- else %}{{- message['content'] + "
          "'<|im_end|>' }}{%- endif %}{{- '\n' }}{%- endfor %}"
          "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}")
LLAMA3 = ("{{- bos_token }}{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + "
          "'<|end_header_id|>\n\n' }}{%- if message['role'] == 'assistant' %}"
          "{%- generation %}{{- message['content'] + '<|eot_id|>' }}{%- endgeneration %}{%- else %}{{- "
          "message['content'] + '<|eot_id|>' }}{%- endif %}{%- endfor %}"
          "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}")


def processor():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return f"{line.split(':')[1].strip()}, {len(os.sched_getaffinity(0))} cores"
    return "unknown"


def record(name, rows, path=None):
    """Appends rows (dicts with equal keys) to bench/results/NAME.csv with date and machine in front."""
    path = path or RESULTS / f"{name}.csv"
    is_new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, ["date", "machine", *rows[0]])
        if is_new:
            writer.writeheader()
        for row in rows:
            writer.writerow({"date": datetime.date.today().isoformat(), "machine": processor(), **row})


def tokenizers():
    """(name, folder) of the tokenizers that are here."""
    found = [(name, SHARED / "tokenizers" / name) for name in ("llama3", "qwen2.5", "llama2", "phi-3-mini")]
    return [(name, folder) for name, folder in found if (folder / "tokenizer.json").exists()] + [("world-3m", WORLD)]


def world_lines(count, seed=3):
    path = ROOT / f"build/bench-world-{count}-{seed}.jsonl"
    if not path.exists():
        subprocess.run([sys.executable, ROOT / "tools/corpus.py", "--lines", str(count), "--seed",
                        str(seed), "--out", path], check=True, stdout=subprocess.DEVNULL)
    return [json.loads(line) for line in path.read_text().splitlines()]


def gsm8k():
    path = SHARED / "gsm8k/train.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def prose():
    """English prose that every Python has: the language reference, by paragraph."""
    return [part.strip() for topic in pydoc_data.topics.topics.values() for part in topic.split("\n\n")
            if len(part) > 80]


def answers():
    """Alpaca's answers, written by a model about everything."""
    path = SHARED / "alpaca/alpaca_5000.json"
    return [row["output"] for row in json.loads(path.read_text()) if row["output"]] if path.exists() else []


def chats(count):
    """Conversations of two messages: GSM8K's, each with a number so that no two are alike, or the small world's."""
    problems, chosen = gsm8k(), random.Random(1)
    if not problems:
        return [{"messages": line["messages"]} if "messages" in line else
                {"messages": [{"role": "user", "content": f"Tell me more. ({i})"},
                              {"role": "assistant", "content": line["text"]}]}
                for i, line in enumerate(world_lines(count))]
    return [{"messages": [{"role": "user", "content": f"{p['question']} ({i})"},
                          {"role": "assistant", "content": p["answer"]}]}
            for i, p in ((i, chosen.choice(problems)) for i in range(count))]


def small_tokenizer(folder, limit):
    """Qwen's tokenizer cut to fewer tokens, which is one of its kind: merges are in the order of their results."""
    source = SHARED / "tokenizers/qwen2.5/tokenizer.json"
    if not source.exists():
        shutil.copy(WORLD / "tokenizer.json", folder / "tokenizer.json")
        return
    tok = json.loads(source.read_text())
    added = tok["added_tokens"][:3]
    kept = {text: i for text, i in tok["model"]["vocab"].items() if i < limit - len(added)}
    tok["model"]["vocab"] = kept
    tok["model"]["merges"] = [m for m in tok["model"]["merges"]
                              if "".join(m.split(" ") if isinstance(m, str) else m) in kept]
    tok["added_tokens"] = [{**token, "id": limit - len(added) + i} for i, token in enumerate(added)]
    (folder / "tokenizer.json").write_text(json.dumps(tok, ensure_ascii=False))


SHAPES = {
    "15M": {"hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6,
            "num_key_value_heads": 6, "vocab_size": 32000},
    "135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "vocab_size": 49152},
}


def tensor_shapes(c):
    kv = c["hidden_size"] // c["num_attention_heads"] * c["num_key_value_heads"]
    h, f = c["hidden_size"], c["intermediate_size"]
    yield "model.embed_tokens.weight", [c["vocab_size"], h]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        yield from ((at + name + ".weight", shape) for name, shape in {
            "input_layernorm": [h], "self_attn.q_proj": [h, h], "self_attn.k_proj": [kv, h],
            "self_attn.v_proj": [kv, h], "self_attn.o_proj": [h, h],
            "post_attention_layernorm": [h], "mlp.gate_proj": [f, h], "mlp.up_proj": [f, h],
            "mlp.down_proj": [h, f]}.items())
    yield "model.norm.weight", [h]


def random_bf16(count, block):
    """count values of about 0.02, as bytes, from a block of them."""
    out = block * (count * 2 // len(block) + 1)
    return out[:count * 2]


def describe(folder, config):
    """config.json, chat template and tokenizer_config.json that fit the tokenizer.json in the folder."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    names = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    begin = next((name for name in ("<|begin_of_text|>", "<|endoftext|>", "<s>", "<|bos|>") if name in names),
                 next(iter(names)))
    end, template = ("<|eot_id|>", LLAMA3) if "<|eot_id|>" in names else ("<|im_end|>", CHATML)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
              "rope_theta": 10000.0, "max_position_embeddings": 2048,
              "tie_word_embeddings": True, "torch_dtype": "bfloat16", "initializer_range": 0.02,
              "bos_token_id": names[begin], "eos_token_id": names.get(end, names[begin]), **config}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(template)
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": begin, "eos_token": end if end in names else begin, "pad_token": begin, "model_max_length": 2048,
         "tokenizer_class": "PreTrainedTokenizerFast"}))
    return config


def make_text_model(folder, tokenizer):
    """A folder for the data path alone: that tokenizer and a template, without weights."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").symlink_to((tokenizer / "tokenizer.json").resolve())
    describe(folder, {**SHAPES["15M"], "vocab_size": 1 << 18})


def make_model(folder, shape):
    """A Llama folder with random bf16 weights, tied embeddings, a byte-level tokenizer and a ChatML template."""
    source = random.Random(2)
    folder.mkdir(parents=True)
    small_tokenizer(folder, SHAPES[shape]["vocab_size"])
    config = describe(folder, SHAPES[shape])
    block = b"".join(struct.pack("<H", 0x3c00 + source.getrandbits(8) + (source.getrandbits(1) << 15))
                     for _ in range(1 << 16))
    header, at, shapes = {"__metadata__": {"format": "pt"}}, 0, list(tensor_shapes(config))
    for name, dims in shapes:
        count = dims[0] * (dims[1] if len(dims) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [at, at + count * 2]}
        at += count * 2
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, dims in shapes:
            count = dims[0] * (dims[1] if len(dims) > 1 else 1)
            file.write(struct.pack("<H", 0x3f80) * count if len(dims) == 1 else random_bf16(count, block))


class Server:
    """attune serve without keys on a fresh data folder below build/."""

    def __init__(self, folder, models, binary=ATTUNE):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.data = folder / "data"
        self.process = subprocess.Popen([binary, "serve", "--no-auth", "--port", "0", "--data", self.data, "--models",
                                         models],
                                        stdout=subprocess.PIPE, stderr=open(folder / "server.log", "w"), text=True)
        found = re.search(r"http://127.0.0.1:(\d+)", self.process.stdout.readline())
        if not found:
            sys.exit(f"the server did not start: {(folder / 'server.log').read_text()}")
        self.port = int(found.group(1))

    def call(self, method, path, body=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1{path}",
                                         None if body is None else json.dumps(body).encode(),
                                         {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            sys.exit(f"{method} {path}: {error.read().decode()}")

    def upload(self, path, piece=1 << 20):
        """Multipart with a known length, read piece by piece."""
        head = (b"--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n"
                b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"train.jsonl\"\r\n\r\n")
        tail = b"\r\n--b--\r\n"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.putrequest("POST", "/v1/files")
        connection.putheader("Content-Type", "multipart/form-data; boundary=b")
        connection.putheader("Content-Length", str(len(head) + path.stat().st_size + len(tail)))
        connection.endheaders()
        connection.send(head)
        with open(path, "rb") as file:
            while part := file.read(piece):
                connection.send(part)
        connection.send(tail)
        return json.load(connection.getresponse())

    def close(self):
        self.process.terminate()
        self.process.wait()
