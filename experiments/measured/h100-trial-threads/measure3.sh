#!/usr/bin/env bash
# About three minutes: start of a process, the last settings of trial threads, 50 trials, processes under MPS, a compiled forward pass.
set -u; out=$1; export OUT=$out MNIST_SEARCH_DATA=$PWD/.gpu/mnist PYTHONUNBUFFERED=1 PYTHONPYCACHEPREFIX=/tmp/pyc
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
go() { T0=$(date +%s.%N) timeout "$@"; }
(go 20 python3 .gpu/measure_trials.py direct; go 20 python3 .gpu/measure_trials.py direct dynamo) 2>&1 | tee "$out/trials-start.txt"
nvidia-smi --query-gpu=timestamp,utilization.gpu,memory.used,power.draw,clocks.sm --format=csv,noheader -l 1 > "$out/gpu-load.txt" & watch=$!
go 118 python3 .gpu/measure_trials.py final quality stop seventeen 2>&1 | tee "$out/trials-final.txt"
kill $watch
export CUDA_MPS_PIPE_DIRECTORY=/tmp/mps CUDA_MPS_LOG_DIRECTORY=/tmp/mps; mkdir -p /tmp/mps; nvidia-cuda-mps-control -d; at=$(($(date +%s) + 13)); ps=""
for me in 0 1 2 3 4 5 6 7; do CUDA_DEVICE_MAX_CONNECTIONS=2 ME=$me go 27 python3 .gpu/measure_trials.py more.txt solo --at=$at > /tmp/solo$me.txt 2>&1 & ps="$ps $!"; done
wait $ps; echo quit | timeout 5 nvidia-cuda-mps-control; unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
cat /tmp/solo*.txt > "$out/mps.txt"; awk '/^solo/ {s[$2] += $4; n[$2]++} END {for (k in s) print "MPS:", k, "processes,", n[k], "answers:", s[k], "steps/s"}' "$out/mps.txt"; grep -h "ready\|Error" "$out/mps.txt" | head -4
go 38 python3 .gpu/measure_trials.py more.txt forward 2>&1 | tee "$out/trials-forward.txt"
