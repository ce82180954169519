#!/bin/sh
# Runs every libFuzzer target for SECONDS_EACH seconds (default 60) from its corpus; findings stay in build/fuzz.
set -eu
cd "$(dirname "$0")/.."
dir=build/fuzz
[ -f "$dir/build.ninja" ] || CC=clang meson setup "$dir" -Dtests=true -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false \
    -Doptimization=1 -Dc_args=-fsanitize=fuzzer-no-link >/dev/null
ninja -C "$dir" --quiet
for target in "$dir"/tests/fuzz/fuzz_*; do
    name=${target##*/fuzz_}
    case $name in replay_* | *.p) continue ;; esac
    mkdir -p "$dir/found/$name"
    echo "fuzz $name"
    "$target" -max_total_time="${SECONDS_EACH:-60}" -rss_limit_mb=1024 -timeout=5 -print_final_stats=0 -verbosity=0 \
        -artifact_prefix="$dir/found/$name/" "$dir/found/$name" "tests/fuzz/corpus/$name"
done
