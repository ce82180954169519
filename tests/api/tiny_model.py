"""A tiny random Llama with the bundled model's tokenizer: small enough to be trained in a moment, under sanitizers too."""
import json
import math
import pathlib
import random
import shutil
import struct

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASE = ROOT / "models/attune/world-3m"
TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "generation_config.json"]


def write_safetensors(path, tensors):
    header, blobs, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, (shape, values) in sorted(tensors.items()):
        blob = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def make_tiny_model(folder, hidden=32, layers=2, heads=4, kv_heads=2, width=64, seed=1, positions=256):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (BASE / name).exists():
            shutil.copy(BASE / name, folder / name)
    config = json.loads((BASE / "config.json").read_text())
    config.update(hidden_size=hidden, intermediate_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                  num_key_value_heads=kv_heads, head_dim=hidden // heads, max_position_embeddings=positions, tie_word_embeddings=True)
    config.pop("dtype", None)
    config["torch_dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    rng = random.Random(seed)

    def normal(*shape):
        return list(shape), [rng.gauss(0, 0.05) for _ in range(math.prod(shape))]

    def ones(n):
        return [n], [1.0] * n

    kv = kv_heads * (hidden // heads)
    tensors = {"model.embed_tokens.weight": normal(config["vocab_size"], hidden), "model.norm.weight": ones(hidden)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        tensors |= {prefix + "input_layernorm.weight": ones(hidden), prefix + "post_attention_layernorm.weight": ones(hidden),
                    prefix + "self_attn.q_proj.weight": normal(hidden, hidden), prefix + "self_attn.k_proj.weight": normal(kv, hidden),
                    prefix + "self_attn.v_proj.weight": normal(kv, hidden), prefix + "self_attn.o_proj.weight": normal(hidden, hidden),
                    prefix + "mlp.gate_proj.weight": normal(width, hidden), prefix + "mlp.up_proj.weight": normal(width, hidden),
                    prefix + "mlp.down_proj.weight": normal(hidden, width)}
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def sharded(files):
    """The files of a model ({name: bytes}) with its weights in two."""
    data = files["model.safetensors"]
    size = int.from_bytes(data[:8], "little")
    header = {name: entry for name, entry in json.loads(data[8:8 + size]).items() if name != "__metadata__"}
    parts, weight_map = [{}, {}], {}
    for i, (name, entry) in enumerate(sorted(header.items())):
        parts[i % 2][name] = (entry, data[8 + size + entry["data_offsets"][0]:8 + size + entry["data_offsets"][1]])
        weight_map[name] = f"model-0000{i % 2 + 1}-of-00002.safetensors"
    made = {k: v for k, v in files.items() if k != "model.safetensors"}
    for n, part in enumerate(parts):
        head, blob = {"__metadata__": {"format": "pt"}}, b""
        for name, (entry, bytes_) in part.items():
            head[name] = {**entry, "data_offsets": [len(blob), len(blob) + len(bytes_)]}
            blob += bytes_
        text = json.dumps(head).encode()
        text += b" " * (-len(text) % 8)
        made[f"model-0000{n + 1}-of-00002.safetensors"] = len(text).to_bytes(8, "little") + text + blob
    made["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    return made


def adapter_for(tmp_path, base, rank=4, seed=3):
    """A PEFT adapter on the tiny model's q_proj."""
    rng, tensors = random.Random(seed), {}
    for layer in range(2):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj."
        tensors[name + "lora_A.weight"] = ([rank, 32], [rng.gauss(0, 0.02) for _ in range(rank * 32)])
        tensors[name + "lora_B.weight"] = ([32, rank], [0.0] * (32 * rank))
    write_safetensors(tmp_path / "adapter.safetensors", tensors)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank, "lora_alpha": 8, "lora_dropout": 0.0, "bias": "none",
              "target_modules": ["q_proj"], "revision": None}
    return {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": (tmp_path / "adapter.safetensors").read_bytes()}
