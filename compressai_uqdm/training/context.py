"""Fitting the context priors of latents of a UQDM whose weights stay as they are.

The UQDM codes crops of photographs, at several scales, once; the context networks of its
stages are then fitted to the residuals.
"""

import math
import random

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from torch import Tensor
from tqdm import tqdm

from ..datasets import Photographs
from ..entropy_models.coding_order import CODING_ORDER
from ..entropy_models.uniform_noise import UniformNoiseConditional
from ..families.uqdm.context_network import (
    INPUT_BITS,
    INPUT_MAX,
    LatentContextNetwork,
)
from ..families.uqdm.context_prior import LOG_SCALE_MAX, SHIFT_MAX, SUM_BITS
from ..families.uqdm.interval_pixels import coefficients
from ..families.uqdm.model import UQDM
from ..families.uqdm.windowed import WINDOW
from ..integer.arithmetic import rounded
from ..levels import image_to_levels
from ..quantization.lattice import LATTICE
from .pixels import PixelData, pixel_data

__all__ = ["CROP", "ContextLoss", "StageData", "collect", "fit", "read_crops"]

CROP = WINDOW


class StageData(NamedTuple):
    """What one stage of all crops looks like to its context."""

    residuals: Tensor  # k N - j, int16, [n, 3, 64, 64]
    scales: Tensor  # standard deviations of the prior, [n, 3, 64, 64]


class ContextLoss(nn.Module):
    """Bits of the residuals of crops under the context network of a stage.

    Args:
        network: the network.
        prior: the stage's prior, whose location and scale it corrects.

    Attributes:
        visible: the subsets that each subset sees; all before it.
    """

    def __init__(
        self, network: LatentContextNetwork, prior: UniformNoiseConditional
    ) -> None:
        super().__init__()
        self.network, self.log_likelihood = network, prior.log_likelihood
        self.visible = [range(g) for g in range(len(CODING_ORDER))]

    def forward(self, residuals: Tensor, scales: Tensor) -> Tensor:
        """Return the bits of all values, summed by subset, ``[12]``."""
        r, one = residuals.float() / LATTICE, 1 << INPUT_BITS
        deviation = (scales * scales + 1 / 12).sqrt()
        limit = INPUT_MAX / one
        values = torch.cat([r / deviation, r / 2], 1).clamp(-limit, limit)
        values = rounded(values, one)
        log_scales = rounded(scales.log2().clamp(-limit, limit), one)
        bits = []
        for g, (channel, (row, column)) in enumerate(CODING_ORDER):
            decoded = torch.zeros_like(values)
            for before in self.visible[g]:
                at = _where(before)
                decoded[at] = values[at]
            inputs = F.pad(torch.cat([decoded, log_scales], 1), (2, 2, 2, 2))
            _, out = self.network(inputs[:, :, row:, column:], g)
            shift, change = (out.float() / (1 << SUM_BITS)).unbind(1)
            where = (slice(None), channel, slice(row, None, 2), slice(column, None, 2))
            d = (shift * deviation[where]).clamp(-SHIFT_MAX, SHIFT_MAX)
            s = scales[where] * 2 ** change.clamp(-LOG_SCALE_MAX, LOG_SCALE_MAX)
            bits.append(self.log_likelihood(r[where] - d, s).sum() / -math.log(2))
        return torch.stack(bits)


def _where(g: int) -> tuple[slice, slice, slice, slice]:
    """Where a group's residuals stand among those of all, each there twice."""
    channel, (row, column) = CODING_ORDER[g]
    channels = slice(channel, None, 3)
    return slice(None), channels, slice(row, None, 2), slice(column, None, 2)


def read_crops(photographs: Path, count: int, max_factor: int, seed: int) -> Tensor:
    """Crops of a folder's photographs: uint8, ``[n, 3, 64, 64]``."""
    images = Photographs(photographs, max_factor=max_factor, vary_colours=True)
    rng = random.Random(seed)
    draws = [(rng.randrange(len(images)), rng.randrange(2**31)) for _ in range(count)]
    return images.batch(*zip(*draws))


@torch.no_grad()
def collect(net: UQDM, crops: Tensor, sent: int) -> tuple[list[StageData], PixelData]:
    """Code the crops, each with a dither of its own, and keep what contexts see.

    Args:
        net: a UQDM without contexts.
        crops: as of :func:`read_crops`.
        sent: number of latent stages that shall come before the pixels.
    """
    rows = coefficients(net.noise_schedule.steps()[:sent])
    pictures, pixels = [], []
    for seed, crop in enumerate(tqdm(crops.split(1), "coding crops")):
        levels = image_to_levels(crop / 255)
        latent, stages = net.first_latent(levels.shape, seed), []
        for _ in range(sent):
            _, latent = net.estimate_stage(latent, levels, seed)
            assert latent.sent
            residuals = latent.sent.points[-1].Z - latent.sent.location.Z
            stages.append(StageData(residuals.to(torch.int16), latent.sent.scales))
        pictures.append(stages)
        assert latent.sent
        pixels.append(pixel_data(levels, latent.sent, rows))
    stages = [StageData(*(torch.cat(t) for t in zip(*stage))) for stage in zip(*pictures)]
    return stages, PixelData(*(torch.cat(t) for t in zip(*pixels)))


def fit(
    context: ContextLoss, data: StageData, steps: int, batch: int, rate: float, name: str
) -> list[float]:
    """Fit the context of one stage; its bits per pixel, a mean of every fifty steps."""
    optimizer = torch.optim.Adam(context.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    log, recent = [], []
    order = torch.randperm(len(data.residuals))
    for step in (bar := tqdm(range(steps), name)):
        if (step + 1) * batch % len(order) < batch:
            order = torch.randperm(len(data.residuals))
        at = torch.arange(step * batch, (step + 1) * batch) % len(order)
        chosen = order[at]
        bits = context(data.residuals[chosen], data.scales[chosen]).sum()
        bpp = bits / (batch * CROP * CROP)
        optimizer.zero_grad()
        bpp.backward()
        optimizer.step()
        schedule.step()
        recent.append(bpp.item())
        if len(recent) == 50 or step + 1 == steps:
            log.append(float(np.mean(recent)))
            bar.set_postfix(bpp=f"{log[-1]:.4f}")
            recent = []
    return log
