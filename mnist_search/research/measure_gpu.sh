#!/usr/bin/env bash
# Measure mnist-search on a machine with a CUDA GPU: GPU tests, concurrent trials, kernels of a step, a search of
# 50 trials, the stop of a search, accuracy against fp32, benchmark. About 12 minutes on an H100.
#
#   bash mnist_search/research/measure_gpu.sh OUTPUT_FOLDER [BENCH_OPTION...]
#
# Run it in the repository's root with mnist-search[test] installed. BENCH_OPTION is passed to bench, e.g. --quick.
# Environment: PYTHON (default python3); MNIST_SEARCH_DATA (default: the cache, downloaded if it is empty);
# RUN_SECONDS and STOP_SECONDS, after which the two searches get SIGTERM (default 300 and 60).
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
python=${PYTHON:-python3}
[ -z "${MNIST_SEARCH_DATA:-}" ] || MNIST_SEARCH_DATA=$(cd "$MNIST_SEARCH_DATA" && pwd)
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 NO_COLOR=1

# Call a command while the GPU is sampled every second into OUTPUT_FOLDER/gpu-LABEL.csv.
sampled() {
  local label=$1 sampler
  shift
  nvidia-smi --query-gpu=timestamp,utilization.gpu,memory.used --format=csv,noheader,nounits -l 1 > "$out/gpu-$label.csv" &
  sampler=$!
  "$@" || echo "$label: exit $?"
  kill "$sampler"
  awk -F', ' -v label="$label" '{ sum += $2; if ($3 > max) max = $3 }
    END { if (NR) printf "%s: mean GPU utilization %.0f %%, at most %d MiB\n", label, sum / NR, max }' "$out/gpu-$label.csv"
}

# Run a search in a new folder; SIGTERM after some seconds, and the time until it exits.
search() {
  local label=$1 seconds=$2 folder
  folder=$(mktemp -d)
  (cd "$folder" && "$python" - "$seconds" > "$out/run-$label.txt" 2>&1) << 'EOF'
import signal, subprocess, sys, time

command = [sys.executable, "-m", "mnist_search", "run", "--budget", "8000", "--trials", "50", "--pruner", "none"]
started = time.monotonic()
run = subprocess.Popen(command)
try:
    run.wait(float(sys.argv[1]))
except subprocess.TimeoutExpired:
    stopped = time.monotonic()
    run.send_signal(signal.SIGTERM)
    run.wait()
    print(f"SIGTERM after {stopped - started:.0f} s; exit {time.monotonic() - stopped:.1f} s later")
print(f"exit code {run.returncode} after {time.monotonic() - started:.1f} s")
EOF
  mv "$folder/mnist-search.db" "$out/store-$label.db" || true
  rm -rf "$folder"
  tail -n 4 "$out/run-$label.txt"
}

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | tee "$out/machine.txt"
"$python" -c 'import mlflow, optuna, torch; print("torch", torch.__version__, "optuna", optuna.__version__, "mlflow", mlflow.__version__)' | tee -a "$out/machine.txt"
git rev-parse HEAD 2> /dev/null | tee -a "$out/machine.txt" || true

"$python" -m pytest -q -m gpu -o addopts=--import-mode=importlib -p no:cacheprovider tests > "$out/tests.txt" 2>&1 || true
tail -n 3 "$out/tests.txt"
measure() { "$python" -m mnist_search.research.measure_gpu "$@"; }
measure throughput --threads 1,8,16 > "$out/throughput.txt" 2>&1 || true
measure throughput --threads 16 --batch-size 64 --epochs 4 >> "$out/throughput.txt" 2>&1 || true
measure throughput --threads 16,24 --batch-size 32 --epochs 4 >> "$out/throughput.txt" 2>&1 || true
CUDA_DEVICE_MAX_CONNECTIONS=8 measure throughput --threads 16 --batch-size 64 --epochs 4 >> "$out/throughput.txt" 2>&1 || true
cat "$out/throughput.txt"
measure kernels > "$out/kernels.txt" 2>&1 || true
bench() { "$python" -m mnist_search bench --format json "$@" > "$out/bench.json" 2> "$out/bench.txt"; }
sampled run search run "${RUN_SECONDS:-300}"
sampled stop search stop "${STOP_SECONDS:-60}"
measure accuracy "$out/accuracy.jsonl" --variant default --variant "fp32 eager" 2>&1 | tail -n 4
sampled bench bench "$@"
