#!/bin/sh
# make bench: products against the in-run peak loop, then training speed of two shapes.
set -eu
cd "$(dirname "$0")/.."
build/attune bench products
python3 bench/train.py "$@"
