"""The symbol coder: one interface to encode, to decode and to estimate the rate.

The range encoder writes the symbols, the range decoder reads them (:mod:`.range_coder`),
and :class:`RateEstimator` records their likelihoods. Models code all symbols through this
interface, so one function serves all three.
"""

from typing import Protocol

import numpy as np

from .cdf import PRECISION

__all__ = ["RateEstimator", "SymbolCoder"]


class SymbolCoder(Protocol):
    """Encodes, decodes or estimates symbols."""

    def code_categorical(
        self, r: np.ndarray | None, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Code m symbols, each with a table of its own.

        Args:
            r: the symbols, integers 0..n-1, ``[m]``, or None to decode them.
            weights: tables as defined in :mod:`.bitstream.cdf`, float32, ``[m, n]``.

        Returns:
            the symbols, ``[m]``, and a mask of those that were coded, bool, ``[m]``. A
            truncated bitstream ends early; symbols that it does not hold are 0.
        """

    def code_uniform(
        self, r: np.ndarray | None, count: int, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Code symbols that are uniform on 0..size-1.

        Args:
            r: the symbols, ``[count]``, or None to decode them.
            count: number of symbols.
            size: number of values that a symbol can have.

        Returns:
            the symbols and a mask, as from :meth:`code_categorical`.
        """


class RateEstimator:
    """A :class:`SymbolCoder` that records the likelihoods of symbols and writes nothing."""

    def __init__(self) -> None:
        self._likelihoods: list[np.ndarray] = []

    def code_categorical(
        self, r: np.ndarray | None, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Record the likelihoods of symbols, see :meth:`SymbolCoder.code_categorical`."""
        assert r is not None
        chosen = np.take_along_axis(weights, r[:, None], 1)[:, 0]
        self._likelihoods.append((chosen.astype(np.float64) + 1) / (1 << PRECISION))
        return r, np.ones(len(r), bool)

    def code_uniform(
        self, r: np.ndarray | None, count: int, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Record the likelihoods of symbols, see :meth:`SymbolCoder.code_uniform`."""
        assert r is not None
        self._likelihoods.append(np.full(count, 1 / size))
        return r, np.ones(count, bool)

    def take(self) -> np.ndarray:
        """Return the likelihoods recorded since the last call, float64, ``[m]``."""
        likelihoods, self._likelihoods = self._likelihoods, []
        return np.concatenate([np.empty(0), *likelihoods])
