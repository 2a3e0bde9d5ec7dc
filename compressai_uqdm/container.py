"""The .uqdm file: a header, then the strings of the stages, in order.

``docs/format.md`` specifies it byte by byte. This module knows nothing of networks: it
makes headers of bytes and bytes of headers, and trusts none of them.
"""

import math
import struct
import zlib

from dataclasses import dataclass
from typing import Literal, get_args

from .varint import DamagedStringError, read_varint, varint

__all__ = [
    "Arithmetic",
    "Colour",
    "DamagedFileError",
    "Header",
    "byte_limit",
    "parse_header",
    "truncate",
]

MAGIC = b"\x89UQDM\n"
VERSION = 1
DIGEST_BYTES = 6
MAX_HEADER = 1 << 24
_HAS_PROFILE = 64
MAX_STAGES = 64
MAX_PIXELS = 1 << 27
"""Largest picture that is decoded unless the caller allows more."""

Arithmetic = Literal["float32", "float64"]
Colour = Literal["RGB", "L", "P", "1"]
"""Modes of Pillow that come back as they were."""


class DamagedFileError(DamagedStringError):
    """A file is not what was written."""


@dataclass(frozen=True)
class Header:
    """What must be known to decode a file.

    Args:
        model: name of the model, in the zoo or its owner's.
        digest: first 6 bytes of the digest of its weights and tables.
        size: (width, height) of the picture in pixels.
        seed: seed of the dither, 0..2^32-1.
        arithmetic: what the network computes with.
        overlap: pixels that neighbouring windows share.
        lengths: bytes of the string of each stage that was encoded.
        colour: mode of the picture.
        palette: of a picture with a palette, its colours, 3 bytes each.
        orientation: EXIF orientation, 1..8.
        icc_profile: ICC profile, or nothing.
    """

    model: str
    digest: bytes
    size: tuple[int, int]
    seed: int
    arithmetic: Arithmetic
    overlap: int
    lengths: tuple[int, ...]
    colour: Colour = "RGB"
    palette: bytes = b""
    orientation: int = 1
    icc_profile: bytes = b""

    def pack(self) -> bytes:
        """The header as bytes."""
        name = self.model.encode()
        if not 1 <= len(name) <= 255:
            raise ValueError(f"a model's name has 1 to 255 bytes, got {self.model!r}")
        kind = get_args(Arithmetic).index(self.arithmetic)
        kind |= get_args(Colour).index(self.colour) << 1 | (self.orientation - 1) << 3
        profile = b""
        if self.icc_profile:
            kind |= _HAS_PROFILE
            profile = varint(len(self.icc_profile)) + zlib.compress(self.icc_profile, 9)
        body = b"".join(
            [
                varint(len(name)),
                name,
                self.digest,
                *map(varint, (*self.size, self.seed)),
                bytes([self.overlap, kind]),
                *map(varint, (len(self.lengths), *self.lengths)),
                varint(len(self.palette) // 3) if self.colour == "P" else b"",
                self.palette,
                profile,
            ]
        )
        start = MAGIC + bytes([VERSION]) + varint(len(body))
        return start + body + struct.pack("<I", zlib.crc32(start + body))


def parse_header(
    data: bytes | bytearray, max_pixels: int = MAX_PIXELS
) -> tuple[Header, int] | None:
    """The header that a file begins with and its length, or None if there is more of it.

    Args:
        data: the file's beginning.
        max_pixels: largest picture to accept.

    Raises:
        DamagedFileError: it is no such file, of another version, or damaged.
        ValueError: the picture is larger than ``max_pixels``.
    """
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        hint = ""
        if len(data) > 4 and data[:5] == MAGIC[:5]:
            hint = "; it may have been transferred as text"
        raise DamagedFileError(f"not a .uqdm file: it begins otherwise{hint}")
    if len(data) <= len(MAGIC):
        return None
    if data[len(MAGIC)] != VERSION:
        raise DamagedFileError(
            f"the file is of version {data[len(MAGIC)]} of the format, and this program "
            f"reads version {VERSION}: update compressai-uqdm"
        )
    try:
        length, at = read_varint(data, len(MAGIC) + 1)
    except DamagedStringError as error:
        if len(data) < len(MAGIC) + 6:
            return None
        raise DamagedFileError("the header is damaged: it has no length") from error
    if length > MAX_HEADER:
        raise DamagedFileError(f"the header is damaged: it would have {length} bytes")
    end = at + length + 4
    if len(data) < end:
        return None
    if struct.unpack("<I", data[end - 4 : end])[0] != zlib.crc32(data[: end - 4]):
        raise DamagedFileError("the header is damaged: its checksum does not match")
    try:
        header = _parse_body(bytes(data[at : end - 4]))
    except (DamagedStringError, IndexError, UnicodeDecodeError, zlib.error) as error:
        raise DamagedFileError(f"the header is damaged: {error}") from error
    width, height = header.size
    if width * height > max_pixels:
        raise ValueError(
            f"the picture has {width} x {height} pixels, more than the limit of "
            f"{max_pixels}: raise the limit (--max-pixels) if you trust the file"
        )
    return header, end


def byte_limit(
    size: tuple[int, int], max_bytes: int | None = None, bpp: float | None = None
) -> int:
    """Largest size of a file of a picture, by bytes and by bits per pixel.

    Raises:
        ValueError: one of them is no size.
    """
    limits = [1 << 62]
    if max_bytes is not None:
        limits.append(max_bytes)
    if bpp is not None:
        if not math.isfinite(bpp):
            raise ValueError(f"expected a number of bits per pixel, got {bpp}")
        limits.append(int(bpp * size[0] * size[1] / 8))
    return min(limits)


def check_limit(limit: int, start: int) -> None:
    """Raise a ValueError if a file's header, of ``start`` bytes, is beyond a limit."""
    if start > limit:
        raise ValueError(
            f"the limit is {limit} bytes, but the file's header alone has {start}"
        )


def truncate(
    data: bytes,
    *,
    stage: int | None = None,
    max_bytes: int | None = None,
    bpp: float | None = None,
) -> bytes:
    """The beginning of a file, a coarser picture.

    Args:
        data: the file, whole or not.
        stage: number of stages to keep at most, from 1 on.
        max_bytes: largest size in bytes.
        bpp: the same in bits per pixel.

    Raises:
        DamagedFileError: the header is not whole.
        ValueError: it alone is larger, or an argument is none of these.
    """
    found = parse_header(data, max_pixels=1 << 70)
    if found is None:
        raise ends_in_header(len(data))
    header, start = found
    if stage is not None and stage < 1:
        raise ValueError(f"stage must be at least 1, got {stage}")
    limit = byte_limit(header.size, max_bytes, bpp)
    check_limit(limit, start)
    return data[: min(limit, start + sum(header.lengths[:stage]))]


def ends_in_header(length: int) -> DamagedFileError:
    """The error of a file of so many bytes, which are not even its header."""
    return DamagedFileError(
        f"the file ends inside its header, after {length} bytes: nothing can be decoded"
    )


def _parse_body(body: bytes) -> Header:
    at = 0

    def number() -> int:
        nonlocal at
        value, at = read_varint(body, at)
        return value

    def take(n: int) -> bytes:
        nonlocal at
        if at + n > len(body):
            raise DamagedFileError(f"{n} bytes are missing")
        at += n
        return body[at - n : at]

    model = take(number()).decode()
    digest = take(DIGEST_BYTES)
    width, height, seed = number(), number(), number()
    overlap, kind = take(2)
    n_stages = number()
    if not 1 <= n_stages <= MAX_STAGES:
        raise DamagedFileError(f"it tells of {n_stages} stages")
    lengths = tuple(number() for _ in range(n_stages))
    colour = get_args(Colour)[kind >> 1 & 3]
    n_colours = number() if colour == "P" else 0
    palette = take(3 * n_colours)
    n_profile = number() if kind & _HAS_PROFILE else 0
    icc_profile = _inflate(body[at:], n_profile)
    header = Header(
        model=model,
        digest=digest,
        size=(width, height),
        seed=seed,
        arithmetic=get_args(Arithmetic)[kind & 1],
        overlap=overlap,
        lengths=lengths,
        colour=colour,
        palette=palette,
        orientation=(kind >> 3 & 7) + 1,
        icc_profile=icc_profile,
    )
    sound = (
        (width >= 1 and height >= 1, f"a picture of {width} x {height} pixels"),
        (seed < 1 << 32, f"the seed {seed}"),
        (overlap <= 32, f"an overlap of {overlap}"),
        (kind < 128, f"the kind {kind}"),
        (n_colours <= 256, f"{n_colours} colours in a palette"),
        (colour != "P" or n_colours > 0, "a palette without colours"),
        (model.isprintable() and model != "", "a name that cannot be printed"),
    )
    for is_sound, what in sound:
        if not is_sound:
            raise DamagedFileError(f"it tells of {what}")
    return header


def _inflate(data: bytes, length: int) -> bytes:
    """What zlib made these bytes of, if it has that length."""
    if length > MAX_HEADER:
        raise DamagedFileError(f"it tells of an ICC profile of {length} bytes")
    if not data and not length:
        return b""
    decompressor = zlib.decompressobj()
    profile = decompressor.decompress(data, length + 1)
    if len(profile) != length or not decompressor.eof or decompressor.unused_data:
        raise DamagedFileError("it tells of an ICC profile of another length")
    return profile
