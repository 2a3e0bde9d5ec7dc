"""Scales of a stage in the cosine basis, moved for one picture.

Entries of the scale table that a network gives are right for photographs on the whole.
Of one picture an encoder may tell, for every coefficient, by how many entries those that
are sent should be moved (:mod:`.parameter_updates`): about 1% of a stage's bits.
"""

from typing import NamedTuple

import numpy as np
import torch

from torch import Tensor

from ...bitstream.parameter_updates import STEPS_MAX, cost
from ...entropy_models.logistic import log_mass

__all__ = ["CodedValues", "fit", "stride"]

_TRIED = 6 * np.arange(-2, 3)  # entries
_SAMPLE = 1 << 13  # values that a fit looks at
_LEAST = 2.0  # nats that a move must save: about what it costs
_FAR = 1e4  # scales: as good as infinitely far


class CodedValues(NamedTuple):
    """Values of a group that are sent, ``[m]`` each; places are from the location."""

    channels: np.ndarray
    """Which coefficient of the group, integers."""

    below: np.ndarray
    """Lower end of its cell."""

    above: np.ndarray
    """Upper end of it."""

    first: np.ndarray
    """Lower end of what it was known to be in; -inf where nothing was known."""

    last: np.ndarray
    """Upper end of that."""

    log_scales: np.ndarray
    """Natural logarithm of the logistic's scale."""


def stride(m: int) -> int:
    """Of m values, a fit looks at every so many."""
    return max(1, -(-m // _SAMPLE))


def fit(sent: CodedValues, n: int, per_entry: float, every: int) -> np.ndarray:
    """Entries to move the scales by, all 0 where that would not pay.

    Args:
        sent: the values.
        n: coefficients of the group.
        per_entry: logarithm of the ratio of an entry's scale to that before.
        every: of so many values in the group they are one, see :func:`stride`.

    Returns:
        int64, ``[n]``.
    """
    below, above, first, last, log_scales = (
        torch.from_numpy(values.astype(np.float32)) for values in sent[1:]
    )
    is_refinement = torch.from_numpy(np.flatnonzero(np.isfinite(sent.first)))

    def nats(steps: np.ndarray) -> np.ndarray:
        """What the values of each coefficient cost with scales so moved, ``[k, n]``."""
        moves = torch.from_numpy((steps * per_entry).astype(np.float32))
        shrink = torch.exp(-(log_scales + moves[:, sent.channels]))
        rows = n * np.arange(len(steps))[:, None]

        def of(
            low: Tensor, high: Tensor, shrink: Tensor, channels: np.ndarray
        ) -> np.ndarray:
            u, v = ((end * shrink).clamp_(-_FAR, _FAR) for end in (low, high))
            found = -log_mass(u, v).double().numpy().reshape(-1)
            sums = np.bincount((rows + channels).reshape(-1), found, n * len(steps))
            return sums.reshape(len(steps), n)

        cost = of(below, above, shrink, sent.channels)
        if len(is_refinement):
            ends, channels = (
                (first[is_refinement], last[is_refinement]),
                sent.channels[is_refinement],
            )
            cost -= of(*ends, shrink[:, is_refinement], channels)
        return cost

    tried = nats(np.repeat(_TRIED[:, None], n, 1))
    # the least of a parabola through the best one and those beside it
    best = tried.argmin(0).clip(1, len(_TRIED) - 2)
    a, b, c = (np.take_along_axis(tried, best[None] + i, 0)[0] for i in (-1, 0, 1))
    bend = np.maximum(a - 2 * b + c, 1e-9)
    offset = ((a - c) / (2 * bend)).clip(-1, 1)
    spacing = _TRIED[1] - _TRIED[0]
    steps = np.rint(_TRIED[best] + spacing * offset).astype(np.int64)
    steps = steps.clip(-STEPS_MAX, STEPS_MAX)
    saved = every * (tried[len(_TRIED) // 2] - nats(steps[None])[0])
    steps[saved < _LEAST] = 0
    pays = saved[saved >= _LEAST].sum() > cost([steps])
    return steps if pays else np.zeros(n, np.int64)
