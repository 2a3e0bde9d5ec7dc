"""Bits that other codecs take for pictures as good as those of a model's stages.

    python eval/same_quality.py kodak/ eval/results/kodak/uqdm-photo-denoise.json out.json

"As good" is the PSNR of the mean squared error over all images, with one setting of quality
for all. Curves of other_codecs.py have few points, and a straight line between two of them
takes more bits than the codec does. Here settings are narrowed down, by real files, until
two neighbours enclose the PSNR: 0.05 dB apart for JPEG 2000, whose setting is a PSNR, one
whole step for the others. The line is drawn between these.
"""

import argparse
import functools
import json

from collections.abc import Callable
from pathlib import Path

import numpy as np

from curves import psnr
from images import ImageSet, InputError
from other_codecs import CODECS, Codec, Missing
from PIL import Image
from runs import run_program, write_json

NAMES = ("JPEG 2000", "WebP", "AVIF", "JPEG XL", "JPEG", "JPEG 4:4:4")
STEPS = {"JPEG 2000": 0.05}
"""How close settings come to each other; whole numbers for those not listed."""

Point = tuple[float, float]  # bits per pixel, PSNR


def measure(codec: Codec, images: ImageSet, quality: float) -> Point:
    """What a codec makes of all images."""
    assert codec.code is not None
    rates, errors, values = [], 0, 0
    for image in images:
        coded = codec.code(Image.fromarray(image), quality)
        rates.append(coded.bits / (image.shape[0] * image.shape[1]))
        errors += int(np.square(image.astype(np.int64) - coded.image).sum())
        values += image.size
    return float(np.mean(rates)), psnr(errors / values, values)


def enclose(
    point: Callable[[float], Point], low: float, high: float, wanted: float, step: float
) -> list[tuple[float, Point]] | None:
    """Two neighbouring settings, one below the PSNR and one not; None if none are."""
    if not point(low)[1] < wanted <= point(high)[1]:
        return None
    while high - low > step:
        middle = (low + high) / 2 if step < 1 else (low + high) // 2
        if point(middle)[1] < wanted:
            low = middle
        else:
            high = middle
    return [(low, point(low)), (high, point(high))]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("images", type=Path, help="folder, or .npy or .npz of images")
    parser.add_argument("model", type=Path, help="result file of evaluate.py")
    parser.add_argument("output", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)

    images = ImageSet(args.images)
    model = json.loads(args.model.read_text())
    if model["images"]["digest"] != images.digest:
        raise InputError(f"{args.model} is of other images than {images.path}")
    stages = list(zip(model["results"]["bpp"], model["results"]["psnr-of-mean-mse"]))
    out = {"model": model["name"], "images": images.describe(), "stages": stages}
    out["codecs"] = {}
    for name in NAMES:
        try:
            codec = CODECS[name]()
        except Missing as missing:
            print(f"{name}: missing: {missing}")
            continue
        point = functools.cache(functools.partial(measure, codec, images))
        rows = []
        for bpp, wanted in stages:
            step = STEPS.get(name, 1)
            found = enclose(point, codec.quality[0], codec.quality[-1], wanted, step)
            if found is None:
                rows.append(None)
                continue
            settings, points = zip(*found)
            rates, values = zip(*points)
            taken = float(np.interp(wanted, values, rates))
            rows.append({"settings": settings, "bpp": rates, "psnr": values, "at": taken})
            print(f"{name}: {taken:.3f} at {wanted:.2f} dB, ours {bpp / taken - 1:+.1%}")
        out["codecs"][name] = {"description": codec.description, "stages": rows}
    write_json(args.output, out)


if __name__ == "__main__":
    run_program(main)
