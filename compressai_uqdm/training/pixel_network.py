"""The network of pixels in floats, as it is fitted."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from torch import Tensor

from ..entropy_models import logistic
from ..entropy_models.coding_order import CODING_ORDER
from ..families.uqdm.pixel_network import (
    INPUT_BITS,
    INPUT_MAX,
    TRUNK_LAYERS,
    PixelNetwork,
    channel_of,
)
from .twin import FloatTwin, activated, rounded

__all__ = [
    "INPUT_LIMIT",
    "ORDER",
    "FloatNetwork",
    "in_phases",
    "log_mass",
]

INPUT_LIMIT = INPUT_MAX / (1 << INPUT_BITS)
"""The largest input of the network."""

ORDER = [channel_of(g) for g in range(len(CODING_ORDER))]
"""Where each group stands among the phases of a picture."""

_SUM_LIMIT = 62.0  # of 64, where a sum of integers would reach 2^24; the rest is for biases


class FloatNetwork(FloatTwin[PixelNetwork]):
    """:class:`.PixelNetwork` before rounding.

    Args:
        planes: number of planes beside the guess.
    """

    def __init__(self, planes: int):
        super().__init__(PixelNetwork(planes))
        w = self.w
        for name, weight in w.items():
            shape = weight.shape
            fan_in = math.prod(shape[2:]) if len(shape) != 4 else math.prod(shape[1:])
            if name.startswith("trunk_") and not name.endswith("bias"):
                gain = 1 if name == "trunk_mix" else 2
                nn.init.normal_(weight, std=math.sqrt(gain / fan_in))
            elif name in ("conv", "mix"):
                nn.init.normal_(weight, std=math.sqrt((1 + (name == "mix")) / fan_in))
        with torch.no_grad():
            w["conv"][:, -1] = 0  # the linear path starts at nothing
        # the phases of a picture that are decoded before each group
        levels = torch.zeros(len(CODING_ORDER), len(CODING_ORDER))
        for g in range(len(CODING_ORDER)):
            levels[g, ORDER[:g]] = 1
        self.register_buffer("decoded", levels)
        self.decoded: Tensor

    def trunk(self, planes: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
        """What to change the guess by, ``[n, 12, h, w]``, and what all groups share.

        Args:
            planes: phases of all planes, the guess first, ``[n, 12 (planes + 1), h, w]``.
            guess: those of the guess.
        """
        for i in range(TRUNK_LAYERS):
            weight, bias = self.weight(f"trunk_{i}"), self.w[f"trunk_{i}_bias"]
            planes = activated(F.conv2d(planes, weight, bias, padding=1))
        change = F.conv2d(
            guess, self.weight("estimate_conv"), self.w["estimate_bias"], padding=1
        )
        change = change + F.conv2d(planes, self.weight("estimate")[:, :, None, None])
        return rounded(change.clamp(-INPUT_LIMIT, INPUT_LIMIT), INPUT_BITS), planes

    def groups(
        self, decoded: Tensor, others: Tensor, shared: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Moves of the locations, and log scales, of all groups, ``[n, 12, h, w]``.

        Args:
            decoded: what a group sees of the phases decoded before it, ``[n, 12, h, w]``.
            others: what it sees of the others.
            shared: as of :meth:`trunk`.
        """
        n, (B, _, h, w) = len(CODING_ORDER), decoded.shape
        picture = torch.cat([others, decoded], 1)
        sees = torch.cat([1 - self.decoded, self.decoded], 1)
        conv = self.weight("conv").repeat(1, 1, 2, 1, 1)
        conv = (conv * sees[:, None, :, None, None]).flatten(0, 1)
        sums = F.conv2d(picture, conv, padding=1).view(B, n, -1, h * w)
        shared, linear = shared.flatten(2), sums[:, :, -1]
        hidden = sums[:, :, :-1] + self.w["conv_bias"][:, :, None]
        mixed = self.weight("trunk_mix").flatten(0, 1) @ shared
        hidden = activated(hidden + mixed.view(hidden.shape))
        hidden = self.weight("mix") @ hidden + self.w["mix_bias"][:, :, None]
        out = self.weight("head") @ activated(hidden) + self.w["head_bias"][:, :, None]
        move, log_scale = (out[:, :, i].unflatten(2, (h, w)) for i in (0, 1))
        return move + linear.unflatten(2, (h, w)), log_scale

    @torch.no_grad()
    def keep_sums_small(self) -> None:
        """Shrink weights of sums that integers could not hold exactly."""
        w = self.w
        for terms in (
            *([(w[f"trunk_{i}"], 1)] for i in range(TRUNK_LAYERS)),
            [(w["estimate_conv"], 2), (w["estimate"], 1)],
            [(w["conv"][:, :-1].flatten(0, 1), 2), (w["trunk_mix"].flatten(0, 1), 1)],
            [(w["mix"].flatten(0, 1), 1)],
            [(w["head"].flatten(0, 1), 1)],
        ):
            total = sum(factor * t.abs().flatten(1).sum(1) for t, factor in terms)
            shrink = (_SUM_LIMIT / torch.as_tensor(total)).clamp(max=1)
            for t, _ in terms:
                t.mul_(shrink.view(-1, *[1] * (t.dim() - 1)))


def in_phases(plane: Tensor) -> Tensor:
    """The 2x2 phases of planes as channels, ``[n, 3, H, W]`` to ``[n, 12, h, w]``."""
    return F.pixel_unshuffle(plane, 2)


def log_mass(location: Tensor, scale: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Logarithm of the logistic's mass from half a level below to half a level above."""
    ends = (first - 0.5 - location) / scale, (last + 0.5 - location) / scale
    return logistic.log_mass(*ends)
