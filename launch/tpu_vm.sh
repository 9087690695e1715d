#!/usr/bin/env bash
# The same command on every worker of a TPU slice, which JAX connects.
#
#   launch/tpu_vm.sh NAME ZONE train.py configs/ffhq256_prior.py --run-dir /mnt/shared/runs/prior
#
# Before: the repository and its environment (pip install -e '.[tpu]') in ~/lavps-jax of every
# worker, and a disk that all of them see (an NFS export) for --run-dir or --out-dir. After a worker
# was lost, the same command goes on from the last checkpoint.
set -euo pipefail
name=$1 zone=$2
shift 2
command=$(printf '%q ' "$@")
exec gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all \
    --command "cd lavps-jax && .venv/bin/python $command"
