"""The .uqdm file: a header in a frame, then the strings of the stages, in order.

Nothing here trusts a byte that it reads.
"""

import struct
import zlib

from types import ModuleType
from typing import IO

from ..bitstream.varint import read_varint, varint
from ..checks import MAX_PIXELS
from ..errors import DamagedFileError, DamagedStringError
from . import v2
from .header import MAGIC, Header, check_metadata

__all__ = ["MAGIC", "ends_in_header", "pack_header", "parse_header", "read_header"]

MAX_HEADER = 1 << 24
_FIRST = 12  # bytes that hold the header's length; no header is shorter

VERSIONS: dict[int, ModuleType] = {v2.VERSION: v2}
WRITTEN = v2


def pack_header(header: Header) -> bytes:
    """The header as bytes, in the newest version.

    Raises:
        ValueError: it would be too long, or has what no header may have.
    """
    body = WRITTEN.pack(header)
    if len(body) > MAX_HEADER:
        raise ValueError(
            f"the header would have {len(body)} bytes, over the limit of {MAX_HEADER}, "
            f"with an alpha channel of {len(header.alpha)}: cut the picture into parts, or "
            "simplify its alpha channel"
        )
    start = MAGIC + bytes([WRITTEN.VERSION]) + varint(len(body))
    return start + body + struct.pack("<I", zlib.crc32(start + body))


def parse_header(
    data: bytes | bytearray,
    max_pixels: int = MAX_PIXELS,
    max_metadata: int | None = None,
) -> tuple[Header, int] | None:
    """The header that a file begins with and its length, or None if there is more of it.

    Args:
        data: the file's beginning.
        max_pixels: largest picture to accept.
        max_metadata: bytes of metadata to accept, unpacked; any for a program that does not
            unpack it.

    Raises:
        DamagedFileError: it is no such file, of another version, or damaged.
        ValueError: the picture or its metadata is larger than allowed.
    """
    frame = _frame(data)
    if frame is None or len(data) < frame[2]:
        return None
    version, at, end = frame
    if struct.unpack("<I", data[end - 4 : end])[0] != zlib.crc32(data[: end - 4]):
        raise DamagedFileError("the header is damaged: its checksum does not match")
    try:
        header = version.parse(bytes(data[at : end - 4]))
    except DamagedFileError:
        raise
    except (DamagedStringError, UnicodeDecodeError) as error:
        raise DamagedFileError(f"the header is damaged: {error}") from error
    width, height = header.size
    if width * height > max_pixels:
        raise ValueError(
            f"the picture has {width} x {height} pixels, more than the limit of "
            f"{max_pixels}: raise the limit (--max-pixels) if you trust the file"
        )
    if max_metadata is not None:
        remedy = "raise the limit (--max-metadata) if you trust the file"
        check_metadata(header.icc_profile, header.exif, max_metadata, remedy)
    return header, end


def read_header(
    file: IO[bytes], max_pixels: int = MAX_PIXELS, max_metadata: int | None = None
) -> tuple[Header, bytes]:
    """Read the header that a file begins with, and nothing after it.

    Args:
        file: the file, at its beginning; also one that gives few bytes at a time.
        max_pixels: as of :func:`parse_header`.
        max_metadata: likewise.

    Returns:
        the header, and its bytes.

    Raises:
        DamagedFileError, ValueError: as of :func:`parse_header`.
    """
    data = b""
    while (found := parse_header(data, max_pixels, max_metadata)) is None:
        frame = _frame(data)
        missing = (frame[2] if frame else _FIRST) - len(data)
        # in pieces that grow, for the file may be shorter than it claims
        more = file.read(min(missing, len(data) + (1 << 12)))
        if not more:
            raise ends_in_header(len(data))
        data += more
    return found[0], data


def _frame(data: bytes | bytearray) -> tuple[ModuleType, int, int] | None:
    """The header's version, and where its body begins and its checksum ends, if known."""
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        hint = ""
        if len(data) > 4 and data[:5] == MAGIC[:5]:
            hint = "; if it was transferred as text, do it in binary mode"
        raise DamagedFileError(f"not a .uqdm file: it begins otherwise{hint}")
    if len(data) <= len(MAGIC):
        return None
    version = VERSIONS.get(data[len(MAGIC)])
    if version is None:
        known = " and ".join(map(str, VERSIONS))
        raise DamagedFileError(
            f"the file is of version {data[len(MAGIC)]} of the format, and this program "
            f"reads version {known}: update compressai-uqdm"
        )
    try:
        length, at = read_varint(data, len(MAGIC) + 1)
    except DamagedStringError as error:
        if len(data) < len(MAGIC) + 6:
            return None
        raise DamagedFileError("the header is damaged: it has no length") from error
    if length > MAX_HEADER:
        raise DamagedFileError(f"the header is damaged: it would have {length} bytes")
    return version, at, at + length + 4


def ends_in_header(length: int) -> DamagedFileError:
    """The error of a file of so many bytes, which are not even its header."""
    return DamagedFileError(
        f"the file ends inside its header, after {length} bytes: nothing can be "
        "decoded without the rest"
    )
