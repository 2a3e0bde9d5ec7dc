"""Nested universal quantization: every cell of a stage is a union of cells of the next.

Stage 1 codes the cell of width Delta_1, its quantization step, that holds a value x. Each
later stage t codes which of the ``Delta_(t-1) / Delta_t`` cells inside that cell holds x.
The finest grid is shifted by a dither for every coefficient, as in universal quantization
(Ziv 1985). The offset of the coarser cells on that grid is random too, so x is uniform in
its cell at every stage. No stage codes again what an earlier stage coded.
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
    "nested_grids",
]

POINTS = 32
"""Points per quantization step; locations are integers in this unit."""

MAX_RATIO = 256
"""Largest ratio of the quantization steps of two consecutive stages."""

_DITHER_BITS = 16


@dataclass(frozen=True)
class NestedGrid:
    """The grid of one stage, for every coefficient.

    Cell c is the union of the ``factor`` finest cells from ``c factor + start`` on. Its
    middle is ``c + middle / 32`` in units of the stage's quantization step. It lies in the
    cell ``(c + offset) div ratio`` of the stage before.

    ``start`` and ``middle``, int16, are computed from the offsets on first use and cached.
    Use them on a subset of the coefficients (:meth:`map`): for all coefficients and stages
    they take more memory than the picture.
    """

    steps: tuple[int, ...]  # quantization steps of this stage and the later ones, in levels
    dither: Tensor  # of the finest grid, in units of 2^-16, int16
    later: tuple[Tensor, ...]  # offsets of the later stages, uint8
    ratio: int = 1  # quantization step of the stage before over this one's; 1 in the first
    offset_before: Tensor | None = None  # this stage's offset; None in the first stage

    @property
    def step(self) -> int:
        """Quantization step Delta of this stage, in levels."""
        return self.steps[0]

    @property
    def factor(self) -> int:
        """Number of finest cells in one cell."""
        return self.steps[0] // self.steps[-1]

    @property
    def shape(self) -> torch.Size:
        """Shape of the coefficients."""
        return self.dither.shape

    @functools.cached_property
    def start(self) -> Tensor:
        """Index of the first finest cell in cell 0."""
        start = torch.zeros_like(self.dither)
        for offset, finer in zip(self.later, self.steps[1:]):
            start -= finer // self.steps[-1] * offset.short()
        return start

    @functools.cached_property
    def middle(self) -> Tensor:
        """Middle of cell 0, in 1/32 of the quantization step."""
        # 32 (start + (factor - 1) / 2 - d) / factor
        finest = (2 * self.start.int() + self.factor - 1 << _DITHER_BITS - 1) - self.dither
        point = self.factor << _DITHER_BITS - POINTS.bit_length() + 1
        return _floor_divide(finest + point // 2, point).short()

    @property
    def offset(self) -> Tensor:
        """Index of cell 0 inside the coarser cell around it; 0 in the first stage."""
        if self.offset_before is None:
            return torch.zeros_like(self.dither)
        return self.offset_before.short()

    def map(self, pick: Callable[[Tensor], Tensor]) -> "NestedGrid":
        """Return the grid of the coefficients that ``pick`` selects from a tensor."""
        return replace(
            self,
            dither=pick(self.dither),
            later=tuple(map(pick, self.later)),
            offset_before=None if self.offset_before is None else pick(self.offset_before),
        )

    def cells(self, finest: Tensor) -> Tensor:
        """Return the cells that contain the given cells of the finest grid, int32."""
        return _floor_divide(finest - self.start, self.factor).int()

    def first_in(self, coarser: Tensor) -> Tensor:
        """Return the first of the ``ratio`` cells inside cells of the stage before."""
        return coarser * self.ratio - self.offset.int()


def nested_grids(steps: Sequence[int], words: Iterable[Tensor]) -> list[NestedGrid]:
    """Return the grid of every stage.

    Args:
        steps: quantization steps, in levels, each a multiple of the next.
        words: random words, int16, one tensor for each stage: those of the offsets of
            stages 2, 3, ..., then the dither of the finest grid.
    """
    steps, word = tuple(steps), iter(words)
    ratios = [step // finer for step, finer in itertools.pairwise(steps)]
    offsets = tuple(_offset(next(word), ratio) for ratio in ratios)
    finest = next(word)
    later = [
        NestedGrid(steps[i:], finest, offsets[i:], ratios[i - 1], offsets[i - 1])
        for i in range(1, len(steps))
    ]
    return [NestedGrid(steps, finest, offsets), *later]


def _offset(word: Tensor, ratio: int) -> Tensor:
    """Return words scaled to integers 0..ratio - 1, uint8."""
    return ((word.int() + (1 << _DITHER_BITS - 1)) * ratio >> _DITHER_BITS).byte()


def _floor_divide(n: Tensor, by: int) -> Tensor:
    """Return integers below 2^51 divided by a small one, rounded down, float64."""
    # float64 is faster than integers; the half keeps the quotient away from integers, for
    # a device may multiply by a rounded reciprocal
    return ((n.double() + 0.5) / by).floor_()


def finest_cells(x: Tensor, step: float, u: Tensor) -> Tensor:
    """Return the cells of the finest grid that contain values x, int32.

    Args:
        x: values, in levels.
        step: quantization step of the finest grid, in levels.
        u: dither of the finest grid, in units of 2^-16, int16.
    """
    return (x / step + u.double() / (1 << _DITHER_BITS)).round().int()
