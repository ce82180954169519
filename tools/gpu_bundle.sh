#!/bin/sh
# Puts what runs on a machine with a GPU and none of our packages into build/cuda: what make dist packs, for one kind of GPU and without the docs.
# usage: gpu_bundle.sh [ARCHITECTURES], "90a" by default.
set -eu
cd "$(dirname "$0")/.."
tools/dist.sh "${1:-90a}"
version=$(sed -n "s/^  version: '\(.*\)',/\1/p" meson.build)
rm -rf build/cuda
mv "build/attune-$version-linux-$(uname -m)" build/cuda
rm -rf build/cuda/docs
du -sh build/cuda | cut -f1
