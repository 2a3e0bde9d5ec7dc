"""Fitting the prior of pixels of a CosineUQDM, whose stages stay as they are.

The network of integers is fitted as floats that are rounded as it will round them, to the
bits of all levels.
"""

import functools
import math

from typing import NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from torch import Tensor

from ..entropy_models.coding_order import CODING_ORDER
from ..families.dct.model import CosineLatent, CosineUQDM
from ..families.dct.pixel_network import SHAPES, PixelNetwork
from ..families.dct.pixel_posterior import INPUT_BITS, INPUT_MAX, POSITION_BITS, SIDE
from ..families.dct.pixel_prior import SCALE_SPAN
from ..integer.arithmetic import HIDDEN_BITS, HIDDEN_MAX
from .pixel_network import log_mass
from .twin import FloatTwin, activated, rounded

__all__ = ["FloatWindows", "PixelCrops", "crops_of", "pixel_crops"]

_SUM_LIMIT = 62.0  # of 64, where a sum of integers would reach 2^24; the rest is for biases
_FAR = 1e5  # levels: as good as infinitely far


class PixelCrops(NamedTuple):
    """Crops, and what the stages before the pixels tell of them."""

    levels: Tensor  # uint8, [n, 3, H, W]
    positions: Tensor  # of the picture, in levels, [n, 3, H, W]
    planes: Tensor  # what the network sees of it, [n, 6, H, W]
    bands: Tensor  # and of its blocks, [n, 12, h, w]

    def turned(self) -> "PixelCrops":
        """All turned or seen in a mirror, in one of eight ways."""
        across, down, transposed = (torch.rand(3) < 0.5).tolist()
        dims = [-1] * across + [-2] * down
        turned = (t.flip(dims) for t in self)
        return PixelCrops(*(t.transpose(-1, -2) if transposed else t for t in turned))


@torch.no_grad()
def pixel_crops(net: CosineUQDM, levels: Tensor) -> PixelCrops:
    """What the stages of a model tell of crops, with noise from PyTorch's generator.

    Args:
        net: the model.
        levels: 0..255, ``[n, 3, H, W]``, of sides that are multiples of 8.
    """
    *_, (_, latent) = net.training_likelihoods(levels)
    return crops_of(net, latent, levels)


@torch.no_grad()
def crops_of(net: CosineUQDM, latent: CosineLatent, levels: Tensor) -> PixelCrops:
    """Crops, and what a latent tells of them."""
    posteriors, one = list(latent.pixel_posteriors()), 1 << INPUT_BITS
    arrays = (
        np.stack([p.mean for p in posteriors]) / (1 << POSITION_BITS),
        np.stack([p.planes for p in posteriors]) / one,
        np.stack([p.bands for p in posteriors]) / one,
    )
    return PixelCrops(
        levels.to(torch.uint8), *(torch.from_numpy(a).float() for a in arrays)
    )


class FloatWindows(FloatTwin[PixelNetwork]):
    """:class:`.PixelNetwork` before rounding."""

    def __init__(self) -> None:
        super().__init__(PixelNetwork())
        for name, weight in self.w.items():
            bound = 0.0 if name.startswith("head") or name.endswith("bias") else 1.0
            bound /= math.sqrt(math.prod(weight.shape[2:]))
            nn.init.uniform_(weight, -bound, bound)
        with torch.no_grad():
            self.w["conv"][:, -1] = 0  # the linear path starts at nothing
        self.register_buffer("sees", _visible())
        self.sees: Tensor

    def forward(self, crops: PixelCrops) -> Tensor:
        """Bits of the values of every group, ``[12]``, summed."""
        w = {name: self.weight(name) for name in self.w}
        limit, n = INPUT_MAX / (1 << INPUT_BITS), SIDE // 2
        x, log_deviations = crops.levels.float(), crops.planes[:, 3:]
        deviations = log_deviations.exp()
        errors = rounded(
            ((x - crops.positions) / deviations).clamp(-limit, limit), INPUT_BITS
        )
        planes = F.pad(torch.cat([errors, crops.planes], 1), (n, n, n, n), mode="reflect")
        bands = crops.bands.repeat_interleave(4, 2).repeat_interleave(4, 3).flatten(2)
        low, high = (math.log(scale) for scale in SCALE_SPAN)
        bits = []
        for g, (_, (row, column)) in enumerate(CODING_ORDER):
            of_group = functools.partial(_of_group, g=g)
            conv = w["conv"][g] * self.sees[g]
            sums = F.conv2d(planes[:, :, row:, column:], conv, stride=2)
            sums = sums[:, :, : x.shape[2] // 2, : x.shape[3] // 2].flatten(2)
            hidden = sums[:, :-1] + w["bands"][g] @ bands + w["conv_bias"][g][:, None]
            hidden = w["mix"][g] @ activated(hidden) + w["mix_bias"][g][:, None]
            out = w["head"][g] @ activated(hidden) + w["head_bias"][g][:, None]
            move = out[:, 0] + sums[:, -1]
            log_scale = out[:, 1] + of_group(log_deviations)
            # gradients come through the bounds: else a scale at one would stay there
            bounded = log_scale + (log_scale.clamp(low, high) - log_scale).detach()
            scale = bounded.exp() * (math.sqrt(3) / math.pi)
            location = of_group(crops.positions) + move * of_group(deviations)
            location = location.clamp(0, 255)
            level = of_group(x)
            first = torch.where(level == 0, -_FAR, level)
            last = torch.where(level == 255, _FAR, level)
            bits.append(-log_mass(location, scale, first, last).sum() / math.log(2))
        return torch.stack(bits)

    @torch.no_grad()
    def keep_sums_small(self) -> None:
        """Shrink weights of sums that integers could not hold exactly."""
        w, inputs = self.w, INPUT_MAX / (1 << INPUT_BITS)
        hidden = HIDDEN_MAX / (1 << HIDDEN_BITS)
        limit = _SUM_LIMIT * 8  # of what a sum of inputs and weights may reach
        for terms in (
            [(w["conv"][:, :-1], inputs), (w["bands"], inputs)],
            [(w["conv"][:, -1:], inputs)],
            [(w["mix"], hidden)],
            [(w["head"], hidden)],
        ):
            total = sum(factor * t.abs().flatten(2).sum(2) for t, factor in terms)
            shrink = (limit / torch.as_tensor(total)).clamp(max=1)
            for t, _ in terms:
                t.mul_(shrink.view(*shrink.shape, *[1] * (t.dim() - 2)))

    def used(self, name: str) -> Tensor:
        return self.w[name] * self.sees if name == "conv" else self.w[name]


def _visible() -> Tensor:
    """Which inputs a group may have: of its window's errors, those decoded before it."""
    sees = torch.ones(len(CODING_ORDER), 1, 9, SIDE, SIDE)
    for g, (_, (row, column)) in enumerate(CODING_ORDER):
        for channel in range(3):
            for i in range(SIDE):
                for j in range(SIDE):
                    phase = (row + i - SIDE // 2) % 2, (column + j - SIDE // 2) % 2
                    before = (channel, phase) in CODING_ORDER[:g]
                    sees[g, 0, channel, i, j] = float(before)
    # the linear path is of errors alone
    sees = sees.repeat(1, SHAPES["conv"][1], 1, 1, 1)
    sees[:, -1, 3:] = 0
    return sees


def _of_group(planes: Tensor, g: int) -> Tensor:
    """Values of a group, ``[n, m]``, of planes ``[n, 3, H, W]``."""
    channel, (row, column) = CODING_ORDER[g]
    return planes[:, channel, row::2, column::2].flatten(1)
