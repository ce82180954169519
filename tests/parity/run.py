#!/usr/bin/env python3
"""Compares attune live with PyTorch, transformers, PEFT, TRL, tokenizers and Jinja, as they are on PyPI.

usage: run.py [--seed N] [--only TEXT]

Everything compared is drawn anew from the seed, which is printed; --seed repeats a run, --only measures the rows whose
name has the text. One line a row; exits with 1 when any row is beyond its bound."""
import argparse
import os
import random
import sys

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TRANSFORMERS_VERBOSITY="error",
                  TQDM_DISABLE="1", TRANSFORMERS_NO_ADVISORY_WARNINGS="1")

import data_rows  # noqa: E402
import dpo_rows  # noqa: E402
import family_rows  # noqa: E402
import forward_rows  # noqa: E402
import fp8_rows  # noqa: E402
import lora_rows  # noqa: E402
import nf4_rows  # noqa: E402
import stories_rows  # noqa: E402
import text_rows  # noqa: E402
import train_rows  # noqa: E402
from table import Table  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--only", metavar="TEXT")
    options = parser.parse_args()
    table = Table(options.only)
    print(f"seed {options.seed}")
    for rows in (text_rows, data_rows, forward_rows, family_rows, train_rows, dpo_rows, lora_rows, nf4_rows, fp8_rows, stories_rows):
        rows.measure(table, options.seed)
    return table.end()


if __name__ == "__main__":
    sys.exit(main())
