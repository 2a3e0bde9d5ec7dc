#!/usr/bin/env bash
# How the contexts of uqdm-tiny are fitted, on Debian 12 or a kin of it: about an hour on
# one core that has nothing else to do.
#
#     zoo/uqdm-tiny-ctx/recipe.sh photographs/ runs/tiny-ctx
#
# Those in the package were made by earlier versions of the command: those of latents from
# the photographs of Python packages without face.png, with the factors 1..5 of the crops
# drawn in another way; that of pixels from 6,500 crops, some of them made smaller by
# other filters than a box. This gives their like, not the same numbers.
set -euo pipefail
photographs=$1 runs=$2
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$runs"

pip install matplotlib scikit-image scikit-learn
python "$here/../photographs.py" "$photographs"
rm "$photographs/chelsea.png"  # held out
"$here/../debian_photographs.sh" "$photographs"
python -m compressai_uqdm.train_context uqdm-tiny "$photographs" "$runs/first.npz" \
  --steps 800 --crops 2500 --pixel-steps 6000
python -m compressai_uqdm.train_context uqdm-tiny "$photographs" "$runs/second.npz" \
  --initial "$runs/first.npz" --steps 600 --crops 4000 --learning-rate 5e-3 \
  --pixel-steps 3500 --pixel-learning-rate 1.5e-3 --seed 1
cp "$runs/second.npz" "$here/../../compressai_uqdm/assets/uqdm-tiny/contexts.npz"
