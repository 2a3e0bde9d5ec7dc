"""Pillow's pictures as levels of red, green and blue, and back."""

import io
import re

from dataclasses import dataclass

import numpy as np

from PIL import ExifTags, Image, PngImagePlugin

from ..errors import DamagedFileError
from .header import Colour, Header
from .png import bare_png

__all__ = [
    "Parts",
    "describe",
    "exif_block",
    "orientation",
    "put_together",
    "take_apart",
]

EXIF_PREFIX = b"Exif\0\0"
"""What stands before EXIF in some kinds of files."""


@dataclass(frozen=True)
class Parts:
    """What is coded of a picture.

    Args:
        levels: uint8 ``[H, W, 3]``.
        colour: the mode to restore, but for the alpha channel.
        palette: its colours, 3 bytes each, where it has a palette.
        alpha: a grayscale PNG of its alpha channel, or nothing where all is opaque.
    """

    levels: np.ndarray
    colour: Colour
    palette: bytes = b""
    alpha: bytes = b""


def take_apart(image: Image.Image) -> Parts:
    """The parts of a picture.

    A palette or one colour that is transparent is a kind of alpha channel: such a picture
    comes back with one. An opaque channel is dropped.

    Raises:
        ValueError: it has more than 8 bits, other colours, or several frames.
    """
    # the second picture of a camera's MPO is a smaller copy, or of the depth
    frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
    if frames > 1:
        raise ValueError(
            f"expected one picture, got {frames} frames. Save one of them alone first"
        )
    stored = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
    # BGR;16 has 5 or 6 bits per channel
    if image.mode[0] in "IF" or re.search(r"(?<!BGR);(16|32)", stored):
        raise ValueError(
            "expected 8 bits per channel, got a picture with more "
            f"(mode {image.mode}). Convert it to 8 bits first"
        )
    if image.mode not in ("RGB", "L", "1", "P", "RGBA", "LA", "PA"):
        raise ValueError(
            "expected a picture in RGB, grayscale or with a palette, got mode "
            f'{image.mode}. Convert it first, as with convert("RGB")'
        )
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        if alpha.getextrema() != (255, 255):
            colour: Colour = "L" if image.mode in ("L", "LA", "1") else "RGB"
            return Parts(np.array(rgba)[..., :3], colour, alpha=_png(alpha))
        image = image.convert(image.mode.removesuffix("A"))
        image.info.pop("transparency", None)
    if image.mode != "P":
        colours: dict[str, Colour] = {"RGB": "RGB", "L": "L", "1": "1"}
        return Parts(np.array(image.convert("RGB")), colours[image.mode])
    # indexes beyond the palette are black
    indexes, palette = np.array(image), bytes(image.getpalette("RGB") or b"")
    palette = palette.ljust(3 * (int(indexes.max()) + 1), b"\0")
    levels = np.frombuffer(palette, np.uint8).reshape(-1, 3)[indexes]
    return Parts(levels, "P", palette)


def put_together(levels: np.ndarray, header: Header, exact: bool) -> Image.Image:
    """The inverse; a picture that is not exact keeps its shades."""
    if header.colour == "RGB" or (header.colour == "P" and not exact):
        image = Image.fromarray(levels)
    elif header.colour == "P":
        image = Image.fromarray(_indexes(levels, header.palette))
        image.putpalette(header.palette)
    else:
        gray = np.rint(levels.mean(-1)).astype(np.uint8)
        if exact and (levels != gray[..., None]).any():
            raise DamagedFileError("the picture has colours where the header tells of none")
        if header.colour == "1" and exact and not np.isin(gray, (0, 255)).all():
            raise DamagedFileError("the picture has grays where the header tells of none")
        image = Image.fromarray(gray)
        if header.colour == "1" and exact:
            image = image.convert("1", dither=Image.Dither.NONE)
    if header.alpha:
        image.putalpha(_alpha(header))
    describe(image, header)
    return image


def describe(image: Image.Image, header: Header) -> None:
    """Give a picture the ICC profile and the EXIF that a header tells of."""
    if header.icc_profile:
        image.info["icc_profile"] = header.icc_profile.unpack()
    if header.exif:
        image.info["exif"] = EXIF_PREFIX + header.exif.unpack()
        try:
            image.getexif()
        except Exception as error:  # Pillow's are of many kinds
            raise DamagedFileError(f"the EXIF cannot be read: {error}") from error
    if orientation(image) != header.orientation:
        image.getexif()[ExifTags.Base.Orientation] = header.orientation
        image.info["exif"] = image.getexif().tobytes()


def _png(alpha: Image.Image) -> bytes:
    file = io.BytesIO()
    alpha.save(file, "PNG", optimize=True)
    return bare_png(file.getvalue())  # metadata has fields of its own


def _alpha(header: Header) -> Image.Image:
    try:
        # not Image.open, which has a limit of its own
        image: Image.Image = PngImagePlugin.PngImageFile(io.BytesIO(bare_png(header.alpha)))
        if image.mode == "L" and image.size == header.size:  # before it takes memory
            image.load()
            return image
        found = f"{image.width} x {image.height} pixels in mode {image.mode}"
    except Exception as error:  # Pillow's are of many kinds
        found = f"{type(error).__name__}: {error}"
    raise DamagedFileError(f"the alpha channel is not that of the picture: {found}")


def _indexes(levels: np.ndarray, palette: bytes) -> np.ndarray:
    weights = np.array([1 << 16, 1 << 8, 1])
    colours = np.frombuffer(palette, np.uint8).reshape(-1, 3) @ weights
    unique, first = np.unique(colours, return_index=True)
    wanted = levels @ weights
    place = np.searchsorted(unique, wanted).clip(0, len(unique) - 1)
    if not np.array_equal(unique[place], wanted):
        raise DamagedFileError("the palette is not that of the picture")
    return first[place].astype(np.uint8)


# ---- EXIF ----


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8, of a picture."""
    found = _exif(image).get(ExifTags.Base.Orientation, 1)
    return found if found in range(1, 9) else 1


def exif_block(image: Image.Image) -> bytes:
    """The EXIF of a picture, as it stands in its file, or nothing.

    Of a TIFF, whose own tags these are, there is none, and none where it says nothing
    beyond the orientation.
    """
    raw = image.info.get("exif") or b""
    exif = _exif(image)
    in_file = Image.Exif()
    if not set(exif) - {ExifTags.Base.Orientation} or image.format == "TIFF":
        return b""
    if raw:
        in_file.load(raw)
    # what a program has changed since stands in the picture's Exif alone
    block: bytes = raw if dict(in_file) == dict(exif) else exif.tobytes()
    return block.removeprefix(EXIF_PREFIX)


def _exif(image: Image.Image) -> Image.Exif:
    """What can be read: an empty one where it is damaged."""
    try:
        return image.getexif()
    except Exception:  # Pillow's are of many kinds
        return Image.Exif()
