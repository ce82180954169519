#!/bin/sh
# make check: the include allow-list, the length of lines, words that do not belong, the tools' syntax, and a build
# without warnings by gcc and by clang. gcc optimizes as the release does, because some of its warnings come from there;
# clang only has to compile.
set -eu
cd "$(dirname "$0")/.."
python3 tools/check_includes.py
python3 tools/check_lines.py
python3 tools/check_words.py
git ls-files '*.sh' | while read -r script; do
    case $(head -n 1 "$script") in *bash*) bash -n "$script" ;; *) sh -n "$script" ;; esac
done
git ls-files '*.py' | xargs python3 -c '
import ast, sys
for name in sys.argv[1:]:
    ast.parse(open(name, encoding="utf-8").read(), name)'
echo "shell and python: no syntax errors"
for build in gcc-3 clang-0; do
    dir=build/check-$build
    [ -f "$dir/build.ninja" ] ||
        CC=${build%-*} meson setup "$dir" -Dtests=true -Dwerror=true -Ddebug=false -Doptimization="${build#*-}" >/dev/null
    ninja -C "$dir" --quiet
    echo "${build%-*} -O${build#*-}: no warnings"
done
