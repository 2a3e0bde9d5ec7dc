"""Pillow's pictures as levels of red, green and blue, and back."""

import re

import numpy as np

from PIL import ExifTags, Image

from ..errors import DamagedFileError
from .header import Colour, Header

__all__ = ["describe", "orientation", "put_together", "take_apart"]


def take_apart(image: Image.Image) -> tuple[np.ndarray, Colour, bytes]:
    """Levels, uint8 ``[H, W, 3]``, and the mode and palette to restore.

    Raises:
        ValueError: it has an alpha channel, more than 8 bits, or other colours.
    """
    # the second picture of a camera's MPO is a smaller copy, or of the depth
    frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
    if frames > 1:
        raise ValueError(f"expected one picture, got {frames} frames")
    if image.has_transparency_data:
        raise ValueError(
            "transparency cannot be coded: expected a picture without an alpha channel, "
            f'got mode {image.mode}. Drop it first, as with convert("RGB")'
        )
    stored = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
    # BGR;16 has 5 or 6 bits per channel
    if image.mode[0] in "IF" or re.search(r"(?<!BGR);(16|32)", stored):
        raise ValueError(
            "expected 8 bits per channel, got a picture with more "
            f"(mode {image.mode}). Convert it to 8 bits first"
        )
    colour: Colour
    if image.mode == "RGB":
        colour = "RGB"
    elif image.mode == "L":
        colour = "L"
    elif image.mode == "1":
        colour = "1"
    elif image.mode == "P":
        colour = "P"
    else:
        raise ValueError(
            "expected a picture in RGB, grayscale or with a palette, got mode "
            f'{image.mode}. Convert it first, as with convert("RGB")'
        )
    if colour != "P":
        return np.array(image.convert("RGB")), colour, b""
    # indexes beyond the palette are black
    indexes, palette = np.array(image), bytes(image.getpalette("RGB") or b"")
    palette = palette.ljust(3 * (int(indexes.max()) + 1), b"\0")
    return np.frombuffer(palette, np.uint8).reshape(-1, 3)[indexes], colour, palette


def put_together(levels: np.ndarray, header: Header, exact: bool) -> Image.Image:
    """The inverse; a picture that is not exact keeps its shades."""
    gray = np.rint(levels.mean(-1)).astype(np.uint8)
    if header.colour == "RGB" or (header.colour == "P" and not exact):
        image = Image.fromarray(levels)
    elif header.colour == "P":
        image = Image.fromarray(_indexes(levels, header.palette))
        image.putpalette(header.palette)
    elif exact and (levels != gray[..., None]).any():
        raise DamagedFileError("the picture has colours where the header tells of none")
    elif header.colour == "1" and exact and not np.isin(gray, (0, 255)).all():
        raise DamagedFileError("the picture has grays where the header tells of none")
    else:
        image = Image.fromarray(gray)
        if header.colour == "1" and exact:
            image = image.convert("1", dither=Image.Dither.NONE)
    describe(image, header)
    return image


def describe(image: Image.Image, header: Header) -> None:
    """Give a picture the ICC profile and the EXIF that a header tells of."""
    if header.icc_profile:
        image.info["icc_profile"] = header.icc_profile
    if header.orientation != 1:
        image.getexif()[ExifTags.Base.Orientation] = header.orientation
        image.info["exif"] = image.getexif().tobytes()


def _indexes(levels: np.ndarray, palette: bytes) -> np.ndarray:
    weights = np.array([1 << 16, 1 << 8, 1])
    colours = np.frombuffer(palette, np.uint8).reshape(-1, 3) @ weights
    unique, first = np.unique(colours, return_index=True)
    wanted = levels @ weights
    place = np.searchsorted(unique, wanted).clip(0, len(unique) - 1)
    if not np.array_equal(unique[place], wanted):
        raise DamagedFileError("the palette is not that of the picture")
    return first[place].astype(np.uint8)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8, of a picture."""
    found = image.getexif().get(ExifTags.Base.Orientation, 1)
    return found if found in range(1, 9) else 1
