"""Make the pictures of the documentation, with the weights in the package.

python docs/pictures.py
"""

from pathlib import Path

from PIL import Image

import compressai_uqdm

DOCS = Path(__file__).parent
PHOTOGRAPH = DOCS.parent / "tests/data/photograph.png"
GAP = 4


def row(pictures: list[Image.Image], scale: int = 1) -> Image.Image:
    """Pictures of one size beside each other, transparent in between."""
    width, height = pictures[0].width * scale, pictures[0].height * scale
    whole = Image.new("RGBA", ((width + GAP) * len(pictures) - GAP, height))
    for i, picture in enumerate(pictures):
        large = picture.resize((width, height), Image.Resampling.NEAREST)
        whole.paste(large, (i * (width + GAP), 0))
    return whole


def received(photograph: Image.Image, shares: list[float]) -> list[Image.Image]:
    """What is seen of these shares of the file's bytes."""
    data = compressai_uqdm.encode(photograph)
    cut = [data[: round(share * len(data))] for share in shares]
    return [compressai_uqdm.decode(part).image for part in cut]


def main() -> None:
    photograph = Image.open(PHOTOGRAPH).convert("RGB")
    images = DOCS / "images"
    images.mkdir(exist_ok=True)
    whole = row(received(photograph, [0.02, 0.05, 1]))
    whole.save(images / "stages.webp", quality=92)
    middle = photograph.crop((80, 60, 240, 180))  # the tutorial's
    row(received(middle, [0.02, 0.05, 0.2, 1]), 2).save(images / "cuts.webp", quality=92)


if __name__ == "__main__":
    main()
