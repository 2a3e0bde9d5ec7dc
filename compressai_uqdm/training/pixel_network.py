"""Fitting the context network of pixels of a UQDM."""

import math

from collections.abc import Callable

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from torch import Tensor
from tqdm import tqdm

from ..entropy_models import logistic
from ..families.uqdm.pixel_network import PixelNetwork

__all__ = ["fit", "in_phases", "log_mass"]

_PROJECT_EVERY = 20
_AVERAGE = 0.99  # of weights, from step to step: that average is what is kept
_WARM_UP = 50


def in_phases(plane: Tensor) -> Tensor:
    """The 2x2 phases of planes as channels, ``[n, 3, H, W]`` to ``[n, 12, h, w]``."""
    return F.pixel_unshuffle(plane, 2)


def log_mass(location: Tensor, scale: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Logarithm of the logistic's mass from half a level below to half a level above."""
    ends = (first - 0.5 - location) / scale, (last + 0.5 - location) / scale
    return logistic.log_mass(*ends)


def fit(
    network: PixelNetwork,
    bpp_of_crops: Callable[[Tensor], Tensor],
    n: int,
    steps: int,
    batch: int,
    rate: float,
) -> list[float]:
    """Fit a network; its bits per pixel, a mean of every fifty steps.

    It is left with the average of its weights over the last steps.

    Args:
        network: what is fitted.
        bpp_of_crops: bits per pixel of crops by their numbers, with gradients.
        n: number of crops.
        steps: how many.
        batch: crops in each.
        rate: the highest learning rate.
    """
    optimizer = torch.optim.Adam(network.parameters(), rate, betas=(0.9, 0.99))
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(_AVERAGE)
    )
    log, recent = [], []
    order = torch.randperm(n)
    for step in (bar := tqdm(range(steps), "pixels")):
        half_cosine = 0.5 * (1 + math.cos(math.pi * step / steps)) + 0.005
        for group in optimizer.param_groups:
            group["lr"] = rate * half_cosine * min(1, (step + 1) / _WARM_UP)
        if (step + 1) * batch % n < batch:
            order = torch.randperm(n)
        at = torch.arange(step * batch, (step + 1) * batch) % n
        bpp = bpp_of_crops(order[at])
        optimizer.zero_grad()
        bpp.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step % _PROJECT_EVERY == 0:
            network.keep_sums_small()
        average.update_parameters(network)
        recent.append(bpp.item())
        if len(recent) == 50 or step + 1 == steps:
            log.append(float(np.mean(recent)))
            bar.set_postfix(bpp=f"{log[-1]:.4f}")
            recent = []
    network.load_state_dict(average.module.state_dict())
    network.keep_sums_small()
    return log
