#!/usr/bin/env bash
# How weights like those of uqdm-photo are made, on Debian 12 or a kin of it: some
# twenty hours on one core that has nothing else to do. CREDITS.md names the
# photographs, their authors and licences; the four held-out ones are never trained on.
#
#     zoo/uqdm-photo/recipe.sh photographs/ runs/photo
#
# The weights in the package were made by throw-away code of the same losses
# (experiments.md): this gives their like, not the same numbers.
set -euo pipefail
mkdir -p "$1/train" "$1/test" "$1/packages" "$2"
photographs=$(cd "$1" && pwd) runs=$(cd "$2" && pwd)

cd "$photographs/packages"
apt-get download mate-backgrounds plasma-workspace-wallpapers \
  lomiri-wallpapers-16.04 lomiri-wallpapers-20.04
for package in *.deb; do
  dpkg-deb -x "$package" .
done
cd usr/share
for name in Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm \
  TwoWings Wood YellowFlower; do
  cp "backgrounds/mate/nature/$name.jpg" "$photographs/train"
done
for name in BytheWater ColdRipple ColorfulCups DarkestHour FallenLeaf Grey Kite \
  OneStandsOut Path summer_1am; do
  cp "wallpapers/$name/contents/images/2560x1600.jpg" "$photographs/train/$name.jpg"
done
cp wallpapers/Volna/contents/images/5120x2880.jpg "$photographs/train/Volna.jpg"
for name in Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Kleiber_by_Lukas_Baubkus \
  Picture_0B_by_freespace Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi \
  free_by_Peter_Nerlich greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi \
  seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi; do
  cp "backgrounds/$name.jpg" "$photographs/train"
done
cp wallpapers/EveningGlow/contents/images/2560x1600.jpg "$photographs/test/EveningGlow.jpg"
for name in Picture_1A_by_freespace friends_by_Aitzol_Berasategi \
  picosdeeuropa_by_Aitzol_Berasategi; do
  cp "backgrounds/$name.jpg" "$photographs/test"
done
pip install scikit-image
python - "$photographs/train" <<'PYTHON'
import sys

import skimage.data

from PIL import Image

for name in ("astronaut", "chelsea", "coffee", "rocket"):
    Image.fromarray(getattr(skimage.data, name)()).save(f"{sys.argv[1]}/{name}.png")
PYTHON
cd "$runs"

# One stage of the finest width first: all networks start well from it. Crops are box-averaged
# by 2, 3 and 4, as JPEG files need it.
python -m compressai_uqdm.train_dct "$photographs" fine.npz --test "$photographs" \
  --quantization-steps 8 --dead-zones 0.35 --steps 8000
python -m compressai_uqdm.train_dct "$photographs" weights.npz --test "$photographs" \
  --initial fine.npz --steps 8000
