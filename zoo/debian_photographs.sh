#!/usr/bin/env bash
# Adds to a folder the photographs of Debian 12's wallpapers that contexts of pixels are
# fitted to (uqdm-tiny-ctx/PHOTOGRAPHS.md names their authors and licences).
#
#     zoo/debian_photographs.sh photographs/
set -euo pipefail
mkdir -p "$1"
photographs=$(cd "$1" && pwd) packages=$(mktemp -d)
trap 'rm -r "$packages"' EXIT
cd "$packages"
apt-get download mate-backgrounds plasma-workspace-wallpapers
for package in *.deb; do
  dpkg-deb -x "$package" .
done
cd usr/share
for name in Aqua Blinds Dune LadyBird Storm TwoWings Wood YellowFlower; do
  cp "backgrounds/mate/nature/$name.jpg" "$photographs"
done
for name in BytheWater ColdRipple ColorfulCups DarkestHour FallenLeaf Grey Kite \
  OneStandsOut Path summer_1am; do
  cp "wallpapers/$name/contents/images/2560x1600.jpg" "$photographs/$name.jpg"
done
cp wallpapers/Volna/contents/images/5120x2880.jpg "$photographs/Volna.jpg"
