"""EXIF blocks: kept byte by byte, read without trust, changed as little as possible.

A block is a TIFF structure: a byte order, the offset of the first directory, and the
directory, twelve bytes an entry, sorted by tag (TIFF 6.0, section 2). Pillow's parser
follows whatever offsets a block holds, at any cost, and fails on many real files, so a
decoder does not use it.
"""

import copy
import math
import struct

from collections.abc import Iterator
from typing import Any

from PIL import ExifTags, Image

__all__ = [
    "PREFIX",
    "block_of",
    "orientation_of",
    "read_orientation",
    "with_orientation",
    "without_prefix",
]

PREFIX = b"Exif\0\0"
"""Stands before the block in some kinds of files."""

_SHORT = 3
_ENTRY = 12
_SUB_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.IFD1)


# ---- of a picture ----


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of a picture, 1..8; 1 where there is none to read.

    Some programs write it as a real or a rational number.
    """
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow's are of many kinds
        return 1
    try:
        number = float(found[0] if isinstance(found, (tuple, bytes)) else found)
    except (TypeError, ValueError, IndexError, ArithmeticError):
        return 1
    return int(number) if number in range(1, 9) else 1


def block_of(image: Image.Image) -> bytes:
    """Return the EXIF block of a picture, or nothing.

    It is the block in the picture's file, byte by byte, unless the program has changed
    ``image.getexif()`` since. TIFF files have none: their own tags are what
    ``getexif`` returns.
    """
    if image.format == "TIFF":
        return b""
    given = image.info.get("exif")
    raw = bytes(given) if isinstance(given, (bytes, bytearray, memoryview)) else b""
    in_file = Image.Exif()
    try:
        exif = image.getexif()
        in_file.load(raw)
        values = _listed(exif)
        if not _same(values, _listed(in_file)):
            raw = exif.tobytes() if any(values) else b""
    except Exception:  # of many kinds: the block cannot be read, or not be written anew
        pass
    return without_prefix(raw)


def without_prefix(raw: bytes) -> bytes:
    """Return a block without what may stand before it, however often it does."""
    at = 0
    while raw.startswith(PREFIX, at):
        at += len(PREFIX)
    return raw[at:]


def _listed(exif: Image.Exif) -> list[dict[int, Any]]:
    """All values but the orientation, which files keep by itself."""
    listed = [dict(exif)]
    for tag in (ExifTags.Base.Orientation, *_SUB_DIRECTORIES):
        listed[0].pop(tag, None)  # of directories, offsets
    exif = copy.deepcopy(exif)  # to ask for a directory adds it
    for tag in _SUB_DIRECTORIES:
        try:
            listed.append(dict(exif.get_ifd(tag)))
        except Exception:  # damaged, as it was in the file
            listed.append({})
    return listed


def _same(a: Any, b: Any) -> bool:
    """Whether two values are equal; numbers that are none (0/0) equal each other."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b) or (_is_nan(a) and _is_nan(b))


def _is_nan(value: Any) -> bool:
    try:
        return math.isnan(value)
    except (TypeError, ValueError, ArithmeticError):
        return False


# ---- of a block ----


def read_orientation(block: bytes) -> int:
    """Return the orientation in a block, 1..8; 1 where there is none to read."""
    for order, at in _orientation_entries(block):
        kind, count = struct.unpack_from(order + "HI", block, at + 2)
        (value,) = struct.unpack_from(order + "H", block, at + 8)
        if kind == _SHORT and count == 1 and 1 <= value <= 8:
            return int(value)
    return 1


def with_orientation(block: bytes, orientation: int) -> bytes:
    """Return a block with another orientation; all other bytes stay where they are.

    A block without an orientation gets a copy of its first directory at its end, with the
    entry added; one that is no TIFF structure is replaced.
    """
    found = _first_directory(block)
    if found is None:
        block, found = struct.pack("<2sHIHI", b"II", 42, 8, 0, 0), ("<", 8, 0)
    order, directory, count = found
    entry = struct.pack(
        order + "HHIHH", ExifTags.Base.Orientation, _SHORT, 1, orientation, 0
    )
    for _, at in _orientation_entries(block):
        return block[:at] + entry + block[at + _ENTRY :]
    start, end = directory + 2, directory + 2 + _ENTRY * count
    entries = [block[i : i + _ENTRY] for i in range(start, end, _ENTRY)]
    entries = sorted(
        [*entries, entry], key=lambda e: int(struct.unpack_from(order + "H", e)[0])
    )
    block += b"\0" * (len(block) % 2)  # directories begin at even offsets
    moved = struct.pack(order + "I", len(block))
    copy = struct.pack(order + "H", count + 1) + b"".join(entries) + block[end : end + 4]
    return block[:4] + moved + block[8:] + copy.ljust(6 + _ENTRY * (count + 1), b"\0")


def _first_directory(block: bytes) -> tuple[str, int, int] | None:
    """Byte order, offset and number of entries of the first directory, if it is there."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 8:
        return None
    (at,) = struct.unpack_from(order + "I", block, 4)
    if at < 8 or at + 2 > len(block):
        return None
    (count,) = struct.unpack_from(order + "H", block, at)
    if at + 2 + _ENTRY * count > len(block):
        return None
    return order, at, count


def _orientation_entries(block: bytes) -> Iterator[tuple[str, int]]:
    """Byte order and offset of the orientation's entry, if the first directory has one."""
    found = _first_directory(block)
    if found is None:
        return
    order, directory, count = found
    for i in range(count):
        at = directory + 2 + _ENTRY * i
        if struct.unpack_from(order + "H", block, at)[0] == ExifTags.Base.Orientation:
            yield order, at
