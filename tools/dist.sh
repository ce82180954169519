#!/bin/sh
# make dist: build/attune-VERSION-linux-ARCH.tar.gz, which runs where it is unpacked on any Linux whose glibc is not older than this one's.
# usage: dist.sh [ARCHITECTURES of GPUs, such as "90a"; "none" leaves libattune_cuda.so out]
#
# bin/ has the program and libattune_cuda.so, lib/ the shared libraries that they need beside glibc's, with the terms of each. The program finds them by
# its own place. For GPUs the machine brings NVIDIA's driver and, for fast products, cuBLASLt (libcublasLt.so.13 or .12 where the system finds libraries).
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n "s/^  version: '\(.*\)',/\1/p" meson.build)
name=attune-$version-linux-$(uname -m)
build=build/dist
# DT_RPATH, not DT_RUNPATH: what the libraries themselves need is looked for there, too.
[ -f $build/build.ninja ] || meson setup $build --buildtype=debugoptimized -Doptimization=3 \
    "-Dc_link_args=-Wl,--disable-new-dtags,-rpath,\$ORIGIN/../lib" >/dev/null
ninja -C $build --quiet attune
rm -rf "build/$name"
mkdir -p "build/$name/bin" "build/$name/lib/terms" "build/$name/models/attune"
strip -o "build/$name/bin/attune" $build/attune
if [ "${1:-}" = none ]; then
    echo "without libattune_cuda.so: it trains and answers on the processor alone"
else
    # shellcheck disable=SC2086
    tools/build_cuda.sh $build ${1:+"$1"}
    strip -o "build/$name/bin/libattune_cuda.so" $build/libattune_cuda.so
fi
# glibc is the system's; C++'s runtime comes along, for libattune_cuda.so.
ldd "build/$name"/bin/* | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p' | sort -u |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|ld-linux[^/]*)\.so' | while read -r library; do
    cp -L "$library" "build/$name/lib/"
    package=$(dpkg-query -S "*/$(basename "$(readlink -f "$library")")" 2>/dev/null | head -1 | cut -d: -f1)
    [ ! -f "/usr/share/doc/$package/copyright" ] || cp "/usr/share/doc/$package/copyright" "build/$name/lib/terms/$package"
done
cp LICENSE README.md "build/$name/"
cp -r docs "build/$name/"
cp -r models/attune/world-3m "build/$name/models/attune/"
tar -C build --owner=0 --group=0 --sort=name -czf "build/$name.tar.gz" "$name"
echo "build/$name.tar.gz: $(du -h "build/$name.tar.gz" | cut -f1); needs glibc $(ldd --version | sed -n '1s/.* //p') or newer"
