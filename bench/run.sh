#!/bin/sh
# make bench: products against the in-run peak loop, training speed of two shapes, replies, then the data path: tokenizers, a file of 100 MB, POST to the first step.
set -eu
cd "$(dirname "$0")/.."
build/attune bench products
python3 bench/train.py "$@"
python3 bench/tokenizer.py
python3 bench/ingest.py
python3 bench/first_step.py
python3 bench/decode.py
python3 bench/flat.py
python3 bench/trackers.py
