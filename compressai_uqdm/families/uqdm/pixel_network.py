"""The context network of pixels, in integers (:mod:`compressai_uqdm.integer`)."""

import math

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from torch import Tensor

from ...entropy_models.coding_order import CODING_ORDER
from ...integer.arithmetic import (
    HIDDEN_BITS,
    WEIGHT_BITS,
    activate,
    compact,
    floored,
    run_in_rows,
)
from ...integer.layers import FixedPoint, IntegerConv1x1, IntegerConv2d, IntegerLayer
from ...integer.network import SubsetNetwork

__all__ = [
    "HIDDEN",
    "INPUT_BITS",
    "INPUT_MAX",
    "SUM_BITS",
    "PixelNetwork",
    "channel_of",
    "phases",
]

INPUT_BITS, INPUT_MAX = 6, 1023
"""Fractional bits of the network's inputs, and their largest magnitude."""

HIDDEN = 32
"""Hidden channels of a subset."""

TRUNK, TRUNK_LAYERS = 48, 3
"""Channels and layers of what all subsets share."""

SUM_BITS = HIDDEN_BITS + WEIGHT_BITS
"""Fractional bits of the outputs."""

_PLANES = FixedPoint(INPUT_BITS, INPUT_MAX)
_PICTURE = _PLANES._replace(weight_bits=SUM_BITS - INPUT_BITS)  # added to other sums
_PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))


class PixelNetwork(SubsetNetwork):
    r"""The network that gives location and scale of the levels of pixels.

    It sees the 2x2 phases of a plane as channels, so its 3x3 convolutions are of 6x6
    values. A level, decoded or not, is seen less the mean of the guesses around it.

    .. code-block:: none

        planes, first guess ─► 3x3 ReLU ─► 3x3 ReLU ─► 3x3 ReLU ─┬──┐   once
        first guess ─────────────────────────── linear 3x3, 1x1 ─┴──┼─► better guess
                                                               1x1  │
        levels decoded so far, ─┐  3x3                          ▼   │   for each
        guesses of the others  ─┴────► 32 channels ───────────► + ReLU ─► 1x1 ReLU ─► 1x1
                                  └──────────── linear ──────────────► + location, scale

    The last 1x1 is adapted to the picture by its encoder (:mod:`.head_adaptation`).

    Args:
        planes: number of planes beside the guess.

    Attributes:
        trunk: the shared layers.
        estimate, estimate_conv: the better guess, from the trunk and from the guess.
        conv, trunk_mix: first layer of a subset, on the picture and on the trunk.
        mix, head: its second and last.
        decoded: phases that are decoded before each subset, bool, ``[12, 12]``.
    """

    added_to = {"estimate_conv": "estimate", "trunk_mix": "conv"}
    file_names = {"trunk_mix_bias": "conv_bias"}
    decoded: Tensor

    def __init__(self, planes: int):
        n = len(CODING_ORDER)  # and as many phases of a picture
        super().__init__(n, HIDDEN, rounded_to=HIDDEN_BITS)
        layers = [
            IntegerConv2d(n * (planes + 1), TRUNK, 3, _PLANES, rounded_to=HIDDEN_BITS),
            *(
                IntegerConv2d(TRUNK, TRUNK, 3, rounded_to=HIDDEN_BITS)
                for _ in range(TRUNK_LAYERS - 1)
            ),
        ]
        self.trunk = cast(Sequence[IntegerConv2d], nn.ModuleList(layers))
        self.estimate = IntegerConv1x1(TRUNK, n, rounded_to=INPUT_BITS)
        self.estimate_conv = IntegerConv2d(n, n, 3, _PICTURE, bias=False)
        self.conv = IntegerConv2d(n, HIDDEN + 1, 3, _PICTURE, bias=False, subsets=n)
        self.trunk_mix = IntegerConv1x1(TRUNK, HIDDEN, subsets=n, rounded_to=HIDDEN_BITS)
        order = torch.tensor([channel_of(g) for g in range(n)])
        place = order.argsort()  # of each phase in coding order
        decoded = place < torch.arange(n)[:, None]
        self.register_buffer("decoded", decoded, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the hidden layers at random; the outputs are zero at first."""
        for layer in (*self.trunk, self.mix):
            _draw(layer, 2)
        for layer in (self.trunk_mix, self.conv):
            _draw(layer, 1)
        with torch.no_grad():
            self.conv.weight[:, -1] = 0  # the linear path

    def features(self, planes: Tensor) -> Tensor:
        """Return what all subsets share.

        Args:
            planes: phases of all planes, the guess first, integers,
                ``[B, 12 (planes + 1), h, w]``.

        Returns:
            hidden activations, ``[B, 48, h, w]``; int16 where no gradient is recorded.
        """
        for layer in self.trunk:
            planes = self._trunk_layer(layer, F.pad(planes, (1, 1, 1, 1)))
        return planes

    def _trunk_layer(self, layer: IntegerConv2d, bordered: Tensor) -> Tensor:
        shift = layer.numbers.sum_bits - HIDDEN_BITS

        def run(rows: slice) -> tuple[Tensor]:
            return (compact(activate(layer(_band(bordered, rows)), shift)),)

        (found,) = run_in_rows(run, *_inside(bordered))
        return found

    def improve(self, picture: Tensor, features: Tensor) -> Tensor:
        """Return what must be added to the guess.

        Args:
            picture: phases of the guess, integers, with a border of one zero,
                ``[B, 12, h + 2, w + 2]``.
            features: as of :meth:`features`.

        Returns:
            integers with 6 fractional bits, float32, ``[B, 12, h, w]``.
        """

        def run(rows: slice) -> tuple[Tensor]:
            sums = self.estimate_conv(_band(picture, rows))
            sums = sums + self.estimate(features[:, :, rows])
            change = floored(sums, 2.0 ** (INPUT_BITS - SUM_BITS))
            return (F.hardtanh(change, -INPUT_MAX, INPUT_MAX),)

        (found,) = run_in_rows(run, *_inside(picture))
        return found

    def forward(self, picture: Tensor, features: Tensor, g: int) -> tuple[Tensor, Tensor]:
        """Run the network at all values of one subset, and at phases without a value.

        Args:
            picture: as of :meth:`improve`, with levels where they are decoded.
            features: as of :meth:`features`.
            g: number of the subset.

        Returns:
            hidden activations, ``[B, 32, h, w]``, int16 where no gradient is recorded; and
            integers with 15 fractional bits, float64, ``[B, 2, h, w]``: the move of the
            location, in four levels, and the logarithm of the scale, less that of an
            output of 0.
        """

        def run(rows: slice) -> tuple[Tensor, Tensor]:
            sums = self.conv(_band(picture, rows), g)
            hidden = sums[:, :-1] + self.trunk_mix(features[:, :, rows], g)
            hidden, out = self.outputs(hidden, sums[:, -1], g)
            return compact(hidden), out

        hidden, out = run_in_rows(run, *_inside(picture))
        return hidden, out


def channel_of(g: int) -> int:
    """Where a subset stands among the phases of a picture."""
    channel, phase = CODING_ORDER[g]
    return len(_PHASES) * channel + _PHASES.index(phase)


def phases(plane: np.ndarray) -> np.ndarray:
    """The 2x2 phases of a plane as channels, ``[3, H, W]`` to ``[12, h, w]``, 0 outside."""
    _, H, W = plane.shape
    even = np.pad(plane, ((0, 0), (0, H % 2), (0, W % 2)))
    found = np.stack([even[:, row::2, column::2] for row, column in _PHASES], 1)
    return found.reshape(-1, *found.shape[2:])


def _inside(bordered: Tensor) -> tuple[int, int]:
    """Return height and width of planes without their border of one."""
    h, w = bordered.shape[2:]
    return h - 2, w - 2


def _band(bordered: Tensor, rows: slice) -> Tensor:
    """Return what a 3x3 convolution sees of rows, of planes with a border of one."""
    return bordered[:, :, rows.start : rows.stop + 2]


def _draw(layer: IntegerLayer, gain: int) -> None:
    fan_in = math.prod(layer.weight.shape[1 + bool(layer.subsets) :])
    nn.init.normal_(layer.weight, std=math.sqrt(gain / fan_in))
