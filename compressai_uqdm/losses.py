"""The training loss of UQDM: the variational bound on -log p(x), in bits."""

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
    """The bound in bits per dimension, and its terms.

    The input is the output of :class:`.UQDM` in training. A term may cover a random subset
    of the images; its mean estimates the mean over all images.
    """

    def forward(
        self, output: dict[str, Any], target: Tensor | None = None
    ) -> dict[str, Any]:
        """Return the loss and its terms, in bits per dimension.

        Args:
            output: dict with ``likelihoods``, a dict of tensors ``[n, 3, H, W]``.
            target: not used; the bound has no separate distortion.

        Returns:
            one scalar for each likelihood (``prior``, ``stage_1``, ..., ``stage_T``,
            ``pixels``), and their sum as ``loss``.
        """
        terms = {
            name: likelihoods.log().mean() / -math.log(2)
            for name, likelihoods in output["likelihoods"].items()
        }
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}
