#!/bin/sh
# Makes the bundled base model anew: text, tokenizer, training from random weights, weights into the models folder.
# usage: tools/base_model.sh    (LINES, SEED, RATE, BATCH may be set; ATTUNE names another binary)
set -eu
cd "$(dirname "$0")/.."

model=models/attune/world-3m
work=build/base-model
attune=${ATTUNE:-build/attune}

rm -rf "$work"
mkdir -p "$work"
python3 tools/corpus.py --lines "${LINES:-130000}" --seed "${SEED:-1}" --out "$work/train.jsonl"
python3 tools/corpus.py --lines 500 --seed "$((${SEED:-1} + 1))" --out "$work/valid.jsonl"
python3 tools/train_tokenizer.py --train "$work/train.jsonl" --out "$model"

"$attune" train --model "$model" --init random --train "$work/train.jsonl" --valid "$work/valid.jsonl" \
    --n-epochs 1 --batch-size "${BATCH:-8}" --context-length 512 --packing true \
    --learning-rate "${RATE:-3e-3}" --warmup-ratio 0.03 --weight-decay 0.01 --seed "${SEED:-1}" --out "$work/out"

weights=$(find "$work/out" -name model.safetensors | sort | tail -n 1)
[ -n "$weights" ] || { echo "base_model: no model.safetensors under $work/out" >&2; exit 1; }
cp "$weights" "$model/model.safetensors"
ls -l "$model"
