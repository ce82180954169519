#!/bin/sh
# Prints layout.h: a hash of the headers that the program and libattune_cuda.so must have in common (src/compute/cuda/module.h).
set -eu
cd "$(dirname "$0")/../src/compute"
echo "#define ATTUNE_LAYOUT \"$(cat backend.h nf4.h aside.h graphs.h cuda/module.h | sha256sum | cut -c1-32)\""
