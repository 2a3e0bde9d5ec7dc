"""Graphics: what a file takes, beside PNG, lossless WebP and JPEG XL.

    python eval/graphics.py [--output eval/results/graphics.json]

Draws a page of text, a screenshot, a line drawing and a flat picture, with Pillow's own
font, encodes each with the default model, decodes it and compares every pixel.
"""

import argparse
import io
import json
import math
import random
import time

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from compressai_uqdm.files.decoding import decode
from compressai_uqdm.files.encoding import encode

WORDS = (
    "a codec of photographs meets a page of text whose letters repeat themselves and has "
    "to pay for every edge again while others point back to where they saw it first"
).split()


def text_page(size: tuple[int, int] = (640, 400)) -> Image.Image:
    """Black letters on white."""
    image, rng = Image.new("RGB", size, "white"), random.Random(0)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    for y in range(12, size[1] - 20, 18):
        draw.text((20, y), " ".join(rng.choices(WORDS, k=13)), "black", font)
    return image


def screenshot(size: tuple[int, int] = (1280, 720)) -> Image.Image:
    """Windows with bars, buttons, text and a gradient."""
    image, rng = Image.new("RGB", size, (46, 52, 64)), random.Random(1)
    gradient = Image.linear_gradient("L").resize(size)
    image = Image.blend(image, Image.merge("RGB", [gradient] * 3), 0.15)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for left, top, right, bottom in ((40, 40, 700, 560), (520, 150, 1220, 690)):
        draw.rounded_rectangle((left, top, right, bottom), 9, (236, 239, 244))
        draw.rounded_rectangle((left, top, right, top + 34), 9, (76, 86, 106))
        for i, colour in enumerate(("#bf616a", "#ebcb8b", "#a3be8c")):
            draw.ellipse(
                (left + 12 + 22 * i, top + 11, left + 24 + 22 * i, top + 23), colour
            )
        for y in range(top + 50, bottom - 20, 17):
            words = " ".join(rng.choices(WORDS, k=9))
            draw.text((left + 20, y), words, (46, 52, 64), font)
    return image


def line_drawing(size: tuple[int, int] = (1024, 768)) -> Image.Image:
    """Curves and circles with smooth edges."""
    large, rng = Image.new("L", (2 * size[0], 2 * size[1]), 255), random.Random(2)
    draw = ImageDraw.Draw(large)
    for _ in range(40):
        x, y, r = rng.randrange(2048), rng.randrange(1536), rng.randrange(20, 300)
        draw.ellipse((x - r, y - r, x + r, y + r), outline=0, width=3)
        phase = rng.random() * 6
        points = [(t * 20, y + 80 * math.sin(t / 9 + phase)) for t in range(103)]
        draw.line(points, 60, 4, "curve")
    return large.resize(size, Image.Resampling.BOX).convert("RGB")


def one_colour(size: tuple[int, int] = (640, 480)) -> Image.Image:
    """Nothing."""
    return Image.new("RGB", size, (30, 144, 255))


PICTURES: dict[str, Callable[[], Image.Image]] = {
    "text page, 640x400": text_page,
    "screenshot, 1280x720": screenshot,
    "line drawing, 1024x768": line_drawing,
    "one colour, 640x480": one_colour,
}


def sizes(image: Image.Image) -> dict[str, Any]:
    """Bytes of the same picture in files without loss, and the seconds of ours."""
    start = time.process_time()
    data = encode(image)
    seconds = time.process_time() - start
    picture = decode(data)
    if not picture.exact or picture.image.tobytes() != image.tobytes():
        raise RuntimeError("the picture that was decoded is another")
    start = time.process_time()
    stages = encode(image, stages=6)
    found: dict[str, Any] = {
        "uqdm": len(data),
        "uqdm, stages": len(stages),
        "processor seconds": round(seconds, 2),
        "processor seconds, stages": round(time.process_time() - start, 2),
    }
    options: dict[str, dict[str, Any]] = {
        "PNG": {"optimize": True},
        "WEBP": {"lossless": True, "quality": 100, "method": 6},
    }
    try:
        import pillow_jxl  # noqa: F401
    except ImportError:
        pass
    else:
        options["JXL"] = {"lossless": True, "effort": 9}
    for kind, given in options.items():
        file = io.BytesIO()
        image.save(file, kind, **given)
        found[kind] = len(file.getvalue())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--output", type=Path, help="also write the table as JSON")
    args = parser.parse_args()
    table = {}
    for name, draw in PICTURES.items():
        table[name] = sizes(draw())
        print(name, table[name], flush=True)
    if args.output:
        args.output.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
