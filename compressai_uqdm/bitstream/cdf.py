"""Integer CDF tables, the same on every platform.

The exponentials of two mathematical libraries may differ in the last bit. This module uses
float64 sums, products and quotients only. IEEE 754 defines their results, so encoder and
decoder round them to the same integers on every machine.

A table is a row of n integer weights, one per symbol, that sum to 2^24 - n. constriction
adds one to the weight of every symbol, so the total is its 2^24 and it normalizes nothing.
"""

import numpy as np

__all__ = [
    "PRECISION",
    "exp",
    "logistic_cdf",
    "normal_cdf",
    "quantize_cdf",
    "symbol_weights",
]

PRECISION = 24
"""Bits of a probability in the range coder: probabilities are multiples of 2^-24."""


def exp(x: np.ndarray) -> np.ndarray:
    """Return e^x for x <= 0, to about 1e-13; x below -700 is taken as -700."""
    r = np.maximum(x, -700.0) / 1024  # |r| < 0.7
    term = np.ones_like(r)
    total = np.ones_like(r)
    for n in range(1, 20):
        term *= r
        term /= n
        total += term
    for _ in range(10):
        total *= total
    return total


def logistic_cdf(x: np.ndarray) -> np.ndarray:
    """Return the CDF of the logistic distribution with scale 1."""
    e = exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1 + e)


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """Return the CDF of the standard normal distribution, to about 1e-13 absolute."""
    # Phi(x) = 1/2 + phi(x) (x + x^3 / 3 + x^5 / (3 5) + ...); the tail past 8 is negligible
    x = np.clip(x, -8.0, 8.0)
    term = x
    total = x
    for n in range(3, 301, 2):
        term = term * x * x / n
        total = total + term
    inv_sqrt_2pi = 0.3989422804014327
    return np.clip(0.5 + inv_sqrt_2pi * exp(-x * x / 2) * total, 0.0, 1.0)


def quantize_cdf(cdf: np.ndarray, n_symbols: int) -> np.ndarray:
    """Return a CDF scaled to integers 0..2^24 - n_symbols; their differences are weights.

    Args:
        cdf: values of the CDF in [0, 1], any shape.
        n_symbols: number of symbols in a table.

    Returns:
        int32, same shape.
    """
    return np.rint(cdf * float((1 << PRECISION) - n_symbols)).astype(np.int32)


def symbol_weights(edges: np.ndarray) -> np.ndarray:
    """Return the weights of the n + 1 symbols that n integer CDF values separate.

    Args:
        edges: values as from :func:`quantize_cdf`, ascending, ``[..., n]``.

    Returns:
        float32, ``[..., n + 1]``. The first symbol takes the mass below the first edge,
        the last symbol the mass above the last edge.
    """
    total = (1 << PRECISION) - (edges.shape[-1] + 1)
    return np.diff(edges, prepend=0, append=total, axis=-1).astype(np.float32)
