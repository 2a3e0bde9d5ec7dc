"""Limits of a file's size, and truncation."""

import dataclasses
import math

from .container import ends_in_header, pack_header, parse_header
from .header import Header

__all__ = ["NO_LIMIT", "byte_limit", "payload_budget", "truncate", "whole_stages"]

NO_LIMIT = 1 << 62


def byte_limit(
    size: tuple[int, int], max_bytes: int | None = None, bpp: float | None = None
) -> int:
    """Return the largest size of a file, the smaller of two limits.

    Raises:
        ValueError: one of them is no size.
    """
    limits = [NO_LIMIT]
    if max_bytes is not None:
        limits.append(max_bytes)
    if bpp is not None:
        if not math.isfinite(bpp):
            raise ValueError(f"expected a number of bits per pixel, got {bpp}")
        limits.append(int(min(bpp * size[0] * size[1] / 8, NO_LIMIT)))
    return min(limits)


def payload_budget(header: Header, limit: int) -> int:
    """Return how many bytes of strings a file may have to be within a limit.

    If these are not all of them, the header has a field more, which counts too.

    Raises:
        ValueError: the header alone is larger than the limit.
    """

    def start(n: int) -> int:
        return len(pack_header(dataclasses.replace(header, limited_to=n)))

    n_bytes = sum(header.lengths)
    if len(pack_header(header)) + n_bytes <= limit:
        return n_bytes
    _check_limit(limit, start(0))
    n = max(limit - start(n_bytes), 0)
    while start(n + 1) + n + 1 <= limit:  # a smaller number takes fewer bytes itself
        n += 1
    return n


def whole_stages(lengths: tuple[int, ...], n_bytes: int) -> tuple[int, float]:
    """Return how many strings are whole, and the share of the next, of ``n_bytes``."""
    for stage, length in enumerate(lengths):
        if n_bytes < length:
            return stage, n_bytes / length
        n_bytes -= length
    return len(lengths), 0.0


def _check_limit(limit: int, start: int) -> None:
    """Raise a ValueError if a file's header, of ``start`` bytes, is beyond a limit."""
    if start > limit:
        raise ValueError(
            f"the limit is {limit} bytes, but the file's header alone has {start}: raise "
            "the limit of bytes or of bits per pixel"
        )


def truncate(
    data: bytes,
    *,
    stages: int | None = None,
    max_bytes: int | None = None,
    bpp: float | None = None,
) -> bytes:
    """Return a prefix of a file, a coarser picture.

    The header stays as it is, so readers see that the file is truncated.

    Args:
        data: the file, whole or not.
        stages: number of stages to keep at most, from 1 on.
        max_bytes: largest size in bytes.
        bpp: the same in bits per pixel.

    Raises:
        DamagedFileError: the header is not whole.
        ValueError: the file has no coarser pictures, its header alone is larger, or an
            argument is none of these.
    """
    found = parse_header(data, max_pixels=1 << 70)
    if found is None:
        raise ends_in_header(len(data))
    header, start = found
    if stages is not None and stages < 1:
        raise ValueError(f"stages must be at least 1, got {stages}")
    limit = byte_limit(header.size, max_bytes, bpp)
    _check_limit(limit, start)
    if header.storage == "WebP" and limit < start + sum(header.lengths):
        raise ValueError(
            "the file holds a lossless WebP stream, which has no coarser pictures: encode "
            "the picture again, with this limit"
        )
    return data[
        : min(limit, start + min(sum(header.lengths[:stages]), header.payload_bytes))
    ]
