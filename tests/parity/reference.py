"""Fine-tuning as the Hugging Face stack does it, twice: by TRL's SFTTrainer, and by a plain loop that can be read at a glance.

Both return loss, gradient norm before clipping and learning rate of every optimizer step, in this order, and leave the trained model."""
import logging
import warnings
from typing import NamedTuple

import torch
from datasets import Dataset, disable_caching
from transformers import AutoTokenizer, PrinterCallback, Trainer, get_scheduler
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

disable_caching()
warnings.filterwarnings("ignore")
logging.getLogger("trl").setLevel(logging.ERROR)


def sft_trainer(model, folder, lines, out, *, batch_size=8, n_epochs=1, learning_rate=1e-5, warmup_ratio=0, weight_decay=0, max_grad_norm=1,
                packing=True, context_length=256, seed=0, accumulation=1, lr_scheduler_type="linear"):
    """TRL with the settings that say the same as attune's options. Its train_dataset is tokenized, masked and packed."""
    config = SFTConfig(
        output_dir=str(out), per_device_train_batch_size=batch_size // accumulation, gradient_accumulation_steps=accumulation,
        num_train_epochs=n_epochs, learning_rate=learning_rate, lr_scheduler_type=lr_scheduler_type, warmup_steps=warmup_ratio,
        weight_decay=weight_decay, max_grad_norm=max_grad_norm, packing=packing, max_length=context_length, seed=seed,
        assistant_only_loss="messages" in lines[0], bf16=False, gradient_checkpointing=False, use_cpu=True, logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True, dataset_num_proc=None)
    trainer = SFTTrainer(model=model, args=config, train_dataset=Dataset.from_list(lines),
                         processing_class=AutoTokenizer.from_pretrained(folder))
    trainer.remove_callback(PrinterCallback)
    return trainer


def train_with_trl(trainer):
    trainer.train()
    return [(entry["loss"], entry["grad_norm"], entry["learning_rate"]) for entry in trainer.state.log_history if "grad_norm" in entry]


def dpo_trainer(model, folder, lines, out, *, batch_size, n_epochs, learning_rate, context_length, warmup_ratio=0, weight_decay=0, max_grad_norm=1,
                beta=0.1, seed=0, accumulation=1):
    """TRL's DPO with the settings that say the same as attune's options; the reference is the model as it is in `folder`, or as its adapter began."""
    config = DPOConfig(
        output_dir=str(out), per_device_train_batch_size=batch_size // accumulation, gradient_accumulation_steps=accumulation, num_train_epochs=n_epochs, learning_rate=learning_rate,
        lr_scheduler_type="linear", warmup_steps=warmup_ratio, weight_decay=weight_decay, max_grad_norm=max_grad_norm, beta=beta,
        max_length=context_length, seed=seed, bf16=False, gradient_checkpointing=False, use_cpu=True, logging_steps=1, save_strategy="no",
        report_to="none", disable_tqdm=True)
    trainer = DPOTrainer(model=model, args=config, train_dataset=Dataset.from_list(lines), processing_class=AutoTokenizer.from_pretrained(folder))
    trainer.remove_callback(PrinterCallback)
    return trainer


def log_of(trainer):
    """What it logs of every step."""
    trainer.train()
    return [entry for entry in trainer.state.log_history if "grad_norm" in entry]


class Step(NamedTuple):
    loss: float
    grad_norm: float
    learning_rate: float
    gradients: dict  # name of a trained parameter: L2 norm of its gradient before clipping


def documents(row):
    """A packed row's documents; positions start anew in each, so its first token has no prediction and carries no loss."""
    start = 0
    for length in row.get("seq_lengths") or [len(row["input_ids"])]:
        yield row["input_ids"][start:start + length], [-100] + row["labels"][start + 1:start + length]
        start += length


def summed_loss(model, batch):
    """The sum of all tokens' losses, and the load-balance loss of a mixture of experts.

    Every document is alone in its row, the shorter ones padded on the right: nothing can leak from one into another."""
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in batch])
    labels = torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in batch])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in batch])
    balance = getattr(model.config, "router_aux_loss_coef", 0)
    outputs = model(input_ids=ids, attention_mask=mask, use_cache=False, **({"output_router_logits": True} if balance else {}))
    logits = outputs.logits[:, :-1].float()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
    return loss, balance * outputs.aux_loss if balance else 0.0


def gradient_norms(model):
    return {name: values.grad.norm().item() for name, values in model.named_parameters() if values.grad is not None}


def train_plainly(model, rows, *, batch_size=8, n_epochs=1, learning_rate=1e-5, warmup_ratio=0, weight_decay=0, max_grad_norm=1, seed=0,
                  lr_scheduler_type="linear", accumulation=1, is_bf16=False, norms=gradient_norms, **_):
    """`accumulation`: micro-batches of a step; None: one for each document."""
    trained = [values for values in model.parameters() if values.requires_grad]
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    optimizer = torch.optim.AdamW([
        {"params": [values for name, values in model.named_parameters() if values.requires_grad and (name in decayed) is has_decay],
         "weight_decay": weight_decay if has_decay else 0.0} for has_decay in (True, False)], lr=learning_rate)
    total = n_epochs * -(-len(rows) // batch_size)
    schedule = get_scheduler(lr_scheduler_type, optimizer, num_warmup_steps=-int(-warmup_ratio * total // 1), num_training_steps=total)
    steps = []
    for epoch in range(n_epochs):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        for first in range(0, len(rows), batch_size):
            batch = [document for row in order[first:first + batch_size] for document in documents(rows[row])]
            divisor = sum(label != -100 for _, labels in batch for label in labels)
            micro, total_loss = -(-len(batch) // (accumulation or len(batch))), 0.0
            for part in range(0, len(batch), micro):
                with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
                    summed, balance = summed_loss(model, batch[part:part + micro])
                    loss = summed / divisor + balance / -(-len(batch) // micro)
                loss.backward()
                total_loss += float(loss)
            gradients = norms(model)
            norm = torch.nn.utils.clip_grad_norm_(trained, max_grad_norm or float("inf"))
            steps.append(Step(total_loss, float(norm), schedule.get_last_lr()[0], gradients))
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return steps
