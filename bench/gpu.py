#!/usr/bin/env python3
"""The same job on one GPU in attune and in PyTorch + transformers + PEFT: `bench/gpu.py --shape 1B --kind lora`.

usage: gpu.py [--shape nano|tiny|0.6B|1B|8B] [--kind lora|full|qlora] [--context N] [--rows N] [--steps N]
              [--only attune|torch] [--attune PROGRAM] [--work DIR]

Both read one folder of random bf16 weights and one file of random tokens, rows of exactly `context` tokens, `rows` of
them a step, and take the same number of steps with AdamW at 1e-4. Printed for each: median tokens per second behind the
second step, model TFLOP/s (6 FLOPs a parameter and token, 4 with LoRA, and attention's), peak memory of the device,
time from the program's start to its first step, and losses and gradient norms of the first and the last step, which
must agree. Each side's row goes to bench/results/gpu.csv as soon as it is known. Needs a GPU and build/cuda/bin/attune
with libattune_cuda.so beside it; the other side needs torch, transformers, peft and safetensors. Where torch is missing
or sees no GPU, attune runs alone over weights that it draws itself (--init random; for qlora over a million numbers
again and again), which says nothing of the losses.
"""
import argparse
import csv
import datetime
import gc
import json
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BASE = ROOT / "models/attune/world-3m"
SHAPES = {
    "nano": dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, vocab_size=2048),
    "tiny": dict(hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
                 num_key_value_heads=2, vocab_size=8192),
    "0.6B": dict(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
                 num_key_value_heads=8, vocab_size=151936, head_dim=128),
    "1B": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
               num_key_value_heads=8, vocab_size=128256),
    "8B": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
               num_key_value_heads=8, vocab_size=128256),
}
TIED = {"nano", "tiny", "0.6B", "1B"}
RANK, ALPHA, RATE = 16, 32, 1e-4
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def config_of(shape, context):
    dims = SHAPES[shape]
    head_dim = dims.get("head_dim", dims["hidden_size"] // dims["num_attention_heads"])
    return dict(dims, architectures=["LlamaForCausalLM"], model_type="llama", head_dim=head_dim,
                max_position_embeddings=context, rms_norm_eps=1e-5,
                rope_theta=500000.0, hidden_act="silu", tie_word_embeddings=shape in TIED, torch_dtype="bfloat16",
                initializer_range=0.02, bos_token_id=1, eos_token_id=2, attention_bias=False, mlp_bias=False)


def find_torch():
    try:
        import safetensors  # noqa: F401
        import torch
        import transformers  # noqa: F401
    except ImportError as problem:
        print(f"no peer: {problem}", flush=True)
        return None
    if not torch.cuda.is_available():
        print("no peer: torch sees no GPU", flush=True)
        return None
    return torch


def tensor_shapes(c, shape):
    """Of each tensor; the vectors are norms."""
    D, F, d = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    H, K = c["num_attention_heads"], c["num_key_value_heads"]
    yield "model.embed_tokens.weight", [c["vocab_size"], D]
    if shape not in TIED:
        yield "lm_head.weight", [c["vocab_size"], D]
    for l in range(c["num_hidden_layers"]):
        p = f"model.layers.{l}."
        yield from ((p + "self_attn.q_proj.weight", [H * d, D]), (p + "self_attn.k_proj.weight", [K * d, D]),
                    (p + "self_attn.v_proj.weight", [K * d, D]),
                    (p + "self_attn.o_proj.weight", [D, H * d]), (p + "mlp.gate_proj.weight", [F, D]),
                    (p + "mlp.up_proj.weight", [F, D]),
                    (p + "mlp.down_proj.weight", [D, F]), (p + "input_layernorm.weight", [D]),
                    (p + "post_attention_layernorm.weight", [D]))
    yield "model.norm.weight", [D]


def write_weights_without_torch(path, c, shape):
    """Normal numbers of which there are a million, over and over: for speed and memory, not for losses."""
    import array
    import random

    draw = random.Random(7)
    halves = array.array("f", (draw.gauss(0, 0.02) for _ in range(1000003))).tobytes()
    block = b"".join(halves[i + 2:i + 4] for i in range(0, len(halves), 4))
    header, at = {}, 0
    for name, dims in tensor_shapes(c, shape):
        size = 2 * math.prod(dims)
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, dims in tensor_shapes(c, shape):
            left = 2 * math.prod(dims)
            if len(dims) == 1:
                file.write(b"\x80\x3f" * dims[0])
                continue
            while left:
                left -= file.write(block[:left])


def make_model(folder, shape, context, torch, has_weights):
    """Random weights as transformers draws them, in shards of some GB; without torch none, or those of
    write_weights_without_torch."""
    if (folder / "config.json").exists() and (torch or not has_weights or (folder / "model.safetensors").exists()):
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json",
                 "special_tokens_map.json"):
        shutil.copy(BASE / name, folder / name)
    c = config_of(shape, context)
    if torch is None:
        if has_weights:
            write_weights_without_torch(folder / "model.safetensors", c, shape)
        (folder / "config.json").write_text(json.dumps(c))
        return
    from safetensors.torch import save_file

    torch.manual_seed(7)
    shards = [{}]
    for name, dims in tensor_shapes(c, shape):
        if sum(t.numel() for t in shards[-1].values()) > 2e9:
            shards.append({})
        is_norm = len(dims) == 1
        shards[-1][name] = (torch.ones(dims, dtype=torch.bfloat16) if is_norm
                            else (torch.randn(*dims, device="cuda") * 0.02).to(torch.bfloat16).cpu())
    index = {"metadata": {"total_size": 0}, "weight_map": {}}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        index["weight_map"].update({key: name for key in shard})
        index["metadata"]["total_size"] += sum(t.numel() * 2 for t in shard.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(c))


def make_rows(path, vocab, count, context):
    """Tokens of a skewed distribution, so that there is something to learn."""
    import random

    draw = random.Random(11)
    rows = [[min(vocab - 1, 3 + int(draw.paretovariate(1.1))) for _ in range(context)] for _ in range(count)]
    path.write_text("".join(json.dumps({"token_ids": row}) + "\n" for row in rows))
    return rows


def flops_per_token(shape, kind, context):
    c = config_of(shape, context)
    D, F, d, L = c["hidden_size"], c["intermediate_size"], c["head_dim"], c["num_hidden_layers"]
    H, K = c["num_attention_heads"], c["num_key_value_heads"]
    products = L * (D * (H + 2 * K) * d + H * d * D + 3 * D * F) + c["vocab_size"] * D
    attention = L * 2 * H * d * context / 2  # scores and values, half of the square
    return (6 if kind == "full" else 4) * products + 6 * attention


class MemoryWatch:
    """Peak of what the driver says is in use on the device."""

    def __enter__(self):
        self.peak, self.first, self.is_over = 0, self.used(), False
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def used(self):
        try:
            out = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"],
                                 capture_output=True, text=True)
        except FileNotFoundError:
            return 0
        return int(out.stdout.split()[0]) if out.returncode == 0 else 0

    def watch(self):
        while not self.is_over:
            self.peak = max(self.peak, self.used())
            time.sleep(0.3)

    def __exit__(self, *_):
        self.is_over = True
        self.thread.join()


def figures(name, o, losses, norms, seconds, first_step, peak_mb):
    tokens = o.rows * o.context
    median = statistics.median(seconds[2:] or seconds)
    return {"side": name, "shape": o.shape, "kind": o.kind, "context": o.context, "rows": o.rows, "steps": len(losses),
            "tokens_per_s": round(tokens / median),
            "tflops": round(tokens / median * flops_per_token(o.shape, o.kind, o.context) / 1e12, 1),
            "peak_mb": peak_mb, "first_step_s": round(first_step, 1),
            "first_loss": round(losses[0], 4), "last_loss": round(losses[-1], 4), "first_norm": round(norms[0], 4),
            "last_norm": round(norms[-1], 4)}


def run_attune(o, model, data, work):
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    lora = ["--lora", "--lora-r", str(RANK), "--lora-alpha", str(ALPHA)] if o.kind != "full" else []
    lora += ["--quantization", "nf4"] if o.kind == "qlora" else []
    lora += [] if list(model.glob("*.safetensors")) else ["--init", "random"]
    started = time.time()
    with MemoryWatch() as watch:
        process = subprocess.Popen([o.attune, "train", "--device", o.device, "--dtype", "bfloat16", "--model", model,
                                    "--train", data, "--context-length", str(o.context),
                                    "--batch-size", str(o.rows), "--n-epochs", "1", "--learning-rate", str(RATE),
                                    "--lr-scheduler-type", "constant", "--no-packing",
                                    "--seed", "1", "--out", out, *lora], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        first = None
        while process.poll() is None:
            if first is None and any('"kind":"step"' in p.read_text() for p in out.glob("run/attempts/*/events.jsonl")):
                first = time.time() - started
            time.sleep(0.05)
        log = process.stderr.read()
    if process.returncode:
        print(log, file=sys.stderr)
        return None
    plan = json.loads((out / "run/plan.json").read_text())
    print(f"attune's plan: {plan['total_bytes'] / 2**20:.0f} MB, {plan['tokens']} tokens a micro-batch; the driver saw "
          f"{watch.peak - watch.first} MB", flush=True)
    events = [json.loads(line) for p in out.glob("run/attempts/*/events.jsonl") for line in p.read_text().splitlines()]
    told = [e for e in events if e["kind"] == "step"]
    side = "attune" if os.environ.get("ATTUNE_CUDA_GRAPHS", "0") == "0" else "attune with graphs"
    return figures(side, o, [e["loss"] for e in told], [e["grad_norm"] for e in told],
                   [e["tokens"] / e["tokens_per_s"] for e in told],
                   first or time.time() - started, watch.peak - watch.first)


def run_torch(o, model_folder, rows):
    """As fast as memory allows: activations are computed again only where they do not fit."""
    import torch

    try:
        return run_torch_once(o, model_folder, rows)
    except torch.OutOfMemoryError:
        if o.recompute:
            raise
        print("torch: no room for all activations, so gradient checkpointing", flush=True)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    o.recompute = True
    return run_torch_once(o, model_folder, rows)


def run_torch_once(o, model_folder, rows):
    import torch
    from transformers import AutoModelForCausalLM

    started = time.time()
    torch.manual_seed(1)
    dtype = torch.bfloat16 if o.kind == "lora" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=dtype, attn_implementation="sdpa").cuda()
    if o.kind == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS,
                                                 task_type="CAUSAL_LM"))
    if o.recompute:
        model.enable_input_require_grads() if o.kind == "lora" else None
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, fused=True)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)).tolist()
    losses, norms, seconds, first = [], [], [], None
    for at in range(0, len(order), o.rows):
        torch.cuda.synchronize()
        begun = time.time()
        picked = order[at:at + o.rows]
        total = 0.0
        for i in range(0, len(picked), o.micro):
            ids = torch.tensor([rows[k] for k in picked[i:i + o.micro]], device="cuda")
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss * ids.shape[0] / len(picked)
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        norms.append(norm.item())
        torch.cuda.synchronize()
        losses.append(total)
        seconds.append(time.time() - begun)
        first = first or time.time() - started
    return figures("torch", o, losses, norms, seconds, first, torch.cuda.max_memory_reserved() // 2**20)


def device_name(o, torch):
    if torch:
        return torch.cuda.get_device_name(0)
    out = subprocess.run([o.attune, "devices", "--json"], capture_output=True, text=True)
    gpus = json.loads(out.stdout)["gpus"] if out.returncode == 0 else []
    return gpus[0]["name"] if gpus else "unknown"


def write_row(o, result, torch):
    o.out.parent.mkdir(parents=True, exist_ok=True)
    is_new = not o.out.exists()
    with open(o.out, "a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(["date", "device", *result])
        writer.writerow([datetime.date.today().isoformat(), device_name(o, torch), *result.values()])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1B")
    parser.add_argument("--kind", choices=("lora", "full", "qlora"), default="lora")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=4, help="rows a step")
    parser.add_argument("--micro", type=int, default=1, help="rows a micro-batch of PyTorch's")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--recompute", action="store_true", help="gradient checkpointing in PyTorch")
    parser.add_argument("--only", choices=("attune", "torch"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--attune", default=ROOT / "build/cuda/bin/attune")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/bench/gpu")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench/results/gpu.csv")
    o = parser.parse_args()
    if o.kind == "qlora":
        o.only = "attune"
    torch = find_torch()
    model, data = o.work / f"{o.shape}-{o.context}", o.work / f"rows-{o.shape}-{o.context}-{o.rows}-{o.steps}.jsonl"
    make_model(model, o.shape, o.context, torch, o.kind == "qlora")
    rows = make_rows(data, SHAPES[o.shape]["vocab_size"], o.rows * o.steps, o.context)
    if torch:
        torch.cuda.empty_cache()
    results = []
    wanted = [side for side in ("attune", "torch") if o.only in (None, side) and (side == "attune" or torch)]
    for side in wanted:
        try:
            result = run_attune(o, model, data, o.work) if side == "attune" else run_torch(o, model, rows)
        except Exception as problem:  # noqa: BLE001 - one side's failure is told, the other's row stays
            print(f"{side}: {type(problem).__name__}: {str(problem)[:400]}", flush=True)
            continue
        if result:
            results.append(result)
            print("  ".join(f"{key} {value}" for key, value in result.items()), flush=True)
            write_row(o, result, torch)
    if len(results) == 2:
        print(f"attune / torch: {results[0]['tokens_per_s'] / results[1]['tokens_per_s']:.2f}x tokens/s", flush=True)
    return len(results) < len(wanted) or not wanted


if __name__ == "__main__":
    sys.exit(main())
