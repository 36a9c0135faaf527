#!/usr/bin/env bash
# About four minutes: GPU tests, several processes under MPS, settings of trial threads, compiled parts, accuracy.
set -u; out=$1; export OUT=$out; . .gpu/env.sh > "$out/pytest.txt" 2>&1; cat "$out/pytest.txt"
(cd .gpu && timeout 45 python3 -m pytest -q -m gpu -n 0 -p no:cacheprovider tests/test_gpu.py -W default 2>&1 | tail -8) | tee -a "$out/pytest.txt"
nvidia-smi --query-gpu=timestamp,utilization.gpu,memory.used,power.draw,clocks.sm --format=csv,noheader -l 1 > "$out/gpu-load.txt" & watch=$!
padded="set:precision='copy',widths=(8,16,8,16,16,24)"
export CUDA_MPS_PIPE_DIRECTORY=/tmp/mps CUDA_MPS_LOG_DIRECTORY=/tmp/mps; mkdir -p /tmp/mps; nvidia-cuda-mps-control -d; at=$(($(date +%s) + 17)); ps=""
for me in 0 1 2 3 4 5 6 7; do ME=$me T0=$(date +%s.%N) timeout 33 python3 .gpu/measure_trials.py "$padded" solo --at=$at > /tmp/solo$me.txt 2>&1 & ps="$ps $!"; done
wait $ps; echo quit | timeout 5 nvidia-cuda-mps-control; unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
cat /tmp/solo*.txt > "$out/mps.txt"; awk '/^solo/ {s[$2] += $4; n[$2]++} END {for (k in s) print "MPS:", k, "processes,", n[k], "answers:", s[k], "steps/s"}' "$out/mps.txt"; grep ready "$out/mps.txt" | head -3
T0=$(date +%s.%N) timeout 95 python3 .gpu/measure_trials.py dynamo more ahead benchmark deterministic accuracy 2>&1 | tee "$out/trials-more.txt"
T0=$(date +%s.%N) timeout 100 python3 .gpu/measure_trials.py more.txt compiling 2>&1 | tee "$out/trials-compiled.txt"
T0=$(date +%s.%N) timeout 22 python3 .gpu/measure_trials.py more.txt again 2>&1 | tee "$out/trials-again.txt"
CUDA_DEVICE_MAX_CONNECTIONS=8 T0=$(date +%s.%N) timeout 15 python3 .gpu/measure_trials.py more.txt twelve 2>&1 | tee "$out/trials-connections.txt"
kill $watch
