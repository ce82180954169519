#!/bin/bash
# What a lent GPU is asked, a stage a call: bench/gpu_session.sh STAGE [FOLDER FOR REPORTS]. Build the bundle first: tools/gpu_bundle.sh
#
#   check     what is there; selftest of every operation in f32 and bf16, a step and a small run beside the processor
#   sanitize  compute-sanitizer's memcheck, racecheck, synccheck and initcheck on a short selftest
#   curves    tiny models of every family, 100 steps on the device and on the processor in f32, losses within 5e-3; a run that is stopped and goes on
#   small     attune beside PyTorch + transformers + PEFT: 1B and 0.6B LoRA, 1B full
#   large     8B LoRA, and with weights of four bits
#
# A stage takes BUDGET seconds at most (570), each of its steps what is left of that. In the folder are, as they come: session.log with a line for each step,
# STAGE-STEP.log with what it says, curves.csv, gpu.csv. ATTUNE names another program than the bundle's, WORK where models and runs go (/tmp/attune-gpu), and for a try without a GPU
# (ATTUNE_EMULATED_GPUS=1 and a build with tests) CURVES and GPU add arguments to curves.py and gpu.py.
set -u
cd "$(dirname "$0")/.."
stage=${1:-}
out=${2:-build/gpu}
work=${WORK:-/tmp/attune-gpu}
mkdir -p "$out" "$work"
out=$(cd "$out" && pwd)
failed=0
python=$(command -v python3)

site=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
blas=$(ls -d "$site"/nvidia/cu13/lib "$site"/nvidia/cublas/lib /usr/local/cuda/lib64 /usr/local/cuda-1?.?/lib64 2>/dev/null | while read -r folder; do
    ls "$folder"/libcublasLt.so.1? >/dev/null 2>&1 && echo "$folder"; done | head -1)
program=${ATTUNE:-$PWD/build/cuda/bin/attune}
[ -x "$program" ] || { echo "$program is missing: tools/gpu_bundle.sh makes it" >&2; exit 2; }
# The program with its libraries, for it alone: other programs here have their own.
cat >"$work/attune" <<END
#!/bin/sh
LD_LIBRARY_PATH="${blas:+$blas:}$(dirname "$program")/../lib" exec "$program" "\$@"
END
chmod +x "$work/attune"

step() { # name, command …
    local name=$1 started=$SECONDS left=$((${BUDGET:-570} - SECONDS)) status=124 log=$out/$stage-$1.log
    shift
    if [ $left -gt 0 ]; then
        timeout -k 5 "$left" "$@" >"$log" 2>&1
        status=$?
    else
        echo "not begun: no time is left" >"$log"
    fi
    [ $status = 0 ] || failed=$((failed + 1))
    echo "=== $stage $name: $([ $status = 0 ] && echo ok || echo "FAILED ($status)"), $((SECONDS - started)) s" | tee -a "$out/session.log"
    tail -"${TAIL:-6}" "$log"
}

check() {
    TAIL=20 step machine sh -c "nvidia-smi; ldd '$program' | grep 'not found'; ls -l '${blas:-/nowhere}'/libcublasLt.so.1? ; '$work/attune' devices"
    TAIL=50 step selftest "$work/attune" selftest --backend cuda --rounds "${ROUNDS:-12}"
}

sanitize() {
    local sanitizer
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -1)
    [ -n "$sanitizer" ] || { echo "compute-sanitizer is not here"; failed=1; return; }
    for tool in memcheck racecheck synccheck initcheck; do
        TAIL=4 step "$tool" "$sanitizer" --tool $tool --target-processes all --error-exitcode 9 "$program" selftest --backend cuda --rounds 1
    done
}

curves() {
    # shellcheck disable=SC2086
    TAIL=30 step curves "$python" tests/cuda/curves.py --attune "$work/attune" --work "$work/curves" --csv "$out/curves.csv" --budget $((${BUDGET:-570} - 20)) ${CURVES:-}
}

gpu() { # name, arguments …
    local name=$1
    shift
    # shellcheck disable=SC2086
    step "$name" "$python" bench/gpu.py --attune "$work/attune" --work "$work/bench" --out "$out/gpu.csv" "$@" ${GPU:-}
}

small() {
    gpu 1B-lora --shape 1B --kind lora --rows 16 --steps 6
    gpu 0.6B-lora --shape 0.6B --kind lora --rows 16 --steps 6
    gpu 1B-full --shape 1B --kind full --rows 16 --steps 6
}

large() {
    gpu 8B-lora --shape 8B --kind lora --rows 8 --steps 5 --recompute
    gpu 8B-qlora --shape 8B --kind qlora --rows 8 --steps 5 --only attune
}

case $stage in
check | sanitize | curves | small | large) $stage ;;
*) echo "usage: gpu_session.sh check|sanitize|curves|small|large [FOLDER]" >&2; exit 2 ;;
esac
echo "gpu session $stage: $failed steps failed, $SECONDS s"
exit $((failed > 0))
