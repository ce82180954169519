"""Logits and greedy continuations against transformers, both in f32."""
import random
import tempfile
from pathlib import Path

import numpy as np
import torch

import attune
import models

LOGITS_BOUND = 1e-4
CONTINUATION = 24


def relative_error(ours, reference):
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def logits_error(worker, model, prompts):
    return max(relative_error(worker.logits(ids), models.last_logits(model, ids)) for ids in prompts)


def measure_logits(folder, backend, prompts):
    with attune.Worker(folder, backend=backend) as worker:
        return logits_error(worker, models.load(folder), prompts)


def measure_greedy(folder, prompts):
    """A continuation goes through the cache of keys and values, one token at a time; the reference sees it whole."""
    model, worst = models.load(folder), 0.0
    with attune.Worker(folder) as worker:
        for ids in prompts:
            expected, whole = [], list(ids)
            while len(expected) < CONTINUATION:
                logprobs = torch.log_softmax(torch.from_numpy(models.last_logits(model, whole)).double(), -1)
                whole.append(int(logprobs.argmax()))
                if whole[-1] in models.STOP_IDS:  # ends a reply and is not part of it
                    break
                expected.append(float(logprobs.max()))
            ours = worker.greedy(ids, CONTINUATION)
            worst = max(worst, float(np.abs(ours - np.array(expected)).max(initial=0.0)))
    return worst


def measure(table, seed):
    rng = random.Random(seed)
    table.heading("forward, f32: largest difference of a logit / largest logit")
    with tempfile.TemporaryDirectory() as scratch:
        for shape in models.SHAPES:
            folder = models.make(Path(scratch) / shape, shape, seed)
            prompts = models.prompts(rng)
            for backend in ("cpu", "ref"):
                table.measure(f"logits: {shape}, {backend}", LOGITS_BOUND, measure_logits, folder, backend, prompts)
            table.measure(f"greedy continuation of {CONTINUATION} tokens: {shape}", LOGITS_BOUND, measure_greedy, folder, prompts[2:3])
