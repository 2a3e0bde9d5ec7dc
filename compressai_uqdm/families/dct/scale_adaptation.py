"""Adaptation of a stage's scales to one picture.

The scale indexes from the context network fit photographs on average. The encoder may shift
them for its picture, by one number for each of the 192 coefficients of a block, coded as
side information (:mod:`.parameter_updates`). This saves about 1% of a stage's bits.
"""

from typing import NamedTuple

import numpy as np
import torch

from torch import Tensor

from ...bitstream.parameter_updates import UPDATE_MAX, cost
from ...entropy_models.logistic import log_mass

__all__ = ["CodedValues", "fit", "stride"]

_CANDIDATES = 6 * np.arange(-2, 3)  # shifts of the scale index
_SAMPLE = 1 << 13  # values used for a fit
_MIN_SAVING = 2.0  # nats that a shift must save: about its cost
_FAR = 1e4  # ends of cells are clipped to so many scales; the mass beyond is negligible


class CodedValues(NamedTuple):
    """Coded values of a subband, ``[m]`` each; ends are relative to the location."""

    channels: np.ndarray
    """Coefficient within the subband, integers."""

    below: np.ndarray
    """Lower end of the value's cell."""

    above: np.ndarray
    """Upper end of the value's cell."""

    first: np.ndarray
    """Lower end of its cell of the stage before; -inf if no earlier stage coded it."""

    last: np.ndarray
    """Upper end of its cell of the stage before."""

    log_scales: np.ndarray
    """Natural logarithm of the logistic's scale."""


def stride(m: int) -> int:
    """Return the stride of the values that a fit uses, of m values in all."""
    return max(1, -(-m // _SAMPLE))


def fit(values: CodedValues, n: int, per_entry: float, every: int) -> np.ndarray:
    """Return the shifts of the scale indexes, all 0 if they save less than they cost.

    Args:
        values: the sampled values.
        n: number of coefficients of the subband.
        per_entry: logarithm of the ratio of two consecutive scales in the table.
        every: stride of the sample, see :func:`stride`.

    Returns:
        shift of each coefficient, int64, ``[n]``.
    """
    below, above, first, last, log_scales = (
        torch.from_numpy(array.astype(np.float32)) for array in values[1:]
    )
    refinements = torch.from_numpy(np.flatnonzero(np.isfinite(values.first)))

    def nats(shifts: np.ndarray) -> np.ndarray:
        """Return the cost of each coefficient's values for k shifts, both ``[k, n]``."""
        moves = torch.from_numpy((shifts * per_entry).astype(np.float32))
        shrink = torch.exp(-(log_scales + moves[:, values.channels]))
        rows = n * np.arange(len(shifts))[:, None]

        def sums_of(
            low: Tensor, high: Tensor, shrink: Tensor, channels: np.ndarray
        ) -> np.ndarray:
            u, v = ((end * shrink).clamp_(-_FAR, _FAR) for end in (low, high))
            each = -log_mass(u, v).double().numpy().reshape(-1)
            sums = np.bincount((rows + channels).reshape(-1), each, n * len(shifts))
            return sums.reshape(len(shifts), n)

        total = sums_of(below, above, shrink, values.channels)
        if len(refinements):
            ends, channels = (
                (first[refinements], last[refinements]),
                values.channels[refinements],
            )
            total -= sums_of(*ends, shrink[:, refinements], channels)
        return total

    costs = nats(np.repeat(_CANDIDATES[:, None], n, 1))
    # the minimum of a parabola through the best candidate and its two neighbours
    best = costs.argmin(0).clip(1, len(_CANDIDATES) - 2)
    a, b, c = (np.take_along_axis(costs, best[None] + i, 0)[0] for i in (-1, 0, 1))
    bend = np.maximum(a - 2 * b + c, 1e-9)
    offset = ((a - c) / (2 * bend)).clip(-1, 1)
    spacing = _CANDIDATES[1] - _CANDIDATES[0]
    shifts = np.rint(_CANDIDATES[best] + spacing * offset).astype(np.int64)
    shifts = shifts.clip(-UPDATE_MAX, UPDATE_MAX)
    saved = every * (costs[len(_CANDIDATES) // 2] - nats(shifts[None])[0])
    shifts[saved < _MIN_SAVING] = 0
    pays = saved[saved >= _MIN_SAVING].sum() > cost([shifts])
    return shifts if pays else np.zeros(n, np.int64)
