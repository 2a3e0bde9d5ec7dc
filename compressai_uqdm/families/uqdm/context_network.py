"""The context network of a latent stage, in integers (:mod:`compressai_uqdm.integer`)."""

import math

import numpy as np
import torch
import torch.nn as nn

from torch import Tensor

from ...entropy_models.coding_order import CODING_ORDER
from ...integer.arithmetic import compact, run_in_rows
from ...integer.layers import FixedPoint, IntegerConv2d
from ...integer.network import SubsetNetwork
from ...settings import exact_floats

__all__ = ["INPUT_BITS", "INPUT_MAX", "LatentContextNetwork"]

INPUTS = 9  # three colour channels of two residuals and the log scale
WIDTH = 16  # hidden channels
KERNEL = 5

INPUT_BITS, INPUT_MAX = 6, 255
"""Fractional bits of inputs, and their largest magnitude."""


class LatentContextNetwork(SubsetNetwork):
    r"""The context network of one stage.

    .. code-block:: none

        residuals, decoded so far ─┐  5x5 conv         1x1         1x1
        log scales, all channels ──┴────────► 16 ReLU ────► 16 ReLU ───┬► log scale change
                                        └───────────── linear ─────────┴► location shift

    Residuals come twice, as they are and divided by the standard deviation that the
    prior gives them; the shift is multiplied by that of its value. Every subset has
    weights of its own. Where nothing is decoded yet, and outside the image, residuals
    are 0.

    Attributes:
        conv: the convolution.
        mix, head: the second layer and the outputs.
    """

    def __init__(self) -> None:
        n = len(CODING_ORDER)
        super().__init__(n, WIDTH, rounded_to=None)
        numbers = FixedPoint(INPUT_BITS, INPUT_MAX)
        self.conv = IntegerConv2d(INPUTS, WIDTH + 1, KERNEL, numbers, stride=2, subsets=n)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the hidden layers at random; the outputs are zero at first."""
        for layer in (self.conv, self.mix):
            nn.init.normal_(layer.weight, std=math.prod(layer.weight.shape[2:]) ** -0.5)
        with torch.no_grad():
            self.conv.weight[:, -1] = 0  # the linear path

    def forward(self, planes: Tensor, g: int) -> tuple[Tensor, Tensor]:
        """Run the network at values of one subset.

        Args:
            planes: residuals and log scales at and around the values, integers,
                ``[B, 9, 2 h + 3, 2 w + 3]``.
            g: number of the subset.

        Returns:
            hidden activations, ``[B, 16, h, w]``, int16 where no gradient is recorded; and
            integers with 15 fractional bits, float64, ``[B, 2, h, w]``: the shift, in
            standard deviations, and the change of the log scale.
        """
        sums = self.conv(planes, g)
        hidden, out = self.outputs(sums[:, :-1], sums[:, -1], g)
        return compact(hidden), out

    @torch.no_grad()
    @exact_floats()
    def run_subset(self, inputs: np.ndarray, g: int) -> tuple[np.ndarray, np.ndarray]:
        """Run the network at all values of one subset of one picture.

        Args:
            inputs: residuals and log scales, integers, with a border of two zeros all
                around, ``[9, H + 4, W + 4]``, float32.
            g: number of the subset.

        Returns:
            as of :meth:`forward`, int16, ``[16, h, w]``, and int64, ``[2, h, w]``.
        """
        _, (row, column) = CODING_ORDER[g]
        planes = torch.from_numpy(inputs)[None, :, row:, column:]
        height, width = ((side - KERNEL) // 2 + 1 for side in planes.shape[2:])

        def run(rows: slice) -> tuple[Tensor, Tensor]:
            return self(planes[:, :, 2 * rows.start : 2 * (rows.stop - 1) + KERNEL], g)

        hidden, out = run_in_rows(run, height, width)
        return hidden[0].numpy(), out[0].to(torch.int64).numpy()
