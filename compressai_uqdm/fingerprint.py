"""The digest of a model, by which a file identifies the model that it was coded with.

The fingerprint of a model lists all arrays that its bitstreams and pictures depend on:
weights, tables and hyperparameters. The names in that list are part of the file format
(``docs/format.md``). They stay as they are if an attribute is renamed or a key is added to
a configuration.
"""

import hashlib

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np

__all__ = ["DIGEST_BYTES", "Fingerprint", "digest", "prefixed"]

DIGEST_BYTES = 6
"""Length of a digest."""

Fingerprint: TypeAlias = Iterator[tuple[str, np.ndarray]]
"""Names and arrays of integers or real numbers."""

_VERSION = b"compressai-uqdm 2\n"


def prefixed(name: str, parts: Fingerprint) -> Fingerprint:
    """Yield the fingerprint of a component, with ``name/`` before every name."""
    for inner, array in parts:
        yield f"{name}/{inner}", array


def digest(parts: Iterable[tuple[str, np.ndarray]]) -> bytes:
    """Return the first bytes of a SHA-256 of a fingerprint, sorted by name.

    Each array contributes its name, the letter ``i`` for integers or ``f`` for real
    numbers, its shape, and its values as int64 or float64, little-endian.
    """
    sha256 = hashlib.sha256(_VERSION)
    for name, array in sorted(parts, key=lambda part: part[0]):
        kind = "f" if np.issubdtype(array.dtype, np.floating) else "i"
        sha256.update(f"{name} {kind} {list(array.shape)}\n".encode())
        sha256.update(np.ascontiguousarray(array, f"<{kind}8").data)
    return sha256.digest()[:DIGEST_BYTES]
