"""The .uqdm file: a header in a frame, then the strings of the stages, in order.

Nothing here trusts a byte that it reads.
"""

import struct
import zlib

from types import ModuleType

from ..checks import MAX_PIXELS
from ..errors import DamagedFileError, DamagedStringError
from ..varint import read_varint, varint
from . import v2
from .header import Header

__all__ = ["ends_in_header", "pack_header", "parse_header"]

MAGIC = b"\x89UQDM\n"
MAX_HEADER = 1 << 24

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
    end = at + length + 4
    if len(data) < end:
        return None
    if struct.unpack("<I", data[end - 4 : end])[0] != zlib.crc32(data[: end - 4]):
        raise DamagedFileError("the header is damaged: its checksum does not match")
    try:
        header = version.parse(bytes(data[at : end - 4]))
    except (DamagedStringError, IndexError, UnicodeDecodeError, zlib.error) as error:
        raise DamagedFileError(f"the header is damaged: {error}") from error
    width, height = header.size
    if width * height > max_pixels:
        raise ValueError(
            f"the picture has {width} x {height} pixels, more than the limit of "
            f"{max_pixels}: raise the limit (--max-pixels) if you trust the file"
        )
    return header, end


def ends_in_header(length: int) -> DamagedFileError:
    """The error of a file of so many bytes, which are not even its header."""
    return DamagedFileError(
        f"the file ends inside its header, after {length} bytes: nothing can be "
        "decoded without the rest"
    )
