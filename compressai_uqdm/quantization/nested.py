"""Nested universal quantization: every stage's cells are unions of the next one's.

A value x is known to lie in a cell of width Delta_1, then in one of the q = Delta_1 /
Delta_2 cells of width Delta_2 that it is made of, and so on. The finest lattice has a
dither, as in universal quantization (Ziv 1985), and which q cells are one of the coarser
lattice is drawn for every value too; so at each stage x is uniform in its cell, and what
an earlier stage has sent is not paid for again.
"""

import functools
import itertools

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from torch import Tensor

__all__ = [
    "MAX_RATIO",
    "POINTS",
    "NestedGrid",
    "finest_cells",
    "nest",
]

POINTS = 32
"""Points in the width of a cell, the unit of locations."""

MAX_RATIO = 256
"""Of the widths of two stages, the one after the other."""

_DITHER_BITS = 16


@dataclass(frozen=True)
class NestedGrid:
    """The cells of one stage, for every coefficient.

    Cell c holds the finest cells ``c factor + start`` and the ``factor - 1`` after it. Its
    middle is ``c + middle / 32`` in units of the stage's width. In the stage before, it is
    the cell ``(c + offset) div ratio``. The first two, int16, follow from the offsets when
    they are asked for, and are kept then: ask a part of the grid (:meth:`map`), for those
    of all stages would take more memory than a picture.
    """

    widths: tuple[int, ...]  # Delta of this stage and of those after it, in levels
    dither: Tensor  # of the finest grid, in units of 2^-16, int16
    later: tuple[Tensor, ...]  # offsets of the stages after this one, uint8
    ratio: int = 1  # of the width before; 1 in the first stage
    offset_before: Tensor | None = None  # its own offset, if there is a stage before

    @property
    def width(self) -> int:
        """Delta, in levels."""
        return self.widths[0]

    @property
    def factor(self) -> int:
        """Cells of the finest grid that one is made of."""
        return self.widths[0] // self.widths[-1]

    @property
    def shape(self) -> torch.Size:
        """Of the coefficients."""
        return self.dither.shape

    @functools.cached_property
    def start(self) -> Tensor:
        """The first of the finest cells in cell 0."""
        start = torch.zeros_like(self.dither)
        for offset, finer in zip(self.later, self.widths[1:]):
            start -= finer // self.widths[-1] * offset.short()
        return start

    @functools.cached_property
    def middle(self) -> Tensor:
        """The middle of cell 0, in 1/32 of the width."""
        # 32 (start + (factor - 1) / 2 - d) / factor
        finest = (2 * self.start.int() + self.factor - 1 << _DITHER_BITS - 1) - self.dither
        point = self.factor << _DITHER_BITS - POINTS.bit_length() + 1
        return _divided(finest + point // 2, point).short()

    @property
    def offset(self) -> Tensor:
        """Of cell 0 in the cell before that holds it; 0 in the first stage."""
        if self.offset_before is None:
            return torch.zeros_like(self.dither)
        return self.offset_before.short()

    def map(self, pick: Callable[[Tensor], Tensor]) -> "NestedGrid":
        """The grid of some coefficients, that a function picks of all."""
        return replace(
            self,
            dither=pick(self.dither),
            later=tuple(map(pick, self.later)),
            offset_before=None if self.offset_before is None else pick(self.offset_before),
        )

    def cells(self, finest: Tensor) -> Tensor:
        """The cells that hold these of the finest grid, int32."""
        return _divided(finest - self.start, self.factor).int()

    def first_in(self, coarser: Tensor) -> Tensor:
        """The first of the ``ratio`` cells that one of the stage before is made of."""
        return coarser * self.ratio - self.offset.int()


def nest(widths: Sequence[int], words: Iterable[Tensor]) -> list[NestedGrid]:
    """The grids that follow from words, int16, one for every stage and coefficient."""
    widths, word = tuple(widths), iter(words)
    ratios = [width // finer for width, finer in itertools.pairwise(widths)]
    offsets = tuple(_offset(next(word), ratio) for ratio in ratios)
    finest = next(word)
    later = [
        NestedGrid(widths[i:], finest, offsets[i:], ratios[i - 1], offsets[i - 1])
        for i in range(1, len(widths))
    ]
    return [NestedGrid(widths, finest, offsets), *later]


def _offset(word: Tensor, ratio: int) -> Tensor:
    """Integers 0..ratio - 1, uint8."""
    return ((word.int() + (1 << _DITHER_BITS - 1)) * ratio >> _DITHER_BITS).byte()


def _divided(n: Tensor, by: int) -> Tensor:
    """Integers below 2^51 divided by a small one, rounded down; faster than in integers."""
    # between integers, for a device may multiply by a reciprocal, and that is rounded
    return ((n.double() + 0.5) / by).floor_()


def finest_cells(x: Tensor, width: float, u: Tensor) -> Tensor:
    """The cells of the finest grid that hold values x, int32."""
    return (x / width + u.double() / (1 << _DITHER_BITS)).round().int()
