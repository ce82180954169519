#!/usr/bin/env python3
"""The peer of bench/train.py: the same steps in PyTorch, transformers and PEFT, with the settings that were found
fastest.

usage: train_peer.py make CONFIG FOLDER            a model of that shape with random weights, bf16
       train_peer.py train MODEL STEPS.json [--lora R] [--kind packed|padded] [--precision autocast|bf16]
                                                   [--attention documents|mask]

Faster than what transformers does by itself: logits of supervised tokens alone, AdamW fused. Packed rows attend
document by document, or under a block mask. With --precision autocast weights are f32 and products bf16; with bf16
weights are bf16 beside f32 masters. Of an adapter's base there is only bf16 either way. Prints one JSON object a step:
seconds, tokens, supervised, loss, grad_norm.
"""
import argparse
import contextlib
import json
import time

import torch
import torch.nn.functional as F
import transformers
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

borders = []  # of the documents in the rows at hand: (row, begin, end)


def attend_documents(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_):
    out = torch.zeros_like(query)
    for row, begin, end in borders:
        part = (slice(row, row + 1), slice(None), slice(begin, end))
        out[part] = F.scaled_dot_product_attention(query[part], key[part], value[part], is_causal=True, scale=scaling,
                                                   enable_gqa=True)
    return out.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register("documents", attend_documents)


def make(config, folder):
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(config))
    model.to(torch.bfloat16).save_pretrained(folder)


def load(options):
    is_half = options.lora or options.precision == "bf16"
    attention = "documents" if options.kind == "packed" and options.attention == "documents" else "sdpa"
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model,
                                                              dtype=torch.bfloat16 if is_half else torch.float32,
                                                              attn_implementation=attention)
    causal = model
    if options.lora:
        import peft
        names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = peft.get_peft_model(model, peft.LoraConfig(r=options.lora, lora_alpha=2 * options.lora,
                                                           target_modules=names))
    model.train()
    return model, causal


def tensors(step, kind):
    """Rows of a step: as they were packed, or a document each, padded to the longest."""
    rows = step if kind == "packed" else [[document] for row in step for document in row]
    width = max(sum(len(document["ids"]) for document in row) for row in rows)
    ids, labels = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), -100)
    positions, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    borders.clear()
    for r, row in enumerate(rows):
        at = 0
        for document in row:
            end = at + len(document["ids"])
            ids[r, at:end], labels[r, at:end] = torch.tensor(document["ids"]), torch.tensor(document["labels"])
            positions[r, at:end], mask[r, at:end], labels[r, at] = torch.arange(end - at), 1, -100
            borders.append((r, at, end))
            at = end
    return ids, labels, positions, mask


class Masters:
    """f32 masters behind bf16 weights."""

    def __init__(self, parameters):
        self.weights = parameters
        self.masters = [torch.nn.Parameter(p.detach().float()) if p.dtype != torch.float32 else p for p in parameters]

    def take_gradients(self):
        for weight, master in zip(self.weights, self.masters):
            if master is not weight:
                master.grad, weight.grad = weight.grad.float(), None

    def give_values(self):
        for weight, master in zip(self.weights, self.masters):
            if master is not weight:
                weight.data.copy_(master.data)


def block_mask(width, rows):
    mask = torch.zeros(rows, 1, width, width, dtype=torch.bool)
    mask[:, 0].diagonal(dim1=1, dim2=2).fill_(True)  # of what is behind the last document
    for row, begin, end in borders:
        mask[row, 0, begin:end, begin:end] = torch.ones(end - begin, end - begin, dtype=torch.bool).tril()
    return mask


def loss_of(causal, batch, options):
    ids, labels, positions, mask = batch
    given = {"position_ids": positions} if options.kind == "packed" else {"attention_mask": mask}
    if options.kind == "packed" and options.attention == "mask":
        given["attention_mask"] = block_mask(ids.shape[1], ids.shape[0])
    hidden = causal.model(input_ids=ids, use_cache=False, **given).last_hidden_state
    wanted = labels[:, 1:] != -100
    logits = causal.lm_head(hidden[:, :-1][wanted]).float()
    return F.cross_entropy(logits, labels[:, 1:][wanted]), int(wanted.sum())


def train(options):
    model, causal = load(options)
    masters = Masters([p for p in model.parameters() if p.requires_grad])
    optimizer = torch.optim.AdamW(masters.masters, lr=1e-4, weight_decay=0.0, fused=True)
    with_autocast = options.lora or options.precision == "autocast"
    for step in json.load(open(options.steps)):
        started = time.monotonic()
        batch = tensors(step, options.kind)
        with torch.autocast("cpu", torch.bfloat16) if with_autocast else contextlib.nullcontext():
            loss, supervised = loss_of(causal, batch, options)
        loss.backward()
        masters.take_gradients()
        norm = torch.nn.utils.clip_grad_norm_(masters.masters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        masters.give_values()
        print(json.dumps({"seconds": time.monotonic() - started, "tokens": int(batch[3].sum()),
                          "supervised": supervised, "loss": float(loss),
                          "grad_norm": float(norm)}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("config")
    making.add_argument("folder")
    training = commands.add_parser("train")
    training.add_argument("model")
    training.add_argument("steps")
    training.add_argument("--lora", type=int, default=0)
    training.add_argument("--kind", choices=["packed", "padded"], default="packed")
    training.add_argument("--precision", choices=["autocast", "bf16"], default="bf16")
    training.add_argument("--attention", choices=["documents", "mask"], default="documents")
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.command == "make":
        make(options.config, options.folder)
    else:
        train(options)


if __name__ == "__main__":
    main()
