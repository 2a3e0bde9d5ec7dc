"""Variations of training crops: contrast, noise, chroma of half the resolution.

Box-averaged photographs have less noise and softer edges than others, so crops are varied.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from torch import Tensor

__all__ = ["halve_chroma", "vary"]

NOISE = (0.3, 3.0)
"""Standard deviation of the noise that is added, in levels."""
CONTRAST = (0.75, 1.35)
"""Factor of the contrast."""
VARIED = 0.35
"""Share of the crops that each variation is applied to."""


def vary(crops: Tensor, rng: np.random.Generator) -> Tensor:
    """Vary contrast, add noise and halve the resolution of chroma, each in some crops.

    Most cameras and JPEG files store chroma at half the resolution.

    Args:
        crops: uint8, ``[n, 3, H, W]``, of even sides.
        rng: source of the random numbers.

    Returns:
        crops of the same shape and type.
    """
    x, n = crops.numpy().astype(np.float32), (len(crops), 1, 1, 1)
    contrast = np.where(rng.random(n) < VARIED, rng.uniform(*CONTRAST, n), 1)
    mean = x.mean((1, 2, 3), keepdims=True)
    x = (x - mean) * contrast + mean
    # three quarters of the noise's energy are the same in all colour channels
    grey, colour = rng.normal(size=x[:, :1].shape), rng.normal(size=x.shape)
    noise = math.sqrt(0.75) * grey + math.sqrt(0.25) * colour
    blurred = (
        noise + np.roll(noise, 1, 2) + np.roll(noise, 1, 3) + np.roll(noise, (1, 1), (2, 3))
    )
    noise = np.where(rng.random(n) < 0.4, blurred / 2, noise)
    x += noise * np.where(rng.random(n) < VARIED, rng.uniform(*NOISE, n), 0)
    halved = halve_chroma(torch.from_numpy(x)).numpy()
    x = np.where(rng.random(n) < VARIED, halved, x)
    return torch.from_numpy(np.rint(x).clip(0, 255).astype(np.uint8))


def halve_chroma(x: Tensor) -> Tensor:
    """Return images, ``[n, 3, H, W]``, with chroma of half the resolution."""
    weights = x.new_tensor([0.299, 0.587, 0.114])[:, None, None]  # ITU-R BT.601
    luma = (weights * x).sum(1, keepdim=True)
    chroma = F.interpolate(F.avg_pool2d(x - luma, 2), scale_factor=2.0, mode="bilinear")
    return luma + chroma - (weights * chroma).sum(1, keepdim=True)
