"""Other codecs, by Pillow, at no more bytes than are given."""

import bisect
import io
import math

from collections.abc import Sequence
from typing import Any

import numpy as np

from PIL import Image

__all__ = ["RIVALS", "largest", "opened", "psnr"]

RIVALS = ("JPEG", "WebP", "JPEG 2000")

Options = dict[str, Any]


def largest(image: Image.Image, name: str, max_bytes: int) -> bytes | None:
    """The best file of one of ``RIVALS`` that fits, or None if none does.

    Args:
        image: RGB.
        name: of the codec.
        max_bytes: largest size of the file.
    """
    fitting = []
    for choices in _choices(name, image.size, max_bytes):
        fit = bisect.bisect_right(choices, max_bytes, key=lambda o: len(_saved(image, o)))
        if fit:  # the search has seen the one before it, and that it fits
            fitting.append(_saved(image, choices[fit - 1]))
    return max(fitting, key=lambda data: psnr(opened(data), image), default=None)


def _choices(name: str, size: tuple[int, int], max_bytes: int) -> list[Sequence[Options]]:
    """Lists of Pillow's options, each from small files to large."""
    if name == "JPEG":
        base: Options = {"format": "JPEG", "optimize": True, "progressive": True}
        return [
            [base | {"subsampling": chroma, "quality": q} for q in range(1, 101)]
            for chroma in ("4:2:0", "4:4:4")
        ]
    if name == "WebP":
        base = {"format": "WEBP"}
        return [[*(base | {"quality": q} for q in range(101)), base | {"lossless": True}]]
    # without its colour transform the files would be twice as large
    base = {"format": "JPEG2000", "mct": 1, "no_jp2": True}
    lossy = base | {"irreversible": True, "quality_mode": "rates"}
    ratio = 3 * size[0] * size[1] / max_bytes  # is met but about
    ratios = [max(1, ratio * over) for over in (1.2, 1.1, 1.05, 1.02, 1.01, 1.005, 1)]
    return [[*(lossy | {"quality_layers": [r]} for r in ratios), base]]


def _saved(image: Image.Image, options: Options) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def opened(data: bytes) -> Image.Image:
    """The picture in a file of Pillow's, RGB."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def psnr(image: Image.Image, original: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB of RGB, infinite for the exact picture."""
    mse = float(np.mean((np.asarray(image, np.float64) - np.asarray(original)) ** 2))
    return 10 * math.log10(255**2 / mse) if mse else math.inf
