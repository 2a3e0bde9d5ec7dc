#!/usr/bin/env bash
# How the context of uqdm-tiny was fitted: some fifteen minutes on one core.
#
# The one in the package was made by an earlier version of the command, which drew the
# factors 1..5 of the crops in another way, from the photographs without face.png: this
# gives its like, not the same numbers.
set -euo pipefail
cd "$(dirname "$0")"
pip install matplotlib scikit-image scikit-learn
python ../photographs.py photographs
rm photographs/face.png
python -m compressai_uqdm.train_context uqdm-tiny photographs first.npz \
  --steps 800 --crops 400
python -m compressai_uqdm.train_context uqdm-tiny photographs second.npz \
  --initial first.npz --steps 600 --crops 400 --learning-rate 5e-3 --seed 1
cp second.npz ../../compressai_uqdm/assets/uqdm-tiny/contexts.npz
