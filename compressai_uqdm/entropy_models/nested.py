"""Nested universal quantization: every stage's cells are unions of the next one's.

A value x is known to lie in a cell of width Delta_1, then in one of the q = Delta_1 /
Delta_2 cells of width Delta_2 that it is made of, and so on. The finest lattice has a
dither, as in universal quantization (Ziv 1985), and which q cells are one of the coarser
lattice is drawn for every value too; so at each stage x is uniform in its cell, and what
an earlier stage has sent is not paid for again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from torch import Tensor

from .randomness import dither

__all__ = ["POINTS", "NestedGrid", "draw_grids", "finest_cells", "nest"]

POINTS = 32
"""Points in the width of a cell, the unit of locations."""

_DITHER_BITS = 16


class NestedGrid(NamedTuple):
    """The cells of one stage, for every coefficient, ``[..., 192, h, w]``.

    Cell c holds the finest cells ``c factor + start`` and the ``factor - 1`` after it. Its
    middle is ``c + middle / 32`` in units of the stage's width. In the stage before, it is
    the cell ``(c + offset) div ratio``.
    """

    width: float  # Delta, in levels
    factor: int
    start: Tensor  # int64
    middle: Tensor  # int64
    ratio: int  # 1 in the first stage
    offset: Tensor  # int64, 0 in the first stage

    def cells(self, finest: Tensor) -> Tensor:
        """The cells that hold these of the finest grid."""
        return torch.div(finest - self.start, self.factor, rounding_mode="floor")

    def first_in(self, coarser: Tensor) -> Tensor:
        """The first of the ``ratio`` cells that one of the stage before is made of."""
        return coarser * self.ratio - self.offset


def draw_grids(
    widths: Sequence[int], shape: Sequence[int], seed: int
) -> tuple[list[NestedGrid], Tensor]:
    """The grids of all stages, the same for encoder and decoder.

    Args:
        widths: of the stages' cells, each a multiple of the next.
        shape: of the coefficients, ``[192, h, w]``.
        seed: seed of the picture.

    Returns:
        the grids, and the dither of the finest in units of 2^-16, int64.
    """
    T = len(widths)
    words = [dither(seed, stage, tuple(shape)).long() for stage in range(T)]
    return nest(widths, words)


def nest(widths: Sequence[int], words: Sequence[Tensor]) -> tuple[list[NestedGrid], Tensor]:
    """The grids that follow from 16-bit words, one for every stage and coefficient."""
    u, grids = words[-1], list[NestedGrid]()
    start, factor = torch.zeros_like(u), 1
    for stage in reversed(range(len(widths))):
        # middle of cell 0 less that of the grid, 32 (start + (factor - 1) / 2 - d) / factor
        numerator = (2 * start + factor - 1 << _DITHER_BITS) - 2 * u
        points = numerator * POINTS + (factor << _DITHER_BITS)
        middle = torch.div(points, factor << _DITHER_BITS + 1, rounding_mode="floor")
        ratio = widths[stage - 1] // widths[stage] if stage else 1
        offset = (words[stage - 1] + (1 << _DITHER_BITS - 1)) * ratio >> _DITHER_BITS
        if not stage:
            offset = torch.zeros_like(u)
        width = float(widths[stage])
        grids.insert(0, NestedGrid(width, factor, start, middle, ratio, offset))
        start, factor = start - factor * offset, factor * ratio
    return grids, u


def finest_cells(x: Tensor, width: float, u: Tensor) -> Tensor:
    """The cells of the finest grid that hold values x, int64."""
    return (x / width + u.double() / (1 << _DITHER_BITS)).round().long()
