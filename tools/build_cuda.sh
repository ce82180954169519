#!/bin/sh
# make cuda: libattune_cuda.so, beside the program that opens it. usage: build_cuda.sh FOLDER [ARCHITECTURES], such as "90a" alone for a quick build.
set -eu
cd "$(dirname "$0")/.."
out=$1
architectures=${2:-80 90a 100 120}
nvcc=${NVCC:-$(command -v nvcc || ls -d /usr/local/cuda*/bin/nvcc 2>/dev/null | sort -V | tail -1)}
if [ -z "$nvcc" ]; then
    echo "make cuda needs NVIDIA's compiler nvcc, version 13 (package cuda-nvcc-13-0 and cuda-cudart-dev-13-0 of NVIDIA's repository for Debian 12)." >&2
    echo "It was found neither in PATH nor under /usr/local/cuda*; NVCC=/path/to/nvcc names another place. Without it attune trains on the processor." >&2
    exit 1
fi
version=$(sed -n "s/^  version: '\(.*\)',/\1/p" meson.build)
targets=
for architecture in $architectures; do
    targets="$targets -gencode arch=compute_$architecture,code=sm_$architecture"
    newest=$architecture
done
# Machine code for the targets; PTX of the newest, which drivers translate for GPUs to come.
case $newest in *a) ;; *) targets="$targets -gencode arch=compute_$newest,code=compute_$newest" ;; esac
mkdir -p "$out/layout/compute"
tools/layout.sh >"$out/layout/compute/layout.h"
objects=
for file in base/err compute/adapter_rows compute/check compute/dtype compute/nf4; do
    object=$out/cuda_$(basename "$file").o
    ${CC:-cc} -std=gnu17 -O2 -fPIC -fvisibility=hidden -Isrc -D_GNU_SOURCE -DATTUNE_VERSION="\"$version\"" -c "src/$file.c" -o "$object"
    objects="$objects $object"
done
flags=-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wno-unused-parameter,-Wno-missing-field-initializers,-Werror
# shellcheck disable=SC2086
"$nvcc" -std=c++17 -O3 $targets -Isrc -I"$out/layout" -D_GNU_SOURCE -DATTUNE_VERSION="\"$version\"" -Werror all-warnings -Xcompiler $flags -x cu \
    -c src/compute/cuda/device.cu -o "$out/cuda_device.o"
# shellcheck disable=SC2086
"$nvcc" -shared -cudart static "$out/cuda_device.o" $objects -o "$out/libattune_cuda.so" -ldl
objects="$objects $out/cuda_device.o"
# shellcheck disable=SC2086
rm -f $objects
echo "$out/libattune_cuda.so: $(du -h "$out/libattune_cuda.so" | cut -f1), for sm_$(echo "$architectures" | sed 's/ / sm_/g')"
