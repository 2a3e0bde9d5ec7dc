"""The context network of DCT coefficients, in integers (:mod:`compressai_uqdm.integer`)."""

import functools
import math

import numpy as np
import torch
import torch.nn as nn

from torch import Tensor

from ...integer.arithmetic import HIDDEN_MAX, WEIGHT_BITS, activate
from ...integer.layers import FixedPoint, IntegerBias, IntegerLinear
from ...integer.network import IntegerNetwork
from ...quantization.nested import POINTS
from .block_order import OPPOSITE_PARITY, SAME_PARITY

__all__ = ["SubbandContextLayer", "context_features"]

ACTIVATION_BITS = 4
"""Fractional bits of features and hidden activations."""

FEATURE_MAX = 127
SUM_BITS = WEIGHT_BITS + ACTIVATION_BITS
AT_ONCE = 1 << 13  # blocks, to bound memory


@functools.cache
def _magnitudes(device: torch.device) -> Tensor:
    """log(1 + 2 q), in fixed point, of q in 1/32: as far as it is below the bound."""
    q = np.arange(POINTS * (1 << 11)) / POINTS
    values = np.rint(np.log1p(2 * q) * (1 << ACTIVATION_BITS))
    return torch.from_numpy(values.clip(max=FEATURE_MAX).astype(np.float32)).to(device)


def context_features(
    location: Tensor, values: Tensor, sent: Tensor, width: int, unit: int
) -> Tensor:
    """What coefficients of blocks tell those around: ``[N + 1, 3 n]``, zeros last.

    Args:
        location: of each coefficient's prior, in 1/32 of the width, ``[N, n]``.
        values: of the coefficients, likewise.
        sent: which are known.
        width: of the cells.
        unit: what the network counts in.
    """
    factor = round(width / unit * 2**16) / 2**16  # products with it are exact

    def counted(points: Tensor) -> Tensor:
        return (points * factor).round_()

    def of(location: Tensor, values: Tensor, sent: Tensor) -> Tensor:
        residual = counted((values - location) * sent)
        features = [
            residual.sign() * _magnitude(residual),
            _magnitude(counted(values)) * sent,
            (sent.to(values) - 0.5) * (1 << ACTIVATION_BITS),
        ]
        return torch.cat(features, 1).float()

    N, n = values.shape
    found = torch.zeros(N + 1, 3 * n, dtype=torch.float32, device=values.device)
    found[:-1, 2 * n :] = -0.5 * (1 << ACTIVATION_BITS)
    # of most blocks nothing was sent
    for rows in sent.any(1).nonzero()[:, 0].split(AT_ONCE):
        known = (plane.index_select(0, rows) for plane in (location, values, sent))
        found.index_copy_(0, rows, of(*known))
    return found


class SubbandContextLayer(IntegerNetwork):
    """Weights of one step.

    Activations are rounded to the nearest, halves to even.

    Args:
        n: coefficients of the subset.
        hidden: width of the state.

    Attributes:
        state: bias of the state.
        mix, head: the second layer and the outputs.
        same_parity, opposite_parity: what features add to states.
    """

    file_names = {"state_bias": "bias"}

    def __init__(self, n: int, hidden: int):
        super().__init__()

        def linear(inputs: int, outputs: int, largest: int, gain: float) -> IntegerLinear:
            layer = IntegerLinear(inputs, outputs, FixedPoint(ACTIVATION_BITS, largest))
            bound = gain / math.sqrt(inputs)
            nn.init.uniform_(layer.weight, -bound, bound)
            return layer

        self.state = IntegerBias(hidden, SUM_BITS)
        self.mix = linear(hidden, hidden, HIDDEN_MAX, 1.0)
        # zero at first
        self.head = IntegerLinear(hidden, 2 * n, FixedPoint(ACTIVATION_BITS, HIDDEN_MAX))
        same, opposite = (3 * n * len(around) for around in (SAME_PARITY, OPPOSITE_PARITY))
        self.same_parity = linear(same, hidden, FEATURE_MAX, 0.37)
        self.opposite_parity = linear(opposite, hidden, FEATURE_MAX, 0.33)

    def entropy_parameters(self, state: Tensor) -> Tensor:
        """Location and log scale, ``[N, 2 n]``, from states of blocks, ``[N, hidden]``."""
        h = activate(self.state(state), WEIGHT_BITS, nearest=True)
        h = activate(self.mix(h), WEIGHT_BITS, nearest=True)
        return self.head(h)

    def propagate_context(self, name: str, features: Tensor, around: Tensor) -> Tensor:
        """What features add to states, ``[N, hidden]``.

        Args:
            name: ``"same_parity"`` or ``"opposite_parity"``: whose states change.
            features: ``[M + 1, 3 n]``, zeros last.
            around: places of the features of the blocks around each.
        """
        # by one index it is four times as fast
        seen = features.index_select(0, around.flatten())
        return getattr(self, name)(seen.view(len(around), -1))


def _magnitude(points: Tensor) -> Tensor:
    table = _magnitudes(points.device)
    return table[points.abs().clamp(max=len(table) - 1).long()].to(points)
