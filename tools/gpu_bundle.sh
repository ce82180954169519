#!/bin/sh
# Puts what runs on a machine with a GPU and none of our packages into build/cuda: the release program, libattune_cuda.so and the shared libraries
# that they need beside glibc's. usage: gpu_bundle.sh [ARCHITECTURES], "90a" by default.
set -eu
cd "$(dirname "$0")/.."
make --no-print-directory build/attune
mkdir -p build/cuda/lib
rm -f build/cuda/lib/*
tools/build_cuda.sh build/cuda "${1:-90a}"
strip -o build/cuda/attune build/release/attune
ldd build/cuda/attune build/cuda/libattune_cuda.so | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p' | sort -u |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|libstdc\+\+|libgcc_s|ld-linux[^/]*)\.so' | while read -r library; do cp -L "$library" build/cuda/lib/; done
du -sh build/cuda | cut -f1
