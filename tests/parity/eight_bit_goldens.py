#!/usr/bin/env python3
"""Prints tests/unit/compute/eight_bit_goldens.h: three AdamW steps with bitsandbytes' maps of moments in bytes.

usage: eight_bit_goldens.py >tests/unit/compute/eight_bit_goldens.h

Maps and decoding are bitsandbytes' own; the step between is torch.optim.AdamW's, in f32, as in bitsandbytes' PyTorch form of its 8-bit optimizer. A
number is encoded as the nearest entry, as its GPU kernels do; its encoder for the CPU (0.50) takes a neighbour of that in 3 to 5 of 100 cases. Gradients
follow a rule of integers that the test repeats."""
import torch
from bitsandbytes.functional import create_dynamic_map, dequantize_blockwise

COUNT, STEPS, RATE, BETAS, EPS, DECAY = 512, 3, 1e-2, (0.9, 0.999), 1e-8, 0.1


def gradient(step):
    """Numbers over seven decades, of both signs."""
    values = [((i * 7919 + step * 104729) % 2003 - 1001) / 1001 * 10.0 ** -((i * 31 + step) % 4) for i in range(COUNT)]
    return torch.tensor(values, dtype=torch.float64).to(torch.float32)


def encode(values, code):
    scales = values.view(-1, 256).abs().amax(1)
    nearest = ((values.view(-1, 256) / scales[:, None])[:, :, None] - code).abs().argmin(2)
    return nearest.flatten().to(torch.uint8), scales


def table(name, kind, values, form):
    lines = [values[i:i + 7] for i in range(0, len(values), 7)]
    print(f"static const {kind} {name}[] = {{\n" + "".join("    " + ", ".join(form(v) for v in line) + ",\n" for line in lines) + "};")


def main():
    maps = [create_dynamic_map(signed=True), create_dynamic_map(signed=False)]
    codes = [torch.full((COUNT,), 127, dtype=torch.uint8), torch.zeros(COUNT, dtype=torch.uint8)]
    scales = [torch.zeros(2), torch.zeros(2)]
    weight = torch.ones(COUNT)
    for step in range(1, STEPS + 1):
        g = gradient(step)
        m, v = (dequantize_blockwise(codes[i], absmax=scales[i], code=maps[i], blocksize=256) for i in range(2))
        m, v = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g * g
        denominator = v.sqrt() / (1 - BETAS[1] ** step) ** 0.5 + EPS
        weight = weight * (1 - RATE * DECAY) - RATE / (1 - BETAS[0] ** step) * m / denominator
        (codes[0], scales[0]), (codes[1], scales[1]) = encode(m, maps[0]), encode(v, maps[1])
    print("/* Made by tests/parity/eight_bit_goldens.py with bitsandbytes; places in its maps, scales and weights after three steps. */")
    print("#pragma once\n")
    for name, values in (("golden_m_map", maps[0]), ("golden_v_map", maps[1]), ("golden_m_scale", scales[0]), ("golden_v_scale", scales[1]),
                         ("golden_weight", weight)):
        table(name, "float", values.tolist(), lambda v: f"{v:.9g}f" if "." in f"{v:.9g}" or "e" in f"{v:.9g}" else f"{v:.1f}f")
    for name, values in (("golden_m", codes[0]), ("golden_v", codes[1])):
        table(name, "unsigned char", values.tolist(), str)


if __name__ == "__main__":
    main()
