#!/bin/sh
# How long a server takes from its start to its first request on a data folder with many jobs: startup.sh [JOBS [RUNS]]. Appends to
# results/startup.csv. Needs build/attune and build/test.
set -eu
cd "$(dirname "$0")/.."
jobs=${1:-10000} runs=${2:-5}
folder=$(mktemp -d "${TMPDIR:-/tmp}/attune-startup-XXXXXX")
trap 'rm -rf "$folder"' EXIT
build/test/tests/fault/many_jobs "$folder" "$jobs"
results=bench/results/startup.csv
[ -f $results ] || echo "date,jobs,files,database_bytes,seconds" >$results
for _ in $(seq "$runs"); do
    python3 - "$folder" "$jobs" "$(date +%F)" >>$results <<'PY'
import os, subprocess, sys, time
folder, jobs, date = sys.argv[1:]
files, size = len(os.listdir(f"{folder}/files")), os.path.getsize(f"{folder}/attune.db")
begin = time.monotonic()
server = subprocess.Popen(["build/attune", "serve", "--no-auth", "--data", folder, "--port", "0"], stdout=subprocess.PIPE, text=True)
assert "http://" in server.stdout.readline()
print(f"{date},{jobs},{files},{size},{time.monotonic() - begin:.3f}")
server.terminate()
assert server.wait() == 0
PY
done
tail -n "$runs" $results
