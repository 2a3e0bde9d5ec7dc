"""The chunks of a PNG that make its pixels."""

import struct

from ..errors import DamagedFileError

__all__ = ["bare_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NEEDED = (b"IHDR", b"IDAT", b"IEND")


def bare_png(data: bytes) -> bytes:
    """Return a PNG in grayscale without the chunks that its pixels do not need.

    Pillow inflates profiles and texts of any number of other chunks when it opens a PNG.

    Raises:
        DamagedFileError: it is no PNG, or ends inside a chunk.
    """
    if not data.startswith(_SIGNATURE):
        raise DamagedFileError("it is no PNG")
    found, at = [_SIGNATURE], len(_SIGNATURE)
    while at < len(data):
        if at + 8 > len(data):
            raise DamagedFileError("the PNG ends inside a chunk")
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        end = at + 12 + length
        if end > len(data):
            raise DamagedFileError("the PNG ends inside a chunk")
        if kind in _NEEDED and (length or kind == b"IEND"):
            found.append(data[at:end])
        at = end
    return b"".join(found)
