"""Fitting the context network of pixels of a UQDM."""

import torch.nn.functional as F

from torch import Tensor

from ..entropy_models import logistic

__all__ = ["in_phases", "log_mass"]


def in_phases(plane: Tensor) -> Tensor:
    """The 2x2 phases of planes as channels, ``[n, 3, H, W]`` to ``[n, 12, h, w]``."""
    return F.pixel_unshuffle(plane, 2)


def log_mass(location: Tensor, scale: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Logarithm of the logistic's mass from half a level below to half a level above."""
    ends = (first - 0.5 - location) / scale, (last + 0.5 - location) / scale
    return logistic.log_mass(*ends)
