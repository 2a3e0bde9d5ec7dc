"""Pillow's pictures as levels of red, green and blue, and back."""

import functools
import io
import os
import re

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from PIL import Image, ImageFile, PngImagePlugin

from ..errors import DamagedFileError
from . import exif
from .header import Colour, Header
from .png import bare_png

__all__ = [
    "Planes",
    "check_depth",
    "check_no_program",
    "describe",
    "from_planes",
    "to_planes",
]


@dataclass(frozen=True)
class Planes:
    """What is coded of a picture.

    Args:
        levels: RGB, uint8 ``[H, W, 3]``.
        colour: the mode to restore, but for the alpha channel.
        palette: RGB of each colour, where the picture has a palette.
        transparency: opacity, 0..255, of each colour of the palette, where not all of
            them are opaque.
        alpha: opacity of each pixel, uint8 ``[H, W]``, where not all are opaque.
    """

    levels: np.ndarray
    colour: Colour
    palette: bytes = b""
    transparency: bytes = b""
    alpha: np.ndarray | None = None

    @functools.cached_property
    def alpha_png(self) -> bytes:
        """The alpha channel as a grayscale PNG, or nothing."""
        if self.alpha is None:
            return b""
        file = io.BytesIO()
        Image.fromarray(self.alpha).save(file, "PNG", optimize=True)
        return file.getvalue()


def to_planes(image: Image.Image) -> Planes:
    """Take a picture apart.

    One colour that is transparent is a kind of alpha channel: a picture in RGB or
    grayscale comes back with one. An opaque channel is dropped.

    Raises:
        ValueError: the picture has more than 8 bits, other colours, or several frames.
    """
    # the second picture of a camera's MPO is a smaller copy, or of the depth
    frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
    if frames > 1:
        raise ValueError(
            f"expected one picture, got {frames} frames. Save one of them alone first"
        )
    check_depth(image)
    check_no_program(image)
    image.load()  # which gives pictures in icon files their mode and size
    if image.mode not in ("RGB", "L", "1", "P", "RGBA", "LA", "PA"):
        raise ValueError(
            "expected a picture in RGB, grayscale or with a palette, got mode "
            f'{image.mode}. Convert it first, as with convert("RGB")'
        )
    if image.mode in ("P", "PA") and image.palette is None:  # Pillow's of some icons
        raise ValueError(
            f"expected a palette with a picture of mode {image.mode}, and it has none: "
            "convert the file to PNG first"
        )
    alpha = None
    if image.has_transparency_data:
        channel = _opacities(image)
        if channel.getextrema() != (255, 255):
            alpha = np.array(channel)
    if image.mode == "PA" and alpha is None:
        image = image.convert("P")
    if image.mode == "P" and (planes := _with_palette(image, alpha)):
        return planes
    colour: Colour = "L" if image.mode in ("L", "LA") else "RGB"
    if image.mode == "1":
        colour = "1" if alpha is None else "L"
    if alpha is not None:  # without it, the levels of transparent pixels would be lost
        return Planes(np.array(image.convert("RGBA"))[..., :3], colour, alpha=alpha)
    return Planes(np.array(image.convert(colour).convert("RGB")), colour)


def _with_palette(image: Image.Image, alpha: np.ndarray | None) -> Planes | None:
    """The same of a picture with a palette, or None where that lacks its transparency."""
    indexes, palette = np.array(image), bytes(image.getpalette("RGB") or b"")
    # indexes beyond the palette are black
    palette = palette.ljust(3 * (int(indexes.max()) + 1), b"\0")
    transparency = b""
    if image.has_transparency_data:
        # a palette may have opacities, info["transparency"] some, and the latter override
        every = Image.frombytes("P", (256, 1), bytes(range(256)))
        every.putpalette(image.getpalette("RGBA") or b"", "RGBA")
        every.info = image.info
        opacities = _opacities(every).tobytes()[: len(palette) // 3]
        expected = 255 if alpha is None else alpha
        if (np.frombuffer(opacities, np.uint8)[indexes] != expected).any():
            return None
        transparency = opacities.rstrip(b"\xff")
    return Planes(distinct_colours(palette)[indexes], "P", palette, transparency, alpha)


def _opacities(image: Image.Image) -> Image.Image:
    """The alpha channel of a picture that has one, or transparent colours.

    Raises:
        ValueError: its transparent colour is none of its mode's.
    """
    try:
        return image.convert("RGBA").getchannel("A")
    except (TypeError, ValueError) as error:
        given = image.info.get("transparency")
        raise ValueError(
            f'expected a transparent colour of mode {image.mode} in info["transparency"], '
            f"got {given!r}: correct it, or remove it from there"
        ) from error


def from_planes(
    levels: np.ndarray, header: Header, exact: bool, alpha: np.ndarray | None = None
) -> Image.Image:
    """Put a picture together again; one that is not exact keeps its shades.

    Args:
        levels: RGB, uint8 ``[H, W, 3]``.
        header: the file's.
        exact: whether the levels are those of the original.
        alpha: opacity of each pixel, where it was coded with the levels.

    Raises:
        DamagedFileError: header and levels contradict each other.
    """
    if header.alpha:
        alpha = _read_alpha(header)
    if header.colour == "P" and exact:
        image = Image.fromarray(_indexes(levels, header.palette))
        image.putpalette(header.palette)
        alpha = None  # the palette has it
    elif header.colour in ("RGB", "P"):
        image = Image.fromarray(levels)
    else:
        gray = np.rint(levels.mean(-1)).astype(np.uint8)
        if exact and (levels != gray[..., None]).any():
            raise DamagedFileError("the picture has colours where the header says gray")
        if header.colour == "1" and exact and not np.isin(gray, (0, 255)).all():
            raise DamagedFileError(
                "the picture has grays where the header says black and white"
            )
        image = Image.fromarray(gray)
        if header.colour == "1" and exact:
            image = image.convert("1", dither=Image.Dither.NONE)
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    describe(image, header)
    return image


def describe(image: Image.Image, header: Header) -> None:
    """Give a picture the ICC profile, the EXIF and the transparency of its file."""
    if header.icc_profile:
        image.info["icc_profile"] = header.icc_profile.unpack()
    block = exif.without_prefix(header.exif.unpack())
    if exif.read_orientation(block) != header.orientation:
        block = exif.with_orientation(block, header.orientation)
    if block:
        image.info["exif"] = exif.PREFIX + block
    if image.mode == "P" and header.transparency:
        image.info["transparency"] = _transparency(header.transparency)


def _transparency(entries: bytes) -> int | bytes:
    """As Pillow has it: the index of the one transparent colour, or all opacities."""
    if set(entries[:-1]) <= {255} and entries[-1] == 0:
        return len(entries) - 1
    return entries


def _read_alpha(header: Header) -> np.ndarray:
    try:
        # not Image.open, which has a limit of its own
        image: Image.Image = PngImagePlugin.PngImageFile(io.BytesIO(bare_png(header.alpha)))
        if image.mode == "L" and image.size == header.size:  # before it takes memory
            return np.array(image)
        found = f"{image.width} x {image.height} pixels in mode {image.mode}"
    except Exception as error:  # Pillow's are of many kinds
        found = f"{type(error).__name__}: {error}"
    raise DamagedFileError(f"the alpha channel is not that of the picture: {found}")


# ---- depth ----


def check_no_program(image: Image.Image) -> None:
    """Raise a ValueError where Pillow would run another program to load a picture."""
    if image.format == "EPS" and getattr(image, "tile", None):
        raise ValueError(
            "expected a picture, got a program in PostScript, which Pillow would have "
            "Ghostscript run. Convert it to PNG first, if you trust it"
        )


def check_depth(image: Image.Image) -> None:
    """Raise a ValueError where a picture, or its file, has more than 8 bits per channel."""
    if image.mode[0] in "IF" or _is_deep(image):
        raise ValueError(
            "expected 8 bits per channel, got a picture with more "
            f"(mode {image.mode}). Convert it to 8 bits first"
        )


def _is_deep(image: Image.Image) -> bool:
    """Whether the file has more than 8 bits per channel where Pillow's mode has 8.

    Pillow keeps what tells it until the picture is loaded, and in some formats only the
    file itself tells it. A file that is closed by then, as always when ``Image.save`` calls
    us, is opened once more, if the program opened it by its name.
    """
    depth = image.info.get("bit_depth")  # of pillow-heif
    if isinstance(depth, int) and depth > 8:
        return True
    if not isinstance(image, ImageFile.ImageFile):
        return False
    if image.fp is None:
        with suppress(Exception):  # it may be gone, or another one by now
            if os.path.isfile(image.filename):
                with type(image)(image.filename) as again:
                    return again.size == image.size and _is_deep(again)
    for codec, _, _, args in image.tile:
        if codec == "SGI16":
            return True
        last = args[-1] if isinstance(args, tuple) else None  # of a bitmap, its mode
        if codec in ("ppm", "ppm_plain") and isinstance(last, int) and last > 255:
            return True
        # BGR;16 has 5 or 6 bits per channel; BC6H has floating-point numbers
        if re.search(r"(?<!BGR);(10|12|14|16|24|32|64)|BC6H", str(args)):
            return True
    if image.format == "TIFF":
        return _is_deep_tiff(getattr(image, "tag_v2", {}))
    return any(
        _largest_depth(_file_of(image), marker, depth_of) > 8
        for marker, depth_of in _DEPTHS.get(image.format or "", ())
    )


def _file_of(image: Image.Image) -> bytes:
    """All of the file that a picture was opened from, while that is open."""
    file = getattr(image, "fp", None)
    if file is None:
        return b""
    at = file.tell()
    file.seek(0)
    try:
        return bytes(file.read())
    finally:
        file.seek(at)


def _largest_depth(data: bytes, marker: bytes, depth: Callable[[bytes], int]) -> int:
    """Most bits per channel by what follows these markers, or 0."""
    largest, at = 0, data.find(marker)
    while at >= 0:
        at += len(marker)
        with suppress(IndexError):  # Pillow will say what is wrong with the file
            largest = max(largest, depth(data[at : at + (1 << 16)]))
        at = data.find(marker, at)
    return largest


def _jpeg_2000_depth(segment: bytes) -> int:
    # SIZ (ISO 15444-1, A.5.1): 36 bytes, the number of components, three bytes of each
    count = int.from_bytes(segment[36:38], "big")
    return max((1 + (segment[38 + 3 * i] & 127) for i in range(count)), default=0)


def _av1_depth(box: bytes) -> int:
    # AV1CodecConfigurationRecord: high_bitdepth and twelve_bit are bits of its third byte
    return 12 if box[2] & 0x20 else 10 if box[2] & 0x40 else 8


def _png_depth(chunk: bytes) -> int:
    return chunk[8]  # after width and height


_JPEG_2000 = (b"\xff\x4f\xff\x51", _jpeg_2000_depth)
_PNG = (b"\r\n\x1a\n\0\0\0\rIHDR", _png_depth)
_DEPTHS: dict[str, list[tuple[bytes, Callable[[bytes], int]]]] = {
    "AVIF": [(b"av1C", _av1_depth)],
    "ICNS": [_PNG, _JPEG_2000],
    "ICO": [_PNG],
    "JPEG2000": [_JPEG_2000],
}
"""What comes before the depth in files whose depth Pillow does not tell."""

_BITS_PER_SAMPLE, _COLOUR_MAP = 258, 320


def _is_deep_tiff(tags: Mapping[int, Any]) -> bool:
    """Whether samples, or the 16-bit colours of a palette, need more than 8 bits."""
    if max(tags.get(_BITS_PER_SAMPLE) or (1,)) > 8:
        return True
    # as programs write 8 bits in 16
    return any(v % 257 and v % 256 for v in tags.get(_COLOUR_MAP) or ())


# ---- palettes ----


def distinct_colours(palette: bytes) -> np.ndarray:
    """Return the colours that a picture with a palette is coded in, uint8 ``[n, 3]``.

    They are those of the palette, but a colour that has an earlier index as well is
    replaced by a near one that the palette lacks: so every index has a colour of its own,
    and comes back. ``docs/format.md`` has the rule.
    """
    numbers = np.frombuffer(palette, np.uint8).reshape(-1, 3) @ [1 << 16, 1 << 8, 1]
    taken, seen = set(numbers.tolist()), set[int]()
    for i, number in enumerate(numbers.tolist()):
        step = 0
        while number in seen or (step and number in taken):
            step += 1
            number = int(numbers[i]) ^ _interleaved(step)
        numbers[i] = number
        seen.add(number)
        taken.add(number)
    return np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], -1).astype(np.uint8)


def _interleaved(number: int) -> int:
    """Bits of a number dealt in turn to blue, green and red, the lowest first."""
    return sum((number >> i & 1) << i // 3 + 8 * (i % 3) for i in range(24))


def _indexes(levels: np.ndarray, palette: bytes) -> np.ndarray:
    weights = np.array([1 << 16, 1 << 8, 1])
    colours = distinct_colours(palette) @ weights
    order = np.argsort(colours)
    wanted = levels @ weights
    place = np.searchsorted(colours, wanted, sorter=order).clip(0, len(colours) - 1)
    found = order[place]
    if not np.array_equal(colours[found], wanted):
        raise DamagedFileError("the palette is not that of the picture")
    return found.astype(np.uint8)
