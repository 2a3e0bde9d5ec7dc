#!/usr/bin/env bash
# How the context of uqdm-tiny was fitted: some fifteen minutes on one core.
set -euo pipefail
cd "$(dirname "$0")"
pip install matplotlib scikit-image scikit-learn
python ../photographs.py photographs
python -m compressai_uqdm.train_context uqdm-tiny photographs first.npz \
  --steps 800 --crops 400
python -m compressai_uqdm.train_context uqdm-tiny photographs second.npz \
  --initial first.npz --steps 600 --crops 400 --learning-rate 5e-3 --seed 1
cp second.npz ../../compressai_uqdm/contexts/uqdm-tiny.npz
