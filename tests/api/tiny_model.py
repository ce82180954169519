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
