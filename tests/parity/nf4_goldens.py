#!/usr/bin/env python3
"""Prints the goldens of tests/unit/compute/nf4_test.c: what bitsandbytes' CPU backend makes of reproducible numbers.

Number i of a case is c·c·c with c = (word & 0xffffff)·2⁻²⁴ - ½ of MT19937 under the case's seed, in f32. Made with bitsandbytes
0.50.2, torch 2.13.0, on one thread."""
import hashlib

import bitsandbytes.functional as functional
import numpy
import torch

COUNTS = (1, 2, 63, 64, 65, 127, 1000, 6144, 16384 + 32, 100000, 300007)


def numbers(seed, count):
    words = numpy.random.RandomState(seed).randint(0, 1 << 32, size=count, dtype=numpy.uint32)
    centred = (words & 0xFFFFFF).astype(numpy.float32) * numpy.float32(2**-24) - numpy.float32(0.5)
    return torch.from_numpy(centred * centred * centred)


def digest(*tensors):
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.numpy().tobytes() if tensor.dtype != torch.bfloat16 else tensor.view(torch.int16).numpy().tobytes())
    return sha.hexdigest()[:16]


def row(seed, count):
    values = numbers(seed, count)
    codes, plain = functional.quantize_4bit(values, quant_type="nf4")
    _, nested = functional.quantize_4bit(values, quant_type="nf4", compress_statistics=True)
    full = functional.dequantize_4bit(codes, nested)
    nested.dtype = torch.bfloat16
    half = functional.dequantize_4bit(codes, nested)
    return (f'    {{{seed}, {count}, "{digest(codes)}", "{digest(plain.absmax)}", '
            f'"{digest(nested.absmax, nested.state2.absmax, nested.offset.reshape(1))}", "{digest(full)}", "{digest(half)}"}},')


def main():
    torch.set_num_threads(1)
    print("map", digest(functional.create_dynamic_map()))
    for seed, count in enumerate(COUNTS):
        print(row(seed + 1, count))


if __name__ == "__main__":
    main()
