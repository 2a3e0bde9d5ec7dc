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
    start: Tensor  # int16
    middle: Tensor  # int16
    ratio: int  # 1 in the first stage
    offset: Tensor  # int16, 0 in the first stage

    def cells(self, finest: Tensor) -> Tensor:
        """The cells that hold these of the finest grid, int32."""
        return _divided(finest - self.start, self.factor).int()

    def first_in(self, coarser: Tensor) -> Tensor:
        """The first of the ``ratio`` cells that one of the stage before is made of."""
        return coarser * self.ratio - self.offset.int()


def draw_grids(
    widths: Sequence[int], shape: Sequence[int], seed: int
) -> tuple[list[NestedGrid], Tensor]:
    """The grids of all stages, the same for encoder and decoder.

    Args:
        widths: of the stages' cells, each a multiple of the next.
        shape: of the coefficients, ``[192, h, w]``.
        seed: seed of the picture.

    Returns:
        the grids, and the dither of the finest in units of 2^-16, int16.
    """
    words = [dither(seed, stage, tuple(shape)) for stage in range(len(widths))]
    # some channels at once, to bound memory
    parts = [nest(widths, split)[0] for split in zip(*(w.split(16) for w in words))]
    grids = []
    for pieces in zip(*parts):  # of a stage
        start, middle, offset = (
            torch.cat([getattr(piece, name) for piece in pieces])
            for name in ("start", "middle", "offset")
        )
        grids.append(pieces[0]._replace(start=start, middle=middle, offset=offset))
    return grids, words[-1]


def nest(widths: Sequence[int], words: Sequence[Tensor]) -> tuple[list[NestedGrid], Tensor]:
    """The grids that follow from words, int16, one for every stage and coefficient."""
    u, grids = words[-1], list[NestedGrid]()
    start, factor = torch.zeros_like(u), 1
    no_offset = torch.zeros_like(u)
    for stage in reversed(range(len(widths))):
        # middle of cell 0 less that of the grid, 32 (start + (factor - 1) / 2 - d) / factor
        numerator = (2 * start.long() + factor - 1 << _DITHER_BITS) - 2 * u.long()
        points = numerator * POINTS + (factor << _DITHER_BITS)
        middle = _divided(points, factor << _DITHER_BITS + 1).short()
        ratio, offset = 1, no_offset
        if stage:
            ratio = widths[stage - 1] // widths[stage]
            words_before = words[stage - 1].int() + (1 << _DITHER_BITS - 1)
            offset = (words_before * ratio >> _DITHER_BITS).short()
        width = float(widths[stage])
        grids.insert(0, NestedGrid(width, factor, start, middle, ratio, offset))
        start, factor = start - factor * offset, factor * ratio
    return grids, u


def _divided(n: Tensor, by: int) -> Tensor:
    """Integers below 2^53 divided by a small one, rounded down; faster than in integers."""
    return (n.double() / by).floor_()


def finest_cells(x: Tensor, width: float, u: Tensor) -> Tensor:
    """The cells of the finest grid that hold values x, int32."""
    return (x / width + u.double() / (1 << _DITHER_BITS)).round().int()
