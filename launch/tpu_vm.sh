#!/usr/bin/env bash
# The same command on every worker of a TPU slice, which JAX connects.
#
#   launch/tpu_vm.sh NAME ZONE train.py configs/ffhq256_prior.py --run-dir gs://BUCKET/runs/prior
#
# Before: the repository, its environment (pip install -e '.[tpu,gcs]') and the data in ~/lavps-jax of
# every worker, and a bucket that the slice may write. After a worker was lost, the same command goes
# on from the last checkpoint.
set -euo pipefail
name=$1 zone=$2
shift 2
command=$(printf '%q ' "$@")
exec gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all \
    --command "cd lavps-jax && .venv/bin/python $command"
