"""Conversion between images in [0, 1] and levels 0..255."""

import torch

from torch import Tensor

__all__ = ["image_to_levels", "levels_to_image"]


def image_to_levels(x: Tensor) -> Tensor:
    """Return the levels 0..255 of an image in [0, 1], int16, same shape."""
    return (x.float() * 255).round().to(torch.int16)


def levels_to_image(levels: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the image in [0, 1] with levels 0..255, the same on every device."""
    # CUDA multiplies by the reciprocal of a divisor that is a Python number, and then
    # lossless images would differ in the last bit
    return levels.to(dtype) / torch.tensor(255, dtype=dtype, device=levels.device)
