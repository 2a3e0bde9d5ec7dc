#!/usr/bin/env bash
# How the weights of uqdm-nano were made, from a folder of eight free photographs: an hour
# and a half on one core of a CPU. Small crops first, where attention costs little.
#
#     zoo/uqdm-nano/recipe.sh photographs/ runs/nano [held-out images]
set -euo pipefail
photographs=$1 runs=$2 test=${3:+--test $3}
here=$(dirname "$0")

python "$here/../photographs.py" "$photographs"
# shellcheck disable=SC2086
python -m compressai_uqdm.train "$photographs" "$runs/crops32" $test --bound one \
  --vary-colours --crop-size 32 --batch-size 8 --learning-rate 1e-3 --steps 18000 \
  --log-every 100
# shellcheck disable=SC2086
python -m compressai_uqdm.train "$photographs" "$runs/crops64" $test --bound one \
  --initial "$runs/crops32/checkpoint.pt" --vary-colours --batch-size 4 \
  --learning-rate 5e-4 --warmup 200 --steps 4000 --log-every 100
