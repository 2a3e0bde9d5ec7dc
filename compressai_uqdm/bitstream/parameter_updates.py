"""Coding of integer updates that adapt a prior's parameters to one picture.

An encoder may move parameters of a prior in whole steps. The updates are side information:
the stream holds them before the symbols that they apply to. Most pictures leave most
parameters alone. Each vector of updates is coded with a logistic of its own scale.

van Rozendaal et al., "Overfitting for Fun and Profit" (ICLR 2021), and Strümpler et al.,
"Implicit Neural Representations for Image Compression" (ECCV 2022), adapt whole networks by
coded updates. Here the updates are a few hundred numbers that enter the prior linearly, and
the encoder finds them within a second.
"""

import functools
import math

from collections.abc import Sequence

import numpy as np

from .cdf import PRECISION, logistic_cdf, quantize_cdf, symbol_weights
from .symbols import SymbolCoder

__all__ = ["SCALES", "UPDATE_MAX", "code", "cost", "tables"]

UPDATE_MAX = 127
"""Largest update, in steps of its parameter, in either direction."""

SCALES = 0.05 * 1.6 ** np.arange(16)
"""Scales, in steps, of the logistics that updates are coded with. With the first of them
zeros cost next to nothing."""


@functools.cache
def tables() -> np.ndarray:
    """Return the weights of updates -127..127 for each scale, float32, ``[16, 255]``."""
    edges = np.arange(-UPDATE_MAX, UPDATE_MAX) + 0.5
    cdf = logistic_cdf(edges / SCALES[:, None])
    return symbol_weights(quantize_cdf(cdf, 2 * UPDATE_MAX + 1))


def code(
    coder: SymbolCoder, vectors: Sequence[np.ndarray] | None, sizes: Sequence[int]
) -> tuple[list[np.ndarray], bool]:
    """Code vectors of updates: a flag whether any is not 0, then each scale and vector.

    Args:
        coder: encoder, decoder or rate estimator.
        vectors: the updates, -127..127, or None to decode them.
        sizes: lengths of the vectors.

    Returns:
        the vectors, int64, 0 where a truncated bitstream ended, and whether it held all.
    """
    decoded = [np.zeros(size, np.int64) for size in sizes]
    targets: Sequence[np.ndarray | None] = [None] * len(sizes)
    is_any = None
    if vectors is not None:
        targets = vectors
        is_any = np.array([int(any(vector.any() for vector in vectors))])
    is_any, is_coded = coder.code_categorical(is_any, _uniform(2))
    if not is_any[0]:
        return decoded, bool(is_coded[0])
    for updates, vector in zip(decoded, targets):
        scale = None if vector is None else np.array([_cheapest(vector)[1]])
        scale, is_coded = coder.code_categorical(scale, _uniform(len(SCALES)))
        symbols = None if vector is None else vector + UPDATE_MAX
        if is_coded.all():
            weights = np.repeat(tables()[scale], len(updates), 0)
            symbols, is_coded = coder.code_categorical(symbols, weights)
            updates[:] = np.where(is_coded, symbols - UPDATE_MAX, 0)
        if not is_coded.all():
            return decoded, False
    return decoded, True


def cost(vectors: Sequence[np.ndarray]) -> float:
    """Return the nats that vectors of updates take, without the flag before them."""
    bits = sum(_cheapest(vector)[0] + math.log2(len(SCALES)) for vector in vectors)
    return bits * math.log(2)


def _uniform(n: int) -> np.ndarray:
    return np.full((1, n), (1 << PRECISION) // n - 1, np.float32)


def _cheapest(updates: np.ndarray) -> tuple[float, int]:
    """Return the bits of a vector with its cheapest scale, and the index of that scale."""
    bits = -np.log2((tables()[:, updates + UPDATE_MAX] + 1.0) / (1 << PRECISION)).sum(1)
    return float(bits.min()), int(bits.argmin())
