"""Tiny random models of every family, written by the standard library alone: `make test` and `make parity` make the same bytes.

make(folder, name, seed) writes config.json, model.safetensors and a tokenizer of bytes. Every feature that a family's
config.json can ask for is on and visible: odd sizes, windows shorter than the documents, biases far from zero, norms far
from one, soft caps that bend. The tensors have the names and shapes of the released files.

The values: each tensor has a generator of its own, random.Random(f"{seed} {tensor's name}") (MT19937), and takes from it,
in row-major order, x = 2·(u1 + u2 + u3) - 3: mean 0, variance 1, exact in f64 on every machine. What is stored is
f32(centre + scale·x); SCALES has both for each kind of tensor, with the matrices' scale divided by the root of their width."""
import array
import json
import pathlib
import random
import struct
import sys

VOCAB = 307  # more rows than the tokenizer has tokens, as many released models have
BOS, EOS, PAD = 256, 257, 258

# kind of tensor: centre, scale
SCALES = {"norm": (1.0, 0.25), "centred norm": (0.0, 0.25), "bias": (0.0, 0.3), "sinks": (0.0, 0.8), "matrix": (0.0, 1.0),
          "embedding": (0.0, 1.0), "head": (0.0, 2.0)}
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
FUSED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
PRE = ("input_layernorm", "post_attention_layernorm")
POST = ("post_attention_layernorm", "post_feedforward_layernorm")
SANDWICH = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")


class Family:
    """What one model_type asks of the generator; `config` is its config.json without the members that all share."""

    def __init__(self, config, norms=PRE, centred=False, qk_norm=None, biases=(), is_fused=False, experts=None, batches="packed"):
        self.config = {"vocab_size": VOCAB, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD, "torch_dtype": "float32",
                       "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": False} | config
        self.norms, self.qk_norm, self.biases, self.is_fused, self.experts = norms, qk_norm, biases, is_fused, experts
        self.norm = "centred norm" if centred else "norm"
        self.batches = batches  # in which transformers keeps documents apart: "packed", "padded" or with each "alone"

    @property
    def lora_targets(self):
        """All linear layers of attention and MLP; with experts those of attention alone."""
        return list(ATTENTION if self.experts else FUSED if self.is_fused else ATTENTION + MLP)

    def tensors(self):
        """(name, shape, kind) of everything in the file."""
        c = self.config
        hidden = c["hidden_size"]
        yield "model.embed_tokens.weight", (VOCAB, hidden), "embedding"
        for layer in range(c["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            for name in self.norms:
                yield f"{prefix}{name}.weight", (hidden,), self.norm
            yield from self.attention(prefix + "self_attn.")
            if self.experts and layer not in c.get("mlp_only_layers", ()):
                yield from getattr(self, self.experts)(prefix)
            else:
                yield from self.mlp(prefix + "mlp.", c["intermediate_size"])
        yield "model.norm.weight", (hidden,), self.norm
        if not c["tie_word_embeddings"]:
            yield "lm_head.weight", (VOCAB, hidden), "head"

    def linear(self, name, rows, cols):
        yield name + ".weight", (rows, cols), "matrix"
        if name.rpartition(".")[2] in self.biases:
            yield name + ".bias", (rows,), "bias"

    def attention(self, prefix):
        c = self.config
        hidden, heads = c["hidden_size"], c["num_attention_heads"]
        kv_heads = c.get("num_key_value_heads", heads)
        head_dim = c.get("head_dim", hidden // heads)
        rows = {"q_proj": heads * head_dim, "k_proj": kv_heads * head_dim, "v_proj": kv_heads * head_dim}
        if self.is_fused:
            rows = {"qkv_proj": sum(rows.values())}
        for name, count in rows.items():
            yield from self.linear(prefix + name, count, hidden)
        yield from self.linear(prefix + "o_proj", hidden, heads * head_dim)
        if self.qk_norm:
            is_whole = self.qk_norm == "whole"
            yield prefix + "q_norm.weight", (heads * head_dim if is_whole else head_dim,), self.norm
            yield prefix + "k_norm.weight", (kv_heads * head_dim if is_whole else head_dim,), self.norm
        if self.experts == "gpt_oss":
            yield prefix + "sinks", (heads,), "sinks"

    def mlp(self, prefix, width, names=MLP):
        hidden = self.config["hidden_size"]
        gate, up, down = names
        for name in ("gate_up_proj",) if self.is_fused else (gate, up):
            yield from self.linear(prefix + name, 2 * width if self.is_fused else width, hidden)
        yield from self.linear(prefix + down, hidden, width)

    def mixtral(self, prefix):
        c = self.config
        yield prefix + "block_sparse_moe.gate.weight", (c["num_local_experts"], c["hidden_size"]), "router"
        for expert in range(c["num_local_experts"]):
            yield from self.mlp(f"{prefix}block_sparse_moe.experts.{expert}.", c["intermediate_size"], ("w1", "w3", "w2"))

    def qwen3_moe(self, prefix):
        c = self.config
        yield prefix + "mlp.gate.weight", (c["num_experts"], c["hidden_size"]), "router"
        for expert in range(c["num_experts"]):
            yield from self.mlp(f"{prefix}mlp.experts.{expert}.", c["moe_intermediate_size"])

    def gpt_oss(self, prefix):
        """Its experts lie the other way round, [expert, in, out], gate and up in turn."""
        c = self.config
        experts, hidden, width = c["num_local_experts"], c["hidden_size"], c["intermediate_size"]
        yield prefix + "mlp.router.weight", (experts, hidden), "router"
        yield prefix + "mlp.router.bias", (experts,), "router bias"
        yield prefix + "mlp.experts.gate_up_proj", (experts, hidden, 2 * width), "experts"
        yield prefix + "mlp.experts.gate_up_proj_bias", (experts, 2 * width), "bias"
        yield prefix + "mlp.experts.down_proj", (experts, width, hidden), "experts"
        yield prefix + "mlp.experts.down_proj_bias", (experts, hidden), "bias"


def llama(batches="packed", **config):
    return Family({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 72, "intermediate_size": 100,
                   "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_act": "silu",
                   "rope_theta": 10000.0} | config,
                  biases=(ATTENTION if config.get("attention_bias") else ()) + (MLP if config.get("mlp_bias") else ()),
                  batches=batches)


def factors(count, low, high):
    return [round(low + (high - low) * i / (count - 1), 3) for i in range(count)]


def phi3(rotary, **config):
    """`rotary`: how many dimensions of a head are rotated."""
    longrope = {"type": "longrope", "short_factor": factors(rotary // 2, 1.0, 2.5), "long_factor": factors(rotary // 2, 1.5, 9.0)}
    return Family({"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "hidden_size": 80, "intermediate_size": 92,
                   "num_hidden_layers": 2, "num_attention_heads": 5, "num_key_value_heads": 1, "hidden_act": "silu",
                   "rope_theta": 10000.0, "rope_scaling": longrope, "max_position_embeddings": 256,
                   "original_max_position_embeddings": 128} | config, is_fused=True)


def gemma(model_type, architecture, **more):
    config = more.pop("config")
    return Family({"model_type": model_type, "architectures": [architecture], "hidden_size": 60, "intermediate_size": 84,
                   "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 24, "hidden_activation": "gelu_pytorch_tanh",
                   "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True} | config, centred=True, **more)


def olmo(model_type, architecture, **config):
    return Family({"model_type": model_type, "architectures": [architecture], "hidden_size": 60, "intermediate_size": 77,
                   "num_attention_heads": 5, "num_key_value_heads": 5, "hidden_act": "silu", "rms_norm_eps": 1e-6,
                   "attention_bias": False, "rope_theta": 500000.0} | config, norms=POST, qk_norm="whole")


YARN = {"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": 32}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}

FAMILIES = {
    "Llama 2": llama(num_key_value_heads=6),
    "Llama 3.x": llama(rope_theta=500000.0, rope_scaling=LLAMA3, tie_word_embeddings=True, eos_token_id=[EOS, 258]),
    "TinyLlama, SmolLM2": llama(num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=1, head_dim=18, tie_word_embeddings=True,
                                rope_theta=100000.0),
    "Llama with biases": llama(attention_bias=True, mlp_bias=True),
    "Mistral": Family({
        "model_type": "mistral", "architectures": ["MistralForCausalLM"], "hidden_size": 68, "intermediate_size": 90, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 22, "hidden_act": "silu", "sliding_window": 9, "rope_theta": 1e6}),
    "Qwen2": Family({
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 56, "intermediate_size": 76, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}, biases=ATTENTION[:3]),
    "Qwen2.5": Family({
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 56, "intermediate_size": 76, "num_hidden_layers": 2,
        "num_attention_heads": 7, "num_key_value_heads": 1, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "use_sliding_window": False, "sliding_window": 7, "max_window_layers": 1, "tie_word_embeddings": True}, biases=ATTENTION[:3]),
    "Qwen3": Family({
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 60, "intermediate_size": 94, "num_hidden_layers": 2,
        "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 16, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "attention_bias": False, "tie_word_embeddings": True}, qk_norm="head"),
    "SmolLM3": Family({
        "model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"], "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 5e6,
        "no_rope_layers": [1, 0, 1, 0], "no_rope_layer_interval": 2, "use_sliding_window": False, "sliding_window": None,
        "tie_word_embeddings": True}),
    "Phi-3": phi3(16, sliding_window=13),
    "Phi-4-mini": phi3(12, partial_rotary_factor=0.75, tie_word_embeddings=True),
    "Phi-4": phi3(16, rope_scaling=None, rope_theta=250000.0, sliding_window=None, max_position_embeddings=128),
    "OLMo 2": olmo("olmo2", "Olmo2ForCausalLM", num_hidden_layers=2),
    "OLMo 3": olmo("olmo3", "Olmo3ForCausalLM", num_hidden_layers=4, sliding_window=9,
                   layer_types=["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
                   rope_scaling=YARN | {"attention_factor": 1.2079441541679836}),
    "Gemma 1": gemma("gemma", "GemmaForCausalLM", config={"num_hidden_layers": 2}),
    "Gemma 2": gemma("gemma2", "Gemma2ForCausalLM", norms=SANDWICH, config={
        "num_hidden_layers": 3, "query_pre_attn_scalar": 17, "sliding_window": 9, "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 2.5}),
    "Gemma 3": gemma("gemma3_text", "Gemma3ForCausalLM", norms=SANDWICH, qk_norm="head", config={
        "num_hidden_layers": 4, "query_pre_attn_scalar": 20, "sliding_window": 9, "sliding_window_pattern": 3, "rope_theta": 1e6,
        "rope_local_base_freq": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    "Mixtral": Family({
        "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "hidden_size": 64, "intermediate_size": 44, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu", "rope_theta": 1e6, "sliding_window": None,
        "num_local_experts": 5, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.02}, experts="mixtral"),
    "Qwen3-MoE": Family({
        "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 64, "intermediate_size": 90,
        "moe_intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 20,
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "attention_bias": False, "num_experts": 6,
        "num_experts_per_tok": 3, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [1], "use_sliding_window": False,
        "sliding_window": None, "router_aux_loss_coef": 0.02}, qk_norm="head", experts="qwen3_moe"),
    "gpt-oss": Family({
        "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "hidden_size": 64, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "hidden_act": "silu", "attention_bias": True,
        "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 9, "num_local_experts": 5, "num_experts_per_tok": 2,
        "swiglu_limit": 0.5, "rope_theta": 150000.0, "rope_scaling": YARN | {"truncate": False}, "router_aux_loss_coef": 0.02},
        biases=ATTENTION, experts="gpt_oss", batches="padded"),
    "rope: linear": llama(rope_scaling={"type": "linear", "factor": 2.5}),
    "rope: dynamic": llama(rope_scaling={"rope_type": "dynamic", "factor": 2.0}),
    "rope: llama3, head_dim 24": llama(rope_scaling=LLAMA3, head_dim=24),
    "rope: yarn": llama(rope_scaling=YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}),
    "rope: yarn, not truncated": llama(rope_scaling=YARN | {"truncate": False, "beta_fast": 12.0}, head_dim=20),
    "rope: longrope, short": llama(rope_scaling={"rope_type": "longrope", "short_factor": factors(6, 1.0, 3.0),
                                                 "long_factor": factors(6, 2.0, 9.0), "original_max_position_embeddings": 128},
                                   max_position_embeddings=512),
    "rope: longrope, both": llama(batches="alone", rope_scaling={"rope_type": "longrope", "short_factor": factors(6, 1.0, 3.0),
                                                               "long_factor": factors(6, 2.0, 9.0), "original_max_position_embeddings": 24},
                                  max_position_embeddings=128),
}

ROUTER_CLASSES = 7   # every token is of class id mod 7, written into as many places of the hidden state
CLASS_SIZE = 14.0    # so that it survives what attention and experts add
ROUTER_STEP = 0.2    # times what a norm leaves of the class: about 1.5 between the logits of an expert and of the next one


def draw(rng, count, centre=0.0, scale=1.0):
    uniform = rng.random
    return array.array("f", [centre + scale * (2.0 * (uniform() + uniform() + uniform()) - 3.0) for _ in range(count)])


def class_order(token_class, experts):
    """For each expert its rank for a token of this class: every expert is first for some class."""
    return [(expert * 2 + token_class * 3) % experts if experts % 2 else (expert + token_class * 5) % experts for expert in range(experts)]


def routed_embedding(values, hidden):
    """The class of each token, in places 0 to 6: what routers see in every layer, far above everything else there."""
    for token in range(VOCAB):
        for place in range(ROUTER_CLASSES):
            values[token * hidden + place] = values[token * hidden + place] * 0.2 + (CLASS_SIZE if place == token % ROUTER_CLASSES else 0.0)
    return values


def router(values, experts, hidden):
    """Logits that depend on the class: whole steps apart from one expert to the next, so no rounding changes a choice."""
    for expert in range(experts):
        for place in range(hidden):
            at = expert * hidden + place
            if place < ROUTER_CLASSES:
                values[at] = ROUTER_STEP * class_order(place, experts)[expert] + 0.02 * values[at]
            else:
                values[at] *= 0.02
    return values


def draw_tensor(family, seed, name, shape, kind):
    rng, count = random.Random(f"{seed} {name}"), 1
    for size in shape:
        count *= size
    if kind == "router":
        return router(draw(rng, count), *shape)
    if kind == "router bias":
        return draw(rng, count, 0.0, 0.1)
    centre, scale = SCALES["matrix" if kind == "experts" else kind]
    if kind in ("matrix", "head"):
        scale /= shape[-1] ** 0.5
    elif kind == "experts":
        scale /= shape[-2] ** 0.5
    elif kind == "embedding" and family.config["tie_word_embeddings"]:
        scale = 2.0 / shape[-1] ** 0.5
    if family.experts and kind in ("matrix", "experts"):
        scale *= 0.3
    values = draw(rng, count, centre, scale)
    return routed_embedding(values, shape[1]) if family.experts and kind == "embedding" else values


def write_safetensors(path, tensors):
    """`tensors`: name to (shape, array of f32)."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, values) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + 4 * len(values)]}
        offset += 4 * len(values)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, values in tensors.values():
            if sys.byteorder == "big":
                values.byteswap()
            file.write(values.tobytes())


def byte_letters():
    """GPT-2's letters for bytes: themselves where they can be printed, else U+0100 and on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {**{byte: chr(byte) for byte in printed}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}


def write_tokenizer(folder):
    letters = byte_letters()
    specials = {BOS: "<s>", EOS: "</s>", PAD: "<pad>"}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": id, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
                         for id, text in specials.items()],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {letters[byte]: byte for byte in range(256)}, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "tokenizer_class": "PreTrainedTokenizerFast"}))


def make(folder, name, seed):
    """The model of FAMILIES[name] in `folder`, which it returns."""
    folder, family = pathlib.Path(folder), FAMILIES[name]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(family.config, indent=2))
    write_safetensors(folder / "model.safetensors", {
        tensor: (shape, draw_tensor(family, seed, tensor, shape, kind)) for tensor, shape, kind in family.tensors()})
    write_tokenizer(folder)
    return folder


LINES, LONGEST, CONTEXT = 76, 44, 48


def examples(seed):
    """Lines of token_ids with labels: ragged, most with a masked beginning, some with masked places inside."""
    rng = random.Random(f"{seed} lines")
    for _ in range(LINES):
        ids = [rng.randrange(VOCAB) for _ in range(rng.randint(2, LONGEST))]
        masked = rng.randrange(len(ids) - 1) if rng.random() < 0.7 else 0
        labels = [-100 if i < masked or rng.random() < 0.1 else id for i, id in enumerate(ids)]
        labels[-1] = ids[-1]
        yield {"token_ids": ids, "labels": labels}


def write_examples(path, seed):
    lines = list(examples(seed))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def prompts(seed):
    rng = random.Random(f"{seed} prompts")
    return [[rng.randrange(VOCAB) for _ in range(length)] for length in (1, 2, 9, 17, 30, 47, 64)]


# What tests/fixtures/families holds: see make_goldens.py.
GOLDEN_SEED, GOLDEN_STEPS = 20260117, ("1", "20")


def golden_path(folder, name):
    return folder / ("".join(c if c.isalnum() or c == "." else "-" for c in name.lower()) + ".json")


def golden_tokens():
    return range(0, VOCAB, 23)
