"""Fitting the networks of pictures of a CosineUQDM to the squared error that is left."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from torch import Tensor

from ..denoisers.picture import (
    HALO,
    LAYERS,
    PictureNetwork,
    fractional_bits,
    half_unit,
)
from ..entropy_models.integer import HIDDEN_BITS, HIDDEN_MAX
from ..entropy_models.pixels.cosine import INPUT_BITS, INPUT_MAX
from .cosine_pixels import PixelCrops
from .pixel_network import rounded

__all__ = ["FloatPicture"]

_SUM_LIMIT = 62.0 * 8  # of 512, where a sum of integers would reach 2^24


class FloatPicture(nn.Module):
    """:class:`.PictureNetwork` before rounding."""

    def __init__(self) -> None:
        super().__init__()
        w = {}
        for i, (inputs, outputs) in enumerate(LAYERS):
            bound = math.sqrt(3 / (9 * inputs)) if i + 1 < len(LAYERS) else 0.0
            weight = torch.empty(outputs, inputs, 3, 3).uniform_(-bound, bound)
            w[f"conv_{i}"] = nn.Parameter(weight)
            w[f"conv_{i}_bias"] = nn.Parameter(torch.zeros(outputs))
        self.w = nn.ParameterDict(w)

    def forward(self, crops: PixelCrops) -> Tensor:
        """The better picture, in levels, ``[n, 3, H, W]``."""
        n = 2 * HALO
        x = F.pixel_unshuffle(F.pad(crops.planes, (n, n, n, n), mode="replicate"), 2)
        for i in range(len(LAYERS)):
            weight, bias = (
                rounded(self.w[name], fractional_bits(name))
                for name in (f"conv_{i}", f"conv_{i}_bias")
            )
            x = F.conv2d(x, weight, bias)
            if i + 1 < len(LAYERS):
                x = rounded(x.clamp(0, HIDDEN_MAX / (1 << HIDDEN_BITS)), HIDDEN_BITS)
        return crops.positions + F.pixel_shuffle(x, 2) * crops.planes[:, 3:].exp()

    @torch.no_grad()
    def keep_sums_small(self) -> None:
        """Shrink weights of sums that integers could not hold exactly."""
        for i in range(len(LAYERS)):
            weight = self.w[f"conv_{i}"]
            largest = (
                HIDDEN_MAX / (1 << HIDDEN_BITS) if i else INPUT_MAX / (1 << INPUT_BITS)
            )
            shrink = _SUM_LIMIT / (weight.abs().sum((1, 2, 3)) * largest)
            weight.mul_(shrink.clamp(max=1)[:, None, None, None])

    @torch.no_grad()
    def to_integers(self) -> PictureNetwork:
        """The network that the codec uses."""
        network = PictureNetwork()
        for name, buffer in network.named_buffers():
            unit = 2.0 ** fractional_bits(name)
            buffer.copy_((self.w[name].double() * unit).round() + half_unit(name))
        network.check()
        return network

    @torch.no_grad()
    def from_integers(self, network: PictureNetwork) -> None:
        """Inverse of :meth:`to_integers`, to go on from; a network of zeros is no start."""
        if not torch.as_tensor(network.conv_0).any():
            return
        for name, buffer in network.named_buffers():
            unit = 2.0 ** fractional_bits(name)
            self.w[name].copy_((buffer.double() - half_unit(name)) / unit)
