"""Integer CDF tables of a distribution under uniform noise, one for each of 128 scales."""

import functools
import math

from collections.abc import Iterator

import numpy as np

from ..bitstream.cdf import logistic_cdf, normal_cdf, quantize_cdf, symbol_weights
from ..bitstream.symbols import SymbolCoder
from ..fingerprint import Fingerprint
from ..quantization.lattice import LATTICE as N
from .tables import chunks

__all__ = ["N_SCALES", "ScaleTable"]

N_SCALES = 128
"""Number of scales in a table."""

# Half-widths of tables, few, so that many symbols share one width.
_HALF_WIDTHS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256])
_ESCAPE_BITS = 20


class ScaleTable:
    """Codes integers k with P(k | j, scale) = G(k - j / N + 1/2) - G(k - j / N - 1/2).

    G is a logistic or a normal distribution at 0, scaled by an entry of the table, and
    j / N the offset of its location within a cell, N = 32. One CDF row per scale, at
    multiples of 1 / N, holds the tables of all offsets. Symbols beyond the half-width R of
    a scale's table are escaped.

    Args:
        scales: standard deviations, ascending, float32, ``[128]``, in units of the noise.
        cdf: integer CDF of each, int32, ``[128, n]``.
        length: used part of each row, int32, ``[128]``.
        offset: -R of each, int32, ``[128]``.
    """

    def __init__(
        self, scales: np.ndarray, cdf: np.ndarray, length: np.ndarray, offset: np.ndarray
    ):
        self.scales, self.cdf, self.length, self.offset = scales, cdf, length, offset
        self._weights: dict[int, np.ndarray] = {}

    @classmethod
    @functools.lru_cache(maxsize=4)  # stages may share one
    def spanning(cls, prior_type: str, low: float, high: float) -> "ScaleTable":
        """Build the table of scales that are equally spaced in the logarithm.

        Args:
            prior_type: G, ``"logistic"`` or ``"normal"``.
            low: natural logarithm of the smallest scale.
            high: natural logarithm of the largest.
        """
        high = min(max(high, low + 1e-3), 10.0)
        table = np.exp(np.linspace(min(low, high - 1e-3), high, N_SCALES))
        table = table.astype(np.float32)  # rounded, so that all platforms agree
        scales = table.astype(np.float64)

        logistic = prior_type == "logistic"
        if logistic:
            scales = scales * (math.sqrt(3) / math.pi)
        tail = 11.8 if logistic else 4.4  # where 2^-16 is left of G
        width = np.searchsorted(_HALF_WIDTHS, np.minimum(scales * tail, 256))
        R = _HALF_WIDTHS[width]

        length = 2 * (R + 1) * N + 1
        cdf = np.zeros((N_SCALES, length.max()), np.int32)
        for i in range(N_SCALES):
            x = (np.arange(length[i]) - (R[i] + 1) * N) / (N * scales[i])
            G = logistic_cdf(x) if logistic else normal_cdf(x)
            cdf[i, : length[i]] = quantize_cdf(G, 2 * R[i] + 3)
        return cls(table, cdf, length.astype(np.int32), (-R).astype(np.int32))

    @property
    def half_widths(self) -> np.ndarray:
        """R of each scale: symbols from -R to R have an entry of their own."""
        return -self.offset

    def fingerprint(self) -> Fingerprint:
        """Yield the arrays that a bitstream depends on."""
        yield "scale_table", self.scales
        yield "cdf", self.cdf
        yield "length", self.length
        yield "offset", self.offset

    def weights(self, R: int) -> np.ndarray:
        """Return the tables of all scales of half-width R, ``[scales, N, 2 R + 3]``."""
        if R not in self._weights:
            cdf = self.cdf[self.half_widths == R, : 2 * (R + 1) * N + 1]
            j = np.arange(N) - N // 2
            edges = cdf[:, (N // 2 - j)[:, None] + N * np.arange(2 * R + 2)]
            self._weights[R] = symbol_weights(edges)
        return self._weights[R]

    def runs(self, indexes: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Order values by decreasing scale, in runs of one table width.

        Values with a large scale remove most distortion per bit, so they come first.

        Args:
            indexes: scale index of each value, ``[m]``.

        Yields:
            half-width R, places of the run's values, and their rows in ``weights(R)``.
        """
        order = np.argsort(N_SCALES - 1 - indexes, kind="stable")
        widths = self.half_widths[indexes[order]]
        starts = np.flatnonzero(np.diff(widths, prepend=-1))
        for start, end in zip(starts, np.append(starts[1:], len(order))):
            R = int(widths[start])
            first = int(np.flatnonzero(self.half_widths == R)[0])
            for chunk in chunks(int(start), int(end), 2 * R + 3):
                places = order[chunk]
                yield R, places, indexes[places] - first

    def code(
        self, coder: SymbolCoder, k: np.ndarray | None, indexes: np.ndarray, j: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Code symbols.

        Args:
            coder: encoder, decoder or rate estimator.
            k: the symbols, ``[m]``, or None to decode them.
            indexes: scale index of each, ``[m]``.
            j: offset of the location, -16..15, ``[m]``.

        Returns:
            the symbols, int32, and a mask of those that are there, for a truncated
            bitstream may end early.
        """
        found, there = np.zeros(len(indexes), np.int32), np.zeros(len(indexes), bool)
        for R, where, rows in self.runs(indexes):
            weights = self.weights(R)[rows, j[where] + N // 2]
            symbols = None if k is None else k[where].clip(-R - 1, R + 1) + R + 1
            symbols, is_there = coder.code_categorical(symbols, weights)
            symbols = symbols - (R + 1)
            escaped = np.flatnonzero(is_there & (np.abs(symbols) > R))
            excess = None if k is None else np.abs(k[where[escaped]]) - R - 1
            excess, more = coder.code_uniform(excess, len(escaped), 1 << _ESCAPE_BITS)
            symbols[escaped] += np.sign(symbols[escaped]) * excess
            is_there[escaped] = more
            found[where], there[where] = symbols, is_there
        return found, there
