"""Images as tensors in [0, 1], and their pixels as levels 0..255."""

import torch

from torch import Tensor

__all__ = ["image_to_levels", "levels_to_image"]


def image_to_levels(x: Tensor) -> Tensor:
    """Levels 0..255, int16, of an image in [0, 1]."""
    return (x.float() * 255).round().to(torch.int16)


def levels_to_image(levels: Tensor, dtype: torch.dtype) -> Tensor:
    """The image in [0, 1] that has levels 0..255, the same on every device."""
    # where the divisor is a number, CUDA multiplies by its reciprocal instead, and images
    # that are exact would differ in the last bit
    return levels.to(dtype) / torch.tensor(255, dtype=dtype, device=levels.device)
