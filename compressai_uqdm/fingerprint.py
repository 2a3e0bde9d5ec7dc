"""What makes two models the same to a decoder: the digest that files carry.

A model lists, part by part, every array that the integers of its streams follow from:
weights, tables, and choices of its architecture. The names in that list are part of the
file format (``docs/format.md``); they do not follow when an attribute is renamed, or a
key is added to a configuration.
"""

import hashlib

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np

__all__ = ["DIGEST_BYTES", "Fingerprint", "digest", "prefixed"]

DIGEST_BYTES = 6

Fingerprint: TypeAlias = Iterator[tuple[str, np.ndarray]]
"""Names and arrays."""

_VERSION = b"compressai-uqdm 2\n"


def prefixed(name: str, parts: Fingerprint) -> Fingerprint:
    """Fingerprint of a part: their names follow its name and a slash."""
    for inner, array in parts:
        yield f"{name}/{inner}", array


def digest(parts: Iterable[tuple[str, np.ndarray]]) -> bytes:
    """The first bytes of a SHA-256 of all parts, in the order of their names.

    Of each part its name, the letter ``i`` for integers or ``f`` for real numbers, its
    shape, and its values: int64 or float64, little-endian.
    """
    found = hashlib.sha256(_VERSION)
    for name, array in sorted(parts, key=lambda part: part[0]):
        kind = "f" if np.issubdtype(array.dtype, np.floating) else "i"
        found.update(f"{name} {kind} {list(array.shape)}\n".encode())
        found.update(np.ascontiguousarray(array, f"<{kind}8").data)
    return found.digest()[:DIGEST_BYTES]
