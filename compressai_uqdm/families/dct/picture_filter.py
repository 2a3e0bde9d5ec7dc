"""A network of integers that improves the picture of a stage in the cosine basis.

Every coefficient at its mean makes a picture; what stands in no coefficient alone, such as
an edge that must go on across blocks, this network knows. It sees the picture less its
mean around each pixel, and the logarithm of how far each may be off; it gives what to add,
in these deviations. It is for eyes only: nothing that is coded depends on it.

.. code-block:: none

    phases of 6 planes: 24 ─► 3x3 ReLU: 32 ─► 3x3 ReLU: 32 ─► 3x3: phases of 3 planes

Its arithmetic is in integers (:mod:`compressai_uqdm.integer`).
"""

import math

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from torch import Tensor

from ...integer.arithmetic import (
    HIDDEN_BITS,
    WEIGHT_BITS,
    activate,
    rounded_shift,
    row_chunks,
)
from ...integer.layers import FixedPoint, IntegerConv2d
from ...integer.network import IntegerNetwork
from ...settings import exact_floats
from ...threads import parallel_map
from .pixel_posterior import (
    DEVIATION_BITS,
    INPUT_BITS,
    INPUT_MAX,
    PixelPosterior,
    deviations_of,
)
from .transform import POSITION_BITS

__all__ = ["HALO", "SUM_BITS", "PictureFilter"]

CHANNELS = 32
"""Hidden channels."""

SUM_BITS = HIDDEN_BITS + WEIGHT_BITS
"""Fractional bits of the outputs."""

HALO = 3
"""Receptive field on each side, at half the resolution."""


class PictureFilter(IntegerNetwork):
    """What to add to a picture: nothing, before it is trained.

    Attributes:
        conv: the layers.
    """

    def __init__(self) -> None:
        super().__init__()
        planes = FixedPoint(INPUT_BITS, INPUT_MAX, SUM_BITS - INPUT_BITS)
        layers = [
            IntegerConv2d(24, CHANNELS, 3, planes, rounded_to=HIDDEN_BITS),
            IntegerConv2d(CHANNELS, CHANNELS, 3, rounded_to=HIDDEN_BITS),
            IntegerConv2d(CHANNELS, 12, 3),
        ]
        self.conv = cast(Sequence[IntegerConv2d], nn.ModuleList(layers))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the hidden layers at random; the outputs are zero at first."""
        *hidden, last = self.conv
        for layer in hidden:
            bound = math.sqrt(3 / layer.weight[0].numel())
            nn.init.uniform_(layer.weight, -bound, bound)
        for layer in self.conv:
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(last.weight)

    @property
    def is_identity(self) -> bool:
        """Whether the last layer is zero, and pictures stay as they are."""
        last = self.conv[-1]
        return not (last.integer_weight().any() or last.integer_bias().any())

    def forward(self, x: Tensor) -> Tensor:
        """Return what to add to pictures.

        Args:
            x: phases of the planes, integers, ``[B, 24, h, w]``, with a border of three:
                there is no padding.

        Returns:
            in deviations, integers with 15 fractional bits, float32,
            ``[B, 12, h - 6, w - 6]``.
        """
        *hidden, last = self.conv
        for layer in hidden:
            x = activate(layer(x), layer.numbers.sum_bits - HIDDEN_BITS)
        return last(x)

    @torch.no_grad()
    @exact_floats()
    def improve(self, posterior: PixelPosterior) -> np.ndarray:
        """Return the better picture: positions as of the mean, int32, ``[3, H, W]``."""
        if self.is_identity:
            return posterior.mean
        network, found = self.on_cpu(), posterior.mean.copy()
        _, H, W = posterior.mean.shape
        h, w = -(-H // 2), -(-W // 2)
        x = np.arange(-2 * HALO, 2 * (w + HALO)).clip(0, W - 1)
        shift = SUM_BITS + DEVIATION_BITS - POSITION_BITS

        def improve(rows: slice) -> None:
            y = np.arange(2 * (rows.start - HALO), 2 * (rows.stop + HALO)).clip(0, H - 1)
            window = torch.from_numpy(posterior.planes[:, y[:, None], x]).float()[None]
            sums = network(F.pixel_unshuffle(window, 2))
            change = F.pixel_shuffle(sums, 2)[0].to(torch.int64).numpy()
            here = slice(2 * rows.start, min(2 * rows.stop, H))
            change = change[:, : here.stop - here.start, :W]
            move = change * deviations_of(posterior.log_deviation[:, here])
            found[:, here] += rounded_shift(move, shift)

        parallel_map(improve, row_chunks(h, w))
        return found
