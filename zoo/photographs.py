"""Write the photographs that our own weights are trained on into a folder.

    python zoo/photographs.py photographs/

They come with Matplotlib, scikit-image and scikit-learn, and all are free to use:
astronaut (NASA), grace_hopper (US Navy), rocket (SpaceX): public domain; chelsea (Stefan
van der Walt), coffee (Rachel Michetti): CC0; china (danielbuechele), flower (vultilion):
CC BY 2.0.
"""

import sys

from pathlib import Path

import skimage.data

from matplotlib.cbook import get_sample_data
from PIL import Image
from sklearn.datasets import load_sample_image


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.png")
    with get_sample_data("grace_hopper.jpg") as file:
        Image.open(file).save(folder / "grace_hopper.png")
    for name in ("china", "flower"):
        Image.fromarray(load_sample_image(f"{name}.jpg")).save(folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
