"""Fitting the networks of pictures of a CosineUQDM to the squared error that is left."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from torch import Tensor

from ..families.dct.picture_filter import HALO, LAYERS, PictureFilter
from ..families.dct.pixel_posterior import INPUT_BITS, INPUT_MAX
from ..integer.arithmetic import HIDDEN_BITS, HIDDEN_MAX
from .cosine_pixels import PixelCrops
from .twin import FloatTwin, activated

__all__ = ["FloatPicture"]

_SUM_LIMIT = 62.0 * 8  # of 512, where a sum of integers would reach 2^24


class FloatPicture(FloatTwin[PictureFilter]):
    """:class:`.PictureFilter` before rounding."""

    def __init__(self) -> None:
        super().__init__(PictureFilter())
        for i, (inputs, _) in enumerate(LAYERS[:-1]):
            bound = math.sqrt(3 / (9 * inputs))
            nn.init.uniform_(self.w[f"conv_{i}"], -bound, bound)

    def forward(self, crops: PixelCrops) -> Tensor:
        """The better picture, in levels, ``[n, 3, H, W]``."""
        n = 2 * HALO
        x = F.pixel_unshuffle(F.pad(crops.planes, (n, n, n, n), mode="replicate"), 2)
        for i in range(len(LAYERS)):
            x = F.conv2d(x, self.weight(f"conv_{i}"), self.weight(f"conv_{i}_bias"))
            if i + 1 < len(LAYERS):
                x = activated(x)
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

    def from_integers(self, network: PictureFilter) -> None:
        """As of :class:`FloatTwin`; a network of zeros is no start."""
        if torch.as_tensor(network.conv_0).any():
            super().from_integers(network)
