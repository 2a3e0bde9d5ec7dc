"""Losses of the pixels and the pictures of a CosineUQDM, whose stages stay as they are."""

import math

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from torch import Tensor

from ..entropy_models.coding_order import CODING_ORDER
from ..families.dct.model import CosineLatent, CosineUQDM
from ..families.dct.picture_filter import HALO, PictureFilter
from ..families.dct.pixel_network import SUM_BITS, PixelNetwork
from ..families.dct.pixel_posterior import INPUT_BITS, INPUT_MAX, SIDE
from ..families.dct.pixel_prior import SCALE_SPAN
from ..families.dct.transform import POSITION_BITS
from ..integer.arithmetic import rounded
from .pixel_network import log_mass

__all__ = ["PixelCrops", "crops_of", "filtered", "pixel_bits", "pixel_crops"]

_FAR = 1e5  # levels: as good as infinitely far


class PixelCrops(NamedTuple):
    """Crops, and what the stages before the pixels tell of them."""

    levels: Tensor  # uint8, [n, 3, H, W]
    positions: Tensor  # of the picture, in levels, [n, 3, H, W]
    planes: Tensor  # what the network sees of it, integers, [n, 6, H, W]
    bands: Tensor  # and of its blocks, integers, [n, 12, h, w]

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
    posteriors = list(latent.pixel_posteriors())
    arrays = (
        np.stack([p.mean for p in posteriors]) / (1 << POSITION_BITS),
        np.stack([p.planes for p in posteriors]),
        np.stack([p.bands for p in posteriors]),
    )
    return PixelCrops(
        levels.to(torch.uint8), *(torch.from_numpy(a).float() for a in arrays)
    )


def pixel_bits(network: PixelNetwork, crops: PixelCrops) -> Tensor:
    """Return the bits of the values of every subset, summed, ``[12]``."""
    one, n = 1 << INPUT_BITS, SIDE // 2
    limit = INPUT_MAX / one
    x, log_deviations = crops.levels.float(), crops.planes[:, 3:] / one
    deviations = log_deviations.exp()
    errors = rounded(((x - crops.positions) / deviations).clamp(-limit, limit), one)
    planes = F.pad(torch.cat([errors, crops.planes], 1), (n, n, n, n), mode="reflect")
    low, high = (math.log(scale) for scale in SCALE_SPAN)
    bits = []
    for g, (_, (row, column)) in enumerate(CODING_ORDER):
        windows, sums = planes[:, :, row:, column:], network.block_sums(crops.bands, g)
        _, out = network(windows, sums, g)
        move, log_scale = (out.float() / (1 << SUM_BITS)).unbind(1)
        log_scale = log_scale + _of_subset(log_deviations, g)
        # gradients come through the bounds: else a scale at one would stay there
        bounded = log_scale + (log_scale.clamp(low, high) - log_scale).detach()
        scale = bounded.exp() * (math.sqrt(3) / math.pi)
        location = _of_subset(crops.positions, g) + move * _of_subset(deviations, g)
        location, level = location.clamp(0, 255), _of_subset(x, g)
        first = torch.where(level == 0, -_FAR, level)
        last = torch.where(level == 255, _FAR, level)
        bits.append(-log_mass(location, scale, first, last).sum() / math.log(2))
    return torch.stack(bits)


def filtered(network: PictureFilter, crops: PixelCrops) -> Tensor:
    """Return the filtered picture of crops, in levels, ``[n, 3, H, W]``."""
    n = 2 * HALO
    x = F.pixel_unshuffle(F.pad(crops.planes, (n, n, n, n), mode="replicate"), 2)
    change = F.pixel_shuffle(network(x), 2) / (1 << SUM_BITS)
    return crops.positions + change * (crops.planes[:, 3:] / (1 << INPUT_BITS)).exp()


def _of_subset(planes: Tensor, g: int) -> Tensor:
    """Return the values of a subset, ``[n, h, w]``, of planes ``[n, 3, H, W]``."""
    channel, (row, column) = CODING_ORDER[g]
    return planes[:, channel, row::2, column::2]
