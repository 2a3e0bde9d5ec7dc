"""One interface to code symbols with: a model calls it, and need not know the direction.

The range encoder writes the symbols, the range decoder reads them
(:mod:`.range_coder`), and :class:`RateEstimator` records how likely they were.
"""

from typing import Protocol

import numpy as np

from .cdf import PRECISION

__all__ = ["RateEstimator", "SymbolCoder"]


class SymbolCoder(Protocol):
    """Where symbols come from and go to, whichever way a picture is coded."""

    def code_categorical(
        self, r: np.ndarray | None, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Symbols r, ``[m]``, by a table of weights for each, ``[m, n]``.

        Args:
            r: the symbols, or None where they are to be read.
            weights: tables as of :mod:`.bitstream.cdf`.

        Returns:
            the symbols, and which of them are there: a stream may end early.
        """

    def code_uniform(
        self, r: np.ndarray | None, count: int, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Symbols r, ``[count]``, of 0..size-1 that are equally likely; likewise."""


class RateEstimator:
    """Notes the likelihoods of symbols, as a :class:`SymbolCoder`."""

    def __init__(self) -> None:
        self._noted: list[np.ndarray] = []

    def code_categorical(
        self, r: np.ndarray | None, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Note those of symbols, ``[m]``, all of which are there."""
        assert r is not None
        chosen = np.take_along_axis(weights, r[:, None], 1)[:, 0]
        self._noted.append((chosen.astype(np.float64) + 1) / (1 << PRECISION))
        return r, np.ones(len(r), bool)

    def code_uniform(
        self, r: np.ndarray | None, count: int, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Likewise."""
        assert r is not None
        self._noted.append(np.full(count, 1 / size))
        return r, np.ones(count, bool)

    def take(self) -> np.ndarray:
        """All that were noted since the last time, float64, ``[m]``."""
        noted, self._noted = self._noted, []
        return np.concatenate([np.empty(0), *noted])
