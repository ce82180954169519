#!/bin/bash
# What a lent GPU is asked, in one call: bench/gpu_session.sh [check|curves|bench|all] [FOLDER FOR REPORTS]. Build the bundle first: tools/gpu_bundle.sh
#
#   check    what is there; selftest of every operation in f32 and bf16, a step and a small run beside the processor; compute-sanitizer's memcheck,
#            racecheck, initcheck and synccheck on a short one
#   curves   tiny models of every family, 100 steps on the device and on the processor in f32, losses within 5e-3; a run that is stopped and goes on
#   bench    attune beside PyTorch + transformers + PEFT: 1B and 0.6B LoRA, 1B full, 8B LoRA
set -u
cd "$(dirname "$0")/.."
what=${1:-all}
out=${2:-build/gpu}
mkdir -p "$out"
out=$(cd "$out" && pwd)
failed=0

python=$(command -v python3)
site=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
blas=$(ls -d "$site"/nvidia/cu13/lib "$site"/nvidia/cublas/lib /usr/local/cuda/lib64 /usr/local/cuda-1?.?/lib64 2>/dev/null | while read -r folder; do
    ls "$folder"/libcublasLt.so.1? >/dev/null 2>&1 && echo "$folder"; done | head -1)
ATTUNE=$PWD/build/cuda/attune
[ -x "$ATTUNE" ] || { echo "build/cuda/attune is missing: tools/gpu_bundle.sh makes it" >&2; exit 2; }
# The program with its libraries, for it alone: other programs here have their own.
cat >"$out/attune" <<END
#!/bin/sh
LD_LIBRARY_PATH="${blas:+$blas:}$PWD/build/cuda/lib" exec "$ATTUNE" "\$@"
END
chmod +x "$out/attune"

step() { # name, limit in seconds, command …
    local name=$1 limit=$2 started=$SECONDS status
    shift 2
    timeout "$limit" "$@" >"$out/$name.log" 2>&1
    status=$?
    [ $status = 0 ] || failed=$((failed + 1))
    echo "=== $name: $([ $status = 0 ] && echo ok || echo "FAILED ($status)"), $((SECONDS - started)) s"
    tail -${TAIL:-6} "$out/$name.log"
}

check() {
    TAIL=12 step machine 60 sh -c "nvidia-smi; ldd '$ATTUNE' | grep 'not found'; ls -l '${blas:-/nowhere}'/libcublasLt.so.1? ; true"
    TAIL=40 step selftest 240 "$out/attune" selftest --backend cuda --rounds 12
    local sanitizer
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -1)
    for tool in memcheck racecheck synccheck initcheck; do
        [ -n "$sanitizer" ] && TAIL=4 step "$tool" 150 "$sanitizer" --tool $tool --target-processes all --error-exitcode 9 "$out/attune" selftest --backend cuda --rounds 1
    done
}

curves() {
    TAIL=30 step curves 500 "$python" tests/cuda/curves.py --attune "$out/attune" --work "$out/curves"
}

bench() {
    local gpu=("$python" bench/gpu.py --attune "$out/attune" --work /tmp/attune-gpu --out "$out/gpu.csv")
    step bench-1B-lora 150 "${gpu[@]}" --shape 1B --kind lora --rows 16 --steps 6
    step bench-0.6B-lora 150 "${gpu[@]}" --shape 0.6B --kind lora --rows 16 --steps 6
    step bench-1B-full 150 "${gpu[@]}" --shape 1B --kind full --rows 8 --steps 6
    step bench-8B-lora 400 "${gpu[@]}" --shape 8B --kind lora --rows 8 --steps 5 --recompute
}

case $what in
check) check ;;
curves) curves ;;
bench) bench ;;
all) check; curves; bench ;;
*) echo "usage: gpu_session.sh [check|curves|bench|all] [FOLDER]" >&2; exit 2 ;;
esac
echo "gpu session: $failed steps failed"
exit $((failed > 0))
