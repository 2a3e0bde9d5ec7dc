"""The context network of pixels, in integers (:mod:`compressai_uqdm.integer`)."""

import math

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
import torch.nn as nn

from torch import Tensor

from ...entropy_models.coding_order import CODING_ORDER
from ...integer.arithmetic import HIDDEN_BITS, WEIGHT_BITS
from ...integer.layers import FixedPoint, IntegerConv1x1, IntegerConv2d
from ...integer.network import SubsetNetwork
from ...threads import parallel_map
from .pixel_posterior import INPUT_BITS, INPUT_MAX, N_BANDS, SIDE, PixelPosterior

__all__ = ["HIDDEN", "SUM_BITS", "Part", "PixelNetwork"]

HIDDEN = 48
"""Hidden channels of a subset."""

PLANES = 9
"""Planes that it sees: errors, the picture and log deviations of three colours."""

SUM_BITS = HIDDEN_BITS + WEIGHT_BITS
"""Fractional bits of the outputs."""

_SPARSE_PARTS = 8  # that values far apart are computed in, to bound memory
_BLOCK = 4  # values of a subset across a block of pixels

Part: TypeAlias = tuple[slice, Tensor, Tensor]
"""Rows of a subset, and what the network gives there: hidden activations, ``[48, h, n]``,
and outputs, ``[2, h, n]``."""


class PixelNetwork(SubsetNetwork):
    """The network that gives location and scale of pixels, from the window around them.

    Attributes:
        conv, bands: first layer of a subset, on the window and on the bands of the block.
        mix, head: its second and last.
    """

    added_to = {"bands": "conv"}
    file_names = {"bands_bias": "conv_bias"}

    def __init__(self) -> None:
        n = len(CODING_ORDER)
        super().__init__(n, HIDDEN, rounded_to=HIDDEN_BITS)
        numbers = FixedPoint(INPUT_BITS, INPUT_MAX, SUM_BITS - INPUT_BITS)
        self.conv = IntegerConv2d(
            *(PLANES, HIDDEN + 1, SIDE, numbers),
            stride=2,
            bias=False,
            subsets=n,
            mask=_visible(),
        )
        self.bands = IntegerConv1x1(
            N_BANDS, HIDDEN, numbers, subsets=n, rounded_to=HIDDEN_BITS
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the hidden layers at random; the outputs are zero at first."""
        for layer in (self.conv, self.bands, self.mix):
            bound = math.prod(layer.weight.shape[2:]) ** -0.5
            nn.init.uniform_(layer.weight, -bound, bound)
        with torch.no_grad():
            self.conv.weight[:, -1] = 0  # the linear path
            self.conv.weight.mul_(_visible())

    def forward(self, windows: Tensor, block_sums: Tensor, g: int) -> tuple[Tensor, Tensor]:
        """Run the network at values of one subset.

        Args:
            windows: planes at and around the values, integers,
                ``[B, 9, 2 h + 3, 2 n + 3]``.
            block_sums: as of :meth:`block_sums`, ``[B, 48, h, n]``.
            g: number of the subset.

        Returns:
            hidden activations, float32, ``[B, 48, h, n]``; and integers with 15 fractional
            bits, float64, ``[B, 2, h, n]``: the move of the location, in deviations, and
            the logarithm of the scale, less that of the deviation.
        """
        sums = self.conv(windows, g)
        return self.outputs(sums[:, :-1] + block_sums, sums[:, -1], g)

    def block_sums(self, bands: Tensor, g: int) -> Tensor:
        """Return what the bands of blocks add to the first layer, with its bias.

        Args:
            bands: of the blocks, integers, ``[B, 12, h, w]``.
            g: number of the subset.

        Returns:
            sums, float32, at every value of the subset, ``[B, 48, 4 h, 4 w]``.
        """
        sums = self.bands(bands, g)[:, :, :, None, :, None]
        return sums.expand(-1, -1, -1, _BLOCK, -1, _BLOCK).flatten(4).flatten(2, 3)

    def at_rows(
        self, errors: np.ndarray, posterior: PixelPosterior, g: int
    ) -> Callable[[slice], Part]:
        """Return a function that runs the network at rows of one subset of one picture.

        Args:
            errors: those decoded so far, int16, ``[3, H, W]``.
            posterior: of the picture.
            g: number of the subset.
        """
        _, (row, column) = CODING_ORDER[g]
        _, H, W = errors.shape
        n = -(-(W - column) // 2)
        # mirrored, pixels stay in their phase: what is not decoded yet is not seen
        before, width = SIDE // 2 - column, 2 * n + SIDE - 2
        sides = (0, 0), (0, 0), (before, width - before - W)

        def run(rows: slice) -> Part:
            h = rows.stop - rows.start
            first = 2 * rows.start + row - SIDE // 2
            down = _mirrored(np.arange(first, first + 2 * h + SIDE - 2), H)
            seen = np.concatenate(
                [planes[:, down] for planes in (errors, posterior.planes)]
            )
            windows = torch.from_numpy(np.pad(seen, sides, "reflect"))[None]
            top = rows.start // _BLOCK
            bands = posterior.bands[:, top : -(-rows.stop // _BLOCK)]
            sums = self.block_sums(torch.from_numpy(bands)[None], g)
            sums = sums[:, :, rows.start - _BLOCK * top :][:, :, :h, :n]
            hidden, out = self(windows, sums, g)
            return rows, hidden[0], out[0]

        return run

    def at_stride(
        self, errors: np.ndarray, posterior: PixelPosterior, g: int, stride: int
    ) -> tuple[Tensor, Tensor]:
        """Run the network at every so many values of a subset.

        Returns:
            hidden activations, ``[48, m]``, and outputs, ``[2, m]``.
        """
        _, (row, column) = CODING_ORDER[g]
        _, H, W = errors.shape
        h, n = -(-(H - row) // 2), -(-(W - column) // 2)
        around = np.arange(SIDE) - SIDE // 2
        conv = self.conv.integer_weight(g).flatten(1)

        def run(some: np.ndarray) -> tuple[Tensor, Tensor]:
            y, x = 2 * (some // n) + row, 2 * (some % n) + column
            down = _mirrored(y + around[:, None, None], H)
            across = _mirrored(x + around[:, None], W)
            seen = [planes[:, down, across] for planes in (errors, posterior.planes)]
            windows = torch.from_numpy(np.concatenate(seen)).float().flatten(0, 2)
            sums = (conv @ windows)[None, :, None]
            bands = torch.from_numpy(posterior.bands[:, y // 8, x // 8])[None, :, None]
            hidden, out = self.outputs(sums[:, :-1] + self.bands(bands, g), sums[:, -1], g)
            return hidden[0, :, 0], out[0, :, 0]

        found = parallel_map(
            run, np.array_split(np.arange(0, h * n, stride), _SPARSE_PARTS)
        )
        hidden, out = (torch.cat(pieces, 1) for pieces in zip(*found))
        return hidden, out


def _mirrored(places: np.ndarray, size: int) -> np.ndarray:
    """Places outside of 0..size - 1 seen in a mirror at the first and the last."""
    period = max(2 * size - 2, 1)
    return size - 1 - np.abs(places % period - (size - 1))


def _visible() -> Tensor:
    """Return which weights of the window are in use, bool, ``[12, 49, 9, 5, 5]``.

    Of the errors in the window a subset sees those that are decoded before it.
    """
    around = torch.arange(SIDE) - SIDE // 2
    visible = torch.ones(
        len(CODING_ORDER), HIDDEN + 1, PLANES, SIDE, SIDE, dtype=torch.bool
    )
    for g, (_, (row, column)) in enumerate(CODING_ORDER):
        visible[g, :, :3] = False
        for channel, (y, x) in CODING_ORDER[:g]:
            rows, columns = (row + around) % 2 == y, (column + around) % 2 == x
            visible[g, :, channel] |= rows[:, None] & columns
    visible[:, -1, 3:] = False  # the linear path is of errors alone
    return visible
