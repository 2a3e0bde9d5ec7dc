"""Integers of variable length, as LEB128."""

from ..errors import DamagedStringError

__all__ = ["read_varint", "varint"]


def varint(number: int) -> bytes:
    """Return a number >= 0 as bytes of seven bits each, the lowest bits first."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def read_varint(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """Return the number below 2^35 that starts at byte ``at``, and the byte after it.

    Raises:
        DamagedStringError: the data end within the number, or it takes over five bytes.
    """
    number = 0
    for i in range(5):
        if at + i >= len(data):
            break
        number |= (data[at + i] & 127) << 7 * i
        if data[at + i] < 128:
            return number, at + i + 1
    raise DamagedStringError(f"no number at byte {at}")
