"""Write the photographs that our own weights are trained on into a folder.

    pip install matplotlib scikit-image scikit-learn
    python zoo/photographs.py photographs/

They come with Matplotlib, scikit-image, scikit-learn and, until 1.9, SciPy, and all are
free to use: astronaut (NASA), grace_hopper (US Navy), rocket (SpaceX), face (a raccoon,
from public-domain-image.com): public domain; chelsea (Stefan van der Walt), coffee
(Rachel Michetti): CC0; china (danielbuechele), flower (vultilion): CC BY 2.0.
"""

import bz2
import subprocess
import sys
import tempfile
import zipfile

from pathlib import Path

import numpy as np
import skimage.data

from matplotlib.cbook import get_sample_data
from PIL import Image
from sklearn.datasets import load_sample_image

SCIPY = "scipy==1.9.3"  # later ones download the raccoon from a place of their own


def raccoon() -> np.ndarray:
    """``face`` of SciPy: uint8, [768, 1024, 3]."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder),
                *("--only-binary", ":all:", "--python-version", "3.10"),
                *("--platform", "manylinux2014_x86_64", SCIPY),
            ],
            check=True,
        )
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            data = bz2.decompress(archive.read("scipy/misc/face.dat"))
    return np.frombuffer(data, np.uint8).reshape(768, 1024, 3)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.png")
    with get_sample_data("grace_hopper.jpg") as file:
        Image.open(file).save(folder / "grace_hopper.png")
    for name in ("china", "flower"):
        Image.fromarray(load_sample_image(f"{name}.jpg")).save(folder / f"{name}.png")
    Image.fromarray(raccoon()).save(folder / "face.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
