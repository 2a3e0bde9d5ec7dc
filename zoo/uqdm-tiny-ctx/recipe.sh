#!/usr/bin/env bash
# How the contexts of uqdm-tiny are fitted: about an hour on one core.
#
# Those in the package were made by earlier versions of the command: those of latents from
# the photographs of Python packages without face.png, with the factors 1..5 of the crops
# drawn in another way; that of pixels from 6,500 crops, some of them made smaller by
# other filters than a box. This gives their like, not the same numbers.
set -euo pipefail
cd "$(dirname "$0")"
pip install matplotlib scikit-image scikit-learn
python ../photographs.py photographs
apt-get download mate-backgrounds plasma-workspace-wallpapers
for package in *.deb; do dpkg-deb -x "$package" unpacked; done
cd unpacked/usr/share
for name in Aqua Blinds Dune LadyBird Storm TwoWings Wood YellowFlower; do
  cp "backgrounds/mate/nature/$name.jpg" ../../../photographs/
done
for name in BytheWater ColdRipple ColorfulCups DarkestHour FallenLeaf Grey Kite \
  OneStandsOut Path summer_1am; do
  cp "wallpapers/$name/contents/images/2560x1600.jpg" "../../../photographs/$name.jpg"
done
cp wallpapers/Volna/contents/images/5120x2880.jpg ../../../photographs/Volna.jpg
cd ../../..
python -m compressai_uqdm.train_context uqdm-tiny photographs first.npz \
  --steps 800 --crops 2500 --pixel-steps 6000
python -m compressai_uqdm.train_context uqdm-tiny photographs second.npz \
  --initial first.npz --steps 600 --crops 4000 --learning-rate 5e-3 \
  --pixel-steps 3500 --pixel-learning-rate 1.5e-3 --seed 1
cp second.npz ../../compressai_uqdm/assets/uqdm-tiny/contexts.npz
