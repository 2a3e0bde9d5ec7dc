"""The bound on -log p(x) that a UQDM is trained on."""

from . import libraries  # noqa: F401  isort: skip

import math

from typing import Any

import torch
import torch.nn as nn

from compressai.registry import register_criterion
from torch import Tensor

__all__ = ["BitsPerDimensionLoss"]


@register_criterion("BitsPerDimensionLoss")
class BitsPerDimensionLoss(nn.Module):
    """The bound in bits per dimension, with its parts.

    Takes what :class:`.UQDM` returns in training. A part may be of some of the images
    only, drawn at random: its mean stands for that of all.
    """

    def forward(
        self, output: dict[str, Any], target: Tensor | None = None
    ) -> dict[str, Any]:
        """The loss and what it is made of.

        Args:
            output: dict with ``likelihoods``, tensors ``[n, 3, H, W]`` by name.
            target: not used; there is no distortion but in bits.

        Returns:
            ``loss``, their sum, and a scalar for each likelihood: ``prior``,
            ``stage_1``, ..., ``stage_T``, ``pixels``.
        """
        parts = {
            name: likelihoods.log().mean() / -math.log(2)
            for name, likelihoods in output["likelihoods"].items()
        }
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}
