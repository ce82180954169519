"""Small random models, made by transformers, of every shape that a Llama's config.json can ask for."""
import json
import shutil

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import attune

torch.set_num_threads(1)  # the models are too small for more

VOCAB = 2053  # a few rows more than the tokenizer has tokens, as many released models have
STOP_IDS = (2041, 2043)  # the end of a text, and the bundled template's end of a turn
LLAMA3 = {"rope_type": "llama3", "rope_theta": 20000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}

# name: what differs from the first
SHAPES = {
    "grouped heads, untied": dict(hidden_size=72, num_attention_heads=6, num_key_value_heads=2, intermediate_size=100),
    "tied, linear rope, head_dim 10, old dialect": dict(
        hidden_size=56, num_attention_heads=4, num_key_value_heads=4, head_dim=10, intermediate_size=90, tie_word_embeddings=True,
        rope_parameters={"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.5}, dialect=4),
    "one key head, llama3 rope, tied": dict(
        hidden_size=60, num_attention_heads=5, num_key_value_heads=1, head_dim=24, intermediate_size=77, tie_word_embeddings=True,
        rope_parameters=LLAMA3),
    "llama3 rope, untied, old dialect": dict(
        hidden_size=96, num_attention_heads=6, num_key_value_heads=3, intermediate_size=130, rope_parameters=LLAMA3, dialect=4),
    "bf16 weights, tied": dict(
        hidden_size=64, num_attention_heads=4, num_key_value_heads=2, intermediate_size=112, tie_word_embeddings=True, dtype=torch.bfloat16),
}


def write_old_dialect(path):
    """config.json as transformers 4 wrote it: rope_theta and rope_scaling at the top, torch_dtype."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["torch_dtype"] = config.pop("dtype")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    path.write_text(json.dumps(config, indent=2))


def make(folder, shape, seed):
    """A model of SHAPES[shape] in `folder`, with the bundled tokenizer and template."""
    options = dict(SHAPES[shape])
    dialect, dtype = options.pop("dialect", 5), options.pop("dtype", torch.float32)
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=VOCAB, num_hidden_layers=3, max_position_embeddings=512, rms_norm_eps=1e-5, initializer_range=0.1,
                         bos_token_id=2040, eos_token_id=2041, pad_token_id=2044, **options)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.ndim == 1:
                values.add_(torch.randn(values.shape) * 0.2)
    model.to(dtype).save_pretrained(folder)
    if dialect == 4:
        write_old_dialect(folder / "config.json")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja"):
        shutil.copy(attune.BUNDLED / name, folder / name)
    return folder


def load(folder):
    """The reference's reading of a folder, in f32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def prompts(rng):
    return [[rng.randrange(VOCAB) for _ in range(length)] for length in (1, 2, 23, 96, 300)]


@torch.no_grad()
def last_logits(model, ids):
    return model(input_ids=torch.tensor([ids])).logits[0, -1].numpy()
