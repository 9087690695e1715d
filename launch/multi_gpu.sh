#!/usr/bin/env bash
# One process for each GPU of this machine, connected to each other.
#
#   launch/multi_gpu.sh 4 train.py configs/ffhq256_prior.py
#
# One process that uses all GPUs does the same (python train.py ...); this is for machines where
# several processes feed the GPUs faster, and to try on one machine what will run on many. Sampling
# needs no connection: see docs/pods.md.
set -euo pipefail
count=$1
shift
port=$((20000 + RANDOM % 20000))
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
for ((i = 0; i < count; i++)); do
    CUDA_VISIBLE_DEVICES=$i "${PYTHON:-.venv/bin/python}" "$@" \
        --coordinator "localhost:$port" --process-index "$i" --process-count "$count" &
done
for job in $(jobs -p); do wait "$job"; done
