"""The context network of DCT coefficients, in integers."""

import functools
import math

from typing import Any

import numpy as np
import torch
import torch.nn as nn

from torch import Tensor

from ...quantization.nested import POINTS
from .block_order import OPPOSITE_PARITY, SAME_PARITY

__all__ = [
    "SubbandContextLayer",
    "activate_sums",
    "context_features",
    "fractional_bits",
    "rounded",
]

# Fractional bits and bounds of the fixed-point numbers.
WEIGHT_BITS = 8
ACTIVATION_BITS = 4
FEATURE_MAX = 127
HIDDEN_MAX = 1023
SUM_BITS = WEIGHT_BITS + ACTIVATION_BITS
EXACT = 1 << 24
AT_ONCE = 1 << 13  # blocks, to bound memory


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return (x * factor).round_()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def rounded(x: Tensor, factor: float = 1.0) -> Tensor:
    """The integers nearest to multiples of x, with the gradient of these multiples."""
    return _Rounded.apply(x, factor)


def activate_sums(sums: Tensor) -> Tensor:
    """A layer's activations, float32, from its sums: rounded, ReLU, with an upper bound.

    Sums from 2^24 on are beyond the bound, and so they are where a float32 rounds them.
    """
    # whose gradient takes one pass; clamp's takes three
    return nn.functional.hardtanh(rounded(sums.float(), 2.0**-WEIGHT_BITS), 0, HIDDEN_MAX)


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


def fractional_bits(name: str) -> int:
    """Fractional bits of a parameter; those of biases are those of sums."""
    return SUM_BITS if name.endswith("bias") else WEIGHT_BITS


class SubbandContextLayer(nn.Module):
    """Weights of one step.

    Args:
        n: coefficients of the group.
        hidden: width of the state.
    """

    def __init__(self, n: int, hidden: int):
        super().__init__()

        def weights(outputs: int, inputs: int, gain: float) -> nn.Parameter:
            bound = gain / math.sqrt(inputs)
            weight = torch.empty(outputs, inputs, dtype=torch.float32)
            return nn.Parameter(weight.uniform_(-bound, bound))

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, dtype=torch.float32))

        self.bias = zeros(hidden)
        self.mix = weights(hidden, hidden, 1.0)
        self.mix_bias = zeros(hidden)
        self.head = zeros(2 * n, hidden)
        self.head_bias = zeros(2 * n)
        self.same_parity = weights(hidden, len(SAME_PARITY) * 3 * n, 0.37)
        self.same_parity_bias = zeros(hidden)
        self.opposite_parity = weights(hidden, len(OPPOSITE_PARITY) * 3 * n, 0.33)
        self.opposite_parity_bias = zeros(hidden)

    def fixed(self, name: str) -> Tensor:
        """A parameter as integers."""
        return rounded(getattr(self, name).float(), 2.0 ** fractional_bits(name))

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any
    ) -> None:
        # weights may come as the integers that they are rounded to
        for name, _ in self.named_parameters():
            value = state_dict.get(prefix + name)
            if value is not None and not value.is_floating_point():
                state_dict[prefix + name] = value.float() * 2.0 ** -fractional_bits(name)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def entropy_parameters(self, state: Tensor) -> Tensor:
        """Location and log scale, ``[N, 2 n]``, from states of blocks, ``[N, hidden]``."""
        h = activate_sums(state + self.fixed("bias").to(state.dtype))
        h = activate_sums(torch.addmm(self.fixed("mix_bias"), h, self.fixed("mix").T))
        return torch.addmm(self.fixed("head_bias"), h, self.fixed("head").T)

    def propagate_context(self, name: str, features: Tensor, around: Tensor) -> Tensor:
        """What features add to states, ``[N, hidden]``.

        Args:
            name: ``"same_parity"`` or ``"opposite_parity"``: whose states change.
            features: ``[M + 1, 3 n]``, zeros last.
            around: places of the features of the blocks around each.
        """
        bias, weights = self.fixed(f"{name}_bias"), self.fixed(name).T
        # by one index it is four times as fast
        seen = features.index_select(0, around.flatten())
        return torch.addmm(bias, seen.view(len(around), len(weights)), weights)

    def check(self) -> None:
        """Raise a ValueError where a sum could be rounded."""
        inputs = {"mix": HIDDEN_MAX, "head": HIDDEN_MAX}
        for name in ("same_parity", "opposite_parity", "mix", "head"):
            largest = inputs.get(name, FEATURE_MAX)
            weight, bias = self.fixed(name), self.fixed(f"{name}_bias")
            total = weight.double().abs().sum(1) * largest + bias.double().abs()
            if total.max() >= EXACT:
                raise ValueError(
                    f"weights {name!r} are too large: a sum may reach {int(total.max())}, "
                    "and must stay below 2^24"
                )


def _magnitude(points: Tensor) -> Tensor:
    table = _magnitudes(points.device)
    return table[points.abs().clamp(max=len(table) - 1).long()].to(points)
