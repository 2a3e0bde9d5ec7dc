#!/usr/bin/env bash
# How the weights of uqdm-nano were made, from eight free photographs, and its contexts, from
# these and those of Debian 12's wallpapers: under an hour on one core that has nothing else
# to do. Crops of 32x32 first, where attention costs little, then of 64x64.
#
#     zoo/uqdm-nano/recipe.sh photographs/ runs/nano held-out/
#
# The run whose weights are in the package drew its initial weights before they followed
# from --seed, and its second part was stopped at step 1000: this gives its like, not the
# same numbers. Its held-out images, of which it only logged the loss, were the 48
# box-averaged Kodak patches.
set -euo pipefail
photographs=$1 runs=$2 test=$3
here=$(cd "$(dirname "$0")" && pwd)
package=$here/../../compressai_uqdm

pip install matplotlib scikit-image scikit-learn
python "$here/../photographs.py" "$photographs"
python -m compressai_uqdm.train "$photographs" "$runs/crops32" --test "$test" \
  --bound one --vary-colours --crop-size 32 --batch-size 8 --learning-rate 1e-3 \
  --steps 12000 --log-every 100
python -m compressai_uqdm.train "$photographs" "$runs/crops64" --test "$test" \
  --initial "$runs/crops32/checkpoint.pt" --bound one --vary-colours --batch-size 4 \
  --learning-rate 5e-4 --warmup 200 --steps 1000 --test-every 500 --log-every 100
# contexts go on from uqdm-tiny's
cp -r "$photographs" "$runs/photographs"
rm "$runs/photographs/chelsea.png"  # held out
"$here/../debian_photographs.sh" "$runs/photographs"
python -m compressai_uqdm.train_context "$runs/crops64/checkpoint.pt" "$runs/photographs" \
  "$runs/context.npz" --initial "$package/assets/uqdm-tiny/contexts.npz" --crops 500 \
  --steps 800 --learning-rate 5e-3

cp "$runs/context.npz" "$package/assets/uqdm-nano/contexts.npz"
python - "$runs/crops64/checkpoint.pt" "$package/assets/uqdm-nano/weights.safetensors" <<'PYTHON'
import sys

import torch

from safetensors.torch import save_file

weights = torch.load(sys.argv[1], weights_only=True)["state_dict"]
save_file(weights, sys.argv[2], metadata={"model": "uqdm-nano"})
PYTHON
