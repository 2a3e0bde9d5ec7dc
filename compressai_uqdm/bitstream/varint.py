"""Numbers as bytes."""

from ..errors import DamagedStringError

__all__ = ["read_varint", "varint"]


def varint(number: int) -> bytes:
    """A number >= 0 in groups of seven bits, the lowest first, as LEB128."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def read_varint(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """A number below 2^35 that :func:`varint` wrote at a place, and the next place.

    Raises:
        DamagedStringError: there is none.
    """
    number = 0
    for i in range(5):
        if at + i >= len(data):
            break
        number |= (data[at + i] & 127) << 7 * i
        if data[at + i] < 128:
            return number, at + i + 1
    raise DamagedStringError(f"no number at byte {at}")
