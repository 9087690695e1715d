#!/usr/bin/env bash
# Trains the networks of photographs on one GPU, and puts them where the shipped ones are.
#
#   launch/photo_gpu.sh FOLDER
#
# FOLDER holds `train`, `test` and `kodak`, folders of photographs. Steps are meant for about 12
# minutes on one data-centre GPU, and have not been timed on one: PRIOR_STEPS and AMORTIZED_STEPS
# change them. Interrupted, the same command goes on. The last line is the denoising error.
set -euo pipefail
photographs=$1
python=${PYTHON:-.venv/bin/python}
data=(--train-data.path "$photographs/train" --validation-data.path "$photographs/test")

train() { # NAME STEPS FLAGS...
    local name=$1 steps=$2 flags=("${@:3}")
    "$python" train.py "configs/photo_$name.py" "${data[@]}" --run-dir "runs/photo_$name" \
        --num-train-steps "$steps" "${flags[@]}"
    "$python" tools/publish_weights.py --run-dir "runs/photo_$name" \
        --out "pretrained/photo/$name" --overwrite \
        --command "launch/photo_gpu.sh FOLDER ($steps steps of ${flags[*]})"
}

train prior "${PRIOR_STEPS:-20000}" --batch-size 64
train amortized "${AMORTIZED_STEPS:-8000}" --batch-size 32
"$python" -m benchmarks.photo_denoising --images "$photographs/kodak"
