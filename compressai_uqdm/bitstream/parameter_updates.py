"""Small integers that tell how a picture differs from what a prior has learned.

An encoder may move parameters of a prior, in whole steps, for its picture alone: most by
none, few by many. Vectors of steps have a spread each, and stand in the stream before
what they are for.

Adapting a decoder by what is sent with the picture is known from van Rozendaal et al.,
"Overfitting for Fun and Profit" (ICLR 2021), and Strümpler et al., "Implicit Neural
Representations for Image Compression" (ECCV 2022), for whole networks; here it is a few
hundred numbers that enter a prior linearly, and are found in a second.
"""

import functools
import math

from collections.abc import Sequence

import numpy as np

from .cdf import PRECISION, logistic_cdf, quantize_cdf, symbol_weights
from .symbols import SymbolCoder

__all__ = ["SPREADS", "STEPS_MAX", "code", "cost", "tables"]

STEPS_MAX = 127
"""Steps in either direction."""

SPREADS = 0.05 * 1.6 ** np.arange(16)
"""Scales, in steps, of the logistics that steps are coded with; by the first, zeros cost
next to nothing."""


@functools.cache
def tables() -> np.ndarray:
    """Weights of the steps -127..127 for each spread, float32, ``[16, 255]``."""
    edges = np.arange(-STEPS_MAX, STEPS_MAX) + 0.5
    cdf = logistic_cdf(edges / SPREADS[:, None])
    return symbol_weights(quantize_cdf(cdf, 2 * STEPS_MAX + 1))


def code(
    coder: SymbolCoder, vectors: Sequence[np.ndarray] | None, sizes: Sequence[int]
) -> tuple[list[np.ndarray], bool]:
    """Code some vectors of steps: whether there are any, then a spread and steps of each.

    Args:
        coder: where symbols come from and go to.
        vectors: the steps, -127..127, or None where they are to be read.
        sizes: of the vectors.

    Returns:
        the vectors, int64, 0 where the stream ended, and whether all of them were there.
    """
    found = [np.zeros(size, np.int64) for size in sizes]
    given: Sequence[np.ndarray | None] = [None] * len(sizes)
    is_any = None
    if vectors is not None:
        given = vectors
        is_any = np.array([int(any(vector.any() for vector in vectors))])
    is_any, there = coder.code_categorical(is_any, _uniform(2))
    if not is_any[0]:
        return found, bool(there[0])
    for steps, vector in zip(found, given):
        spread = None if vector is None else np.array([_cheapest(vector)[1]])
        spread, there = coder.code_categorical(spread, _uniform(len(SPREADS)))
        symbols = None if vector is None else vector + STEPS_MAX
        if there.all():
            weights = np.repeat(tables()[spread], len(steps), 0)
            symbols, there = coder.code_categorical(symbols, weights)
            steps[:] = np.where(there, symbols - STEPS_MAX, 0)
        if not there.all():
            return found, False
    return found, True


def cost(vectors: Sequence[np.ndarray]) -> float:
    """Nats that vectors of steps take, beyond what says that there are any."""
    bits = sum(_cheapest(vector)[0] + math.log2(len(SPREADS)) for vector in vectors)
    return bits * math.log(2)


def _uniform(n: int) -> np.ndarray:
    return np.full((1, n), (1 << PRECISION) // n - 1, np.float32)


def _cheapest(steps: np.ndarray) -> tuple[float, int]:
    """Bits of steps by the spread that suits them best, and which that is."""
    bits = -np.log2((tables()[:, steps + STEPS_MAX] + 1.0) / (1 << PRECISION)).sum(1)
    return float(bits.min()), int(bits.argmin())
