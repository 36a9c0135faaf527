#!/usr/bin/env bash
# About six minutes: GPU tests, compiled steps, the search without a pruner and its stop, trial threads.
set -u; out=$1; export OUT=$out; . .gpu/env.sh > "$out/pytest.txt" 2>&1; cat "$out/pytest.txt"
command -v nvidia-cuda-mps-control; nproc
(cd .gpu && timeout 70 python3 -m pytest -q -m gpu -n 0 -p no:cacheprovider tests -W default 2>&1 | tail -12) | tee -a "$out/pytest.txt"
nvidia-smi --query-gpu=timestamp,utilization.gpu,memory.used,power.draw,clocks.sm --format=csv,noheader -l 1 > "$out/gpu-load.txt" & watch=$!
T0=$(date +%s.%N) timeout 85 python3 .gpu/measure_trials.py start tables variants 2>&1 | tee "$out/trials-variants.txt"
T0=$(date +%s.%N) timeout 100 python3 .gpu/measure_trials.py best chunks threads_ stop equal search batch64 2>&1 | tee "$out/trials-threads.txt"
T0=$(date +%s.%N) timeout 40 python3 .gpu/measure_trials.py kernels 2>&1 | tee "$out/trials-kernels.txt"
timeout 75 python3 .gpu/step_variants_compiled.py 2>&1 | tee "$out/step_variants.txt"
mkdir -p /tmp/none && cd /tmp/none && timeout 112 python3 - > "$out/run-none.txt" 2>&1 <<'Q'
import signal, subprocess, sys, time
t = time.time(); p = subprocess.Popen([sys.executable, "-m", "mnist_search", "run", "--budget", "8000", "--trials", "50", "--pruner", "none"])
try: p.wait(60)
except subprocess.TimeoutExpired:
    print("not done after 60 s: SIGTERM", flush=True); s = time.time(); p.send_signal(signal.SIGTERM); p.wait(); print(f"stopped {time.time() - s:.1f} s after it")
print(f"exit {p.returncode} after {time.time() - t:.1f} s")
Q
tail -n 5 "$out/run-none.txt"; kill $watch
