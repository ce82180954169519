#!/bin/bash
# What a lent GPU is asked, a stage or more a call: bench/gpu_session.sh STAGE … Build the bundle first: tools/gpu_bundle.sh
#
#   check     what is there; selftest of every operation in f32 and bf16, a step and a small run beside the processor; what failed again, a part by itself
#   sanitize  compute-sanitizer's racecheck on attention, experts and products of our own, memcheck, initcheck and synccheck on a short selftest
#   curves    tiny models of every family, 100 steps on the device and on the processor in f32, losses within 5e-3; a run that is stopped and goes on
#   small     attune beside PyTorch + transformers + PEFT: 1B and 0.6B LoRA, 1B full; 0.6B of short rows, one by one and as graphs
#   large     8B LoRA, and with weights of four bits
#
# For thirty minutes in three calls: `check sanitize`, `curves small`, `large`. A call takes BUDGET seconds at most (570), each of its steps what is left of that or its
# own limit. In OUT (build/gpu) are, as they come and eight files at most: session.log with a line for each step, STAGE.log with what its steps say, curves.csv,
# gpu.csv. ATTUNE names another program than the bundle's, WORK where models and runs go (/tmp/attune-gpu), and for a try without a GPU (ATTUNE_EMULATED_GPUS=1
# and a build with tests) CURVES and GPU add arguments to curves.py and gpu.py.
set -u
cd "$(dirname "$0")/.."
out=${OUT:-build/gpu}
work=${WORK:-/tmp/attune-gpu}
mkdir -p "$out" "$work"
out=$(cd "$out" && pwd)
failed=0
python=$(command -v python3)
export PYTHONUNBUFFERED=1 PATH=$PATH:/usr/local/cuda/bin:/usr/local/nvidia/bin

site=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
blas=$(ls -d "$site"/nvidia/cu13/lib "$site"/nvidia/cublas/lib /usr/local/cuda/lib64 /usr/local/cuda-1?.?/lib64 2>/dev/null | while read -r folder; do
    ls "$folder"/libcublasLt.so.1? >/dev/null 2>&1 && echo "$folder"; done | head -1)
program=${ATTUNE:-$PWD/build/cuda/bin/attune}
[ -x "$program" ] || { echo "$program is missing: tools/gpu_bundle.sh makes it" >&2; exit 2; }
# The program with its libraries, for it alone: other programs here have their own. The driver's may be known by LD_LIBRARY_PATH alone.
libraries=${blas:+$blas:}$(dirname "$program")/../lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}:/usr/local/nvidia/lib64
cat >"$work/attune" <<END
#!/bin/sh
LD_LIBRARY_PATH="$libraries" exec "$program" "\$@"
END
chmod +x "$work/attune"

step() { # name, seconds at most, command …
    local name=$1 limit=$2 started=$SECONDS left=$((${BUDGET:-570} - SECONDS)) status=124 log=$out/$stage.log before
    shift 2
    echo "--- $stage $name" >>"$log"
    before=$(wc -l <"$log")
    [ $left -gt "$limit" ] && left=$limit
    if [ $left -gt 0 ]; then
        timeout -k 5 "$left" "$@" >>"$log" 2>&1
        status=$?
    else
        echo "not begun: no time is left" >>"$log"
    fi
    [ $status = 0 ] || failed=$((failed + 1))
    echo "=== $stage $name: $([ $status = 0 ] && echo ok || echo "FAILED ($status)"), $((SECONDS - started)) s" | tee -a "$out/session.log"
    tail -n +$((before + 1)) "$log" | tail -"${TAIL:-6}"
    return $status
}

machine() {
    nvidia-smi
    ldd "$program" | grep 'not found'
    LD_LIBRARY_PATH=$libraries "$python" -c 'import ctypes
for name in ("libcuda.so.1", "libcublasLt.so.13", "libcublasLt.so.12"):
    try:
        library = ctypes.CDLL(name)
        if "blas" in name:
            library.cublasLtGetVersion.restype = ctypes.c_size_t
        print(name, library.cublasLtGetVersion() if "blas" in name else "is there")
    except OSError as problem:
        print(problem)'
    "$python" -c 'import torch, transformers, peft; print("torch", torch.__version__, "transformers", transformers.__version__, "peft", peft.__version__)'
    "$work/attune" devices
}
export -f machine
export program libraries python work

parts() {
    "$work/attune" selftest --only '?' 2>&1 | sed 's/.*is one of \(.*\); not.*/\1/; s/,//g'
}

check() {
    local part
    TAIL=30 step machine 60 bash -c machine
    TAIL=50 step selftest 300 "$work/attune" selftest --backend cuda --rounds "${ROUNDS:-12}" && {
        TAIL=4 step own-products 60 env ATTUNE_CUDA_BLAS=0 "$work/attune" selftest --backend cuda --rounds 4 --only linear
        TAIL=4 step own-gradients 60 env ATTUNE_CUDA_BLAS=0 "$work/attune" selftest --backend cuda --rounds 4 --only linear_grad_w
        return
    }
    # An error of a kernel ends the process: which parts are right all the same?
    for part in $(parts); do
        # With every launch waited for, but those of graphs, which nobody could wait for.
        # shellcheck disable=SC2046
        TAIL=3 step "$part" 60 env $([ "$part" = graphs ] || echo ATTUNE_CUDA_CHECK=1) "$work/attune" selftest --backend cuda --rounds 2 --only "$part"
    done
}

sanitize() {
    local sanitizer part tool
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer /opt/nvidia/*/compute-sanitizer 2>/dev/null | head -1)
    [ -n "$sanitizer" ] || { echo "compute-sanitizer is not here" | tee -a "$out/session.log"; failed=$((failed + 1)); return; }
    export ATTUNE_CUDA_BLAS=0 LD_LIBRARY_PATH=$libraries # what is ours
    for part in attend experts linear linear_grad_w adamw; do
        TAIL=4 step "racecheck-$part" 90 "$sanitizer" --tool racecheck --error-exitcode 9 "$program" selftest --backend cuda --rounds 1 --only $part
    done
    for tool in memcheck initcheck synccheck; do
        TAIL=4 step "$tool" 120 "$sanitizer" --tool $tool --error-exitcode 9 "$program" selftest --backend cuda --rounds 1
    done
}

curves() {
    # shellcheck disable=SC2086
    TAIL=30 step curves "${CURVES_LIMIT:-270}" "$python" tests/cuda/curves.py --attune "$work/attune" --work "$work/curves" --csv "$out/curves.csv" \
        --jobs 4 --budget "$((${CURVES_LIMIT:-270} - 20))" ${CURVES:-}
}

gpu() { # name, arguments …
    local name=$1
    shift
    # shellcheck disable=SC2086
    step "$name" 400 "$python" bench/gpu.py --attune "$work/attune" --work "$work/bench" --out "$out/gpu.csv" "$@" ${GPU:-}
}

small() {
    gpu 1B-lora --shape 1B --kind lora --rows 16 --steps 6
    gpu 0.6B-lora --shape 0.6B --kind lora --rows 16 --steps 6
    gpu 1B-full --shape 1B --kind full --rows 16 --steps 6
    gpu 0.6B-short --shape 0.6B --kind lora --context 512 --rows 2 --steps 30 --only attune
    ATTUNE_CUDA_GRAPHS=1 gpu 0.6B-short-graphs --shape 0.6B --kind lora --context 512 --rows 2 --steps 30 --only attune
}

large() {
    gpu 8B-lora --shape 8B --kind lora --rows 8 --steps 5
    gpu 8B-qlora --shape 8B --kind qlora --rows 8 --steps 5 --only attune
}

[ $# -gt 0 ] || set -- none
for stage in "$@"; do
    case $stage in
    check | sanitize | curves | small | large) ;;
    *) echo "usage: [OUT=FOLDER] gpu_session.sh check|sanitize|curves|small|large …" >&2; exit 2 ;;
    esac
done
for stage in "$@"; do
    $stage
done
echo "gpu session $*: $failed steps failed, $SECONDS s" | tee -a "$out/session.log"
exit $((failed > 0))
