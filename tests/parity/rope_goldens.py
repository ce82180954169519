"""Prints the inverse frequencies that tests/unit/model/config_test.c expects, as transformers computes them.

usage: python tests/parity/rope_goldens.py   (in the parity environment, tests/parity/requirements.txt)
"""

import json

from transformers import LlamaConfig, Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

SHORT = [1.0, 1.02, 1.03, 1.05, 1.1, 1.3, 2.0, 2.5]
LONG = [1.05, 1.5, 2.25, 4.0, 9.5, 17.0, 33.0, 64.0]
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 256}
LONGROPE = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG}
CASES = [  # head size, theta, rope_parameters; a length
    ("linear", 16, 1e6, {"rope_type": "linear", "factor": 8.0}, None),
    ("dynamic", 16, 1e4, {"rope_type": "dynamic", "factor": 4.0}, None),
    ("llama3", 64, 5e5, LLAMA3 | {"original_max_position_embeddings": 8192}, None),
    ("yarn", 16, 150000.0, YARN | {"truncate": False}, None),
    ("yarn truncated", 32, 10000.0, YARN, None),
    ("yarn with mscale", 16, 10000.0, YARN | {"mscale": 0.7, "mscale_all_dim": 1.4, "beta_fast": 8, "beta_slow": 2},
     None),
    ("yarn, attention_factor", 16, 10000.0, YARN | {"attention_factor": 1.25}, None),
    ("longrope, short", 16, 10000.0, LONGROPE, 64),
    ("longrope, long", 16, 10000.0, LONGROPE, 65),
    ("longrope, partial", 32, 10000.0, LONGROPE | {"partial_rotary_factor": 0.5}, 64),
]


def main():
    for name, size, theta, rope, length in CASES:
        kind = Phi3Config if rope["rope_type"] == "longrope" else LlamaConfig
        more = {"original_max_position_embeddings": 64} if kind is Phi3Config else {}
        config = kind(
            hidden_size=2 * size, num_attention_heads=2, head_dim=size, max_position_embeddings=8192,
            rope_parameters=rope | {"rope_theta": theta}, **more,
        )
        values, scaling = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu", seq_len=length)
        print("{" + json.dumps(name) + f", {scaling:.9g}, {{" + ", ".join(f"{v:.9g}" for v in values.tolist()) + "}},")


if __name__ == "__main__":
    main()
