"""Integer tables of the priors, the same on every platform.

Exponentials of a mathematical library differ in the last bit from one to another; here
everything is made of float64 sums, products and quotients, which IEEE 754 fixes, so
that encoder and decoder round to the same integers wherever they run.

A table is a row of integer weights that sum to 2^24 - n for n symbols. constriction
gives every symbol one unit more, and the total is then its 2^24 exactly: what is
computed here is the very table that is coded with.
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
"""Bits of a probability in the range coder."""


def exp(x: np.ndarray) -> np.ndarray:
    """e^x for -700 <= x <= 0, to about 1e-13, by IEEE basic operations alone."""
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
    """CDF of the logistic distribution with scale 1."""
    e = exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1 + e)


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """CDF of the standard normal distribution, to about 1e-13 absolute."""
    # Phi(x) = 1/2 + phi(x) (x + x^3 / 3 + x^5 / (3 5) + ...); nothing is left past 8
    x = np.clip(x, -8.0, 8.0)
    term = x
    total = x
    for n in range(3, 301, 2):
        term = term * x * x / n
        total = total + term
    inv_sqrt_2pi = 0.3989422804014327
    return np.clip(0.5 + inv_sqrt_2pi * exp(-x * x / 2) * total, 0.0, 1.0)


def quantize_cdf(cdf: np.ndarray, n_symbols: int) -> np.ndarray:
    """Integer values of a CDF, 0 .. 2^24 - n_symbols, whose differences are weights."""
    return np.rint(cdf * float((1 << PRECISION) - n_symbols)).astype(np.int32)


def symbol_weights(edges: np.ndarray) -> np.ndarray:
    """Weights of the n + 1 symbols between n integer values of a CDF, float32.

    The outermost two, below the first value and above the last, are what is left.
    """
    total = (1 << PRECISION) - (edges.shape[-1] + 1)
    return np.diff(edges, prepend=0, append=total, axis=-1).astype(np.float32)
