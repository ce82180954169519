#!/bin/sh
# make check: the include allow-list, and a build without warnings by gcc and by clang.
set -eu
cd "$(dirname "$0")/.."
python3 tools/check_includes.py
for compiler in gcc clang; do
    dir=build/check-$compiler
    [ -f "$dir/build.ninja" ] || CC=$compiler meson setup "$dir" -Dtests=true -Dwerror=true -Doptimization=1 >/dev/null
    ninja -C "$dir" --quiet
    echo "$compiler: no warnings"
done
