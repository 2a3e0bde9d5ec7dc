"""Integer CDF tables of a distribution under uniform noise, for each of 128 scales."""

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

# Half-widths of tables. They are few, so that many symbols share one width.
_HALF_WIDTHS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256])
_ESCAPE_BITS = 20


class ScaleTable:
    """Codes integers k with P(k | j, scale) = G(k - j / N + 1/2) - G(k - j / N - 1/2).

    G is the CDF of a logistic or normal distribution with mean 0 and a scale of the table.
    j / N is the offset of the location within a cell, N = 32. One CDF row per scale, at
    multiples of 1 / N, contains the tables of all offsets. Symbols beyond the half-width R
    of a scale's table are coded as an escape symbol and their excess over R.

    Args:
        scales: standard deviations, ascending, float32, ``[128]``, in units of the noise's
            width.
        cdf: integer CDF of each scale, int32, ``[128, n]``.
        length: used length of each row, int32, ``[128]``.
        offset: -R of each scale, int32, ``[128]``.
    """

    def __init__(
        self, scales: np.ndarray, cdf: np.ndarray, length: np.ndarray, offset: np.ndarray
    ):
        self.scales, self.cdf, self.length, self.offset = scales, cdf, length, offset
        self._weights: dict[int, np.ndarray] = {}

    @classmethod
    @functools.lru_cache(maxsize=4)  # stages may share one
    def spanning(cls, prior_type: str, low: float, high: float) -> "ScaleTable":
        """Build the table of 128 scales, equally spaced in the logarithm.

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
        tail = 11.8 if logistic else 4.4  # the mass of G beyond it is 2^-16
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
        """R of each scale: symbols -R..R are coded without an escape."""
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

        Values with a large scale reduce the distortion most per bit, so they come first.

        Args:
            indexes: scale index of each value, ``[m]``.

        Yields:
            half-width R, positions of the run's values in ``indexes``, and their rows in
            ``weights(R)``.
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
            the symbols, int32, and a mask of those that were coded: a truncated bitstream
            ends early.
        """
        coded, mask = np.zeros(len(indexes), np.int32), np.zeros(len(indexes), bool)
        for R, places, rows in self.runs(indexes):
            weights = self.weights(R)[rows, j[places] + N // 2]
            symbols = None if k is None else k[places].clip(-R - 1, R + 1) + R + 1
            symbols, is_coded = coder.code_categorical(symbols, weights)
            symbols = symbols - (R + 1)
            escaped = np.flatnonzero(is_coded & (np.abs(symbols) > R))
            excess = None if k is None else np.abs(k[places[escaped]]) - R - 1
            excess, has_excess = coder.code_uniform(excess, len(escaped), 1 << _ESCAPE_BITS)
            symbols[escaped] += np.sign(symbols[escaped]) * excess
            is_coded[escaped] = has_excess
            coded[places], mask[places] = symbols, is_coded
        return coded, mask
