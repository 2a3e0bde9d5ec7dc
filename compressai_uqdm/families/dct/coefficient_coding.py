"""Coding of the DCT coefficients of one stage, subset after subset.

A coefficient that an earlier stage coded gets a refinement: which of the ``ratio`` cells
of this stage, within its decoded cell, holds it. Another one is coded if its predicted
scale is above the dead zone, by the cell that holds it.
"""

import itertools
import math

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from torch import Tensor

from ...bitstream import parameter_updates
from ...bitstream.cdf import PRECISION
from ...bitstream.symbols import SymbolCoder
from ...quantization.nested import POINTS, NestedGrid
from . import scale_adaptation
from .block_order import BlockOrder
from .coefficient_posterior import CoefficientPosterior
from .coefficient_scales import (
    LOG_SCALES,
    MEAN_BITS,
    dead_zone_index,
    moment_table,
    scale_table,
)
from .interpolation import fill
from .transform import N_COEFFICIENTS, N_COLOURS

__all__ = ["StageCoding"]

CELL_MAX, POINTS_MAX = (1 << 15) - 1, 1 << 30
_AT_ONCE = 1 << 13  # refinements, to bound memory


class Subset(NamedTuple):
    """Coefficients before they are coded, ``[N, n]`` each."""

    cells: np.ndarray | None
    """Cells that hold the coefficients, None in a decoder."""

    first: np.ndarray
    """Where a refinement is coded, the first of its cells."""

    offset: np.ndarray
    """Location of the prior from the middle of cell 0, in 1/32 step."""

    scale_index: np.ndarray

    is_refinement: np.ndarray
    is_significant: np.ndarray
    """Whether the cell itself is coded: not in the dead zone, and not coded before."""

    def of_blocks(self, start: int, end: int) -> "Subset":
        """Return the coefficients of some blocks."""
        return Subset(*(None if a is None else a[start:end] for a in self))  # type: ignore[arg-type]


class StageCoding:
    """Codes one stage: called for each subset, and keeps what was coded.

    Args:
        coder: encoder, decoder or rate estimator.
        order: the blocks.
        grid: returns the quantization cells of the first n coefficients of each block.
        dead_zone: coefficients whose scale is below so many steps are not coded.
        before: the posterior of the stages before.
        finest: cells of the finest grid that hold the coefficients, int16,
            ``[B h w, 192]``, or None to decode.
    """

    def __init__(
        self,
        coder: SymbolCoder,
        order: BlockOrder,
        grid: Callable[[int], NestedGrid],
        dead_zone: float,
        before: CoefficientPosterior | None,
        finest: Tensor | None,
    ):
        self.coder, self.order = coder, order
        # A damaged bitstream ends within the first subset, before all grids take memory.
        self.grid, self._draw = grid(1), grid
        self.before, self.finest = before, finest
        self.dead_zone_index = dead_zone_index(dead_zone)
        self.missing: np.ndarray | None = None
        self._moves: dict[int, np.ndarray] = {}  # of the scales of subsets, by image

    def __call__(
        self, parity: int, channels: slice, location: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Code a subset, as of :class:`.SubsetCallback`."""
        here = self.order.parities[parity], channels
        kinds = location.clamp(-POINTS_MAX, POINTS_MAX).int(), index.int()
        both = torch.stack(kinds).cpu().numpy()  # in one transfer
        is_first = (parity, channels.start) == (0, 0)
        if not is_first:
            self.grid = self._draw(N_COEFFICIENTS)
        grid = self.grid.map(lambda matrix: matrix[here])
        middle = grid.middle.numpy()
        subset = self._subset(here, grid, both[0] - middle, both[1])
        del kinds, both
        if parity == 0:  # scales of the other parity move alike
            self._moves[channels.start] = self._code_moves(subset)
        moves = self._moves[channels.start][self.order.images[parity]]
        moved = (subset.scale_index + moves).clip(0, len(LOG_SCALES) - 1).astype(np.uint8)
        cell, there = self._code_cells(subset, moved)

        if is_first:  # not earlier: damaged bitstreams must not take memory
            self.cells, self.coded, self.offsets, self.indexes = (
                np.zeros((len(self.grid.dither), N_COEFFICIENTS), dtype)
                for dtype in (np.int16, bool, np.int16, np.uint8)
            )
        self.cells[here], self.coded[here] = cell, there
        self.offsets[here] = (subset.offset - POINTS * cell).clip(-CELL_MAX, CELL_MAX)
        self.indexes[here] = np.where(there, moved, subset.scale_index)
        not_there = (subset.is_refinement | subset.is_significant) & ~there
        if self.missing is not None:
            # the bitstream ended in an earlier subset
            self.missing[here] = True
        elif not_there.any():
            self.missing = np.zeros(self.cells.shape, bool)
            self.missing[here] = not_there
        middles = torch.from_numpy(POINTS * cell + middle).to(location)
        return middles, torch.from_numpy(there).to(location.device)

    def posterior(self, coefficient_std: Tensor) -> CoefficientPosterior:
        """Return the posterior after the stage.

        Args:
            coefficient_std: standard deviations of coefficients of photographs, ``[192]``.
        """
        # its cells are decoded: nothing asks again where they begin
        grid = replace(self.grid, offset_before=None)
        found = CoefficientPosterior(
            torch.from_numpy(self.cells),
            torch.from_numpy(self.coded),
            torch.from_numpy(self.offsets),
            torch.from_numpy(self.indexes),
            self.order,
            grid,
            None if self.missing is None else torch.from_numpy(self.missing),
            None if self.missing is None else self.before,
        )
        if self.missing is not None and self.before is None:
            _fill_blocks(found, coefficient_std.cpu().numpy())
        return found

    def _subset(
        self,
        here: tuple[slice, slice],
        grid: NestedGrid,
        offset: np.ndarray,
        index: np.ndarray,
    ) -> Subset:
        index = index.clip(0, len(LOG_SCALES) - 1).astype(np.uint8)
        first, is_refinement = np.zeros_like(offset), np.zeros(offset.shape, bool)
        if self.before is not None:
            is_refinement = self.before.coded[here].numpy()
            first = grid.ratio * self.before.cells[here].numpy().astype(np.int32)
            first -= grid.offset.numpy()
        is_significant = (index >= self.dead_zone_index) & ~is_refinement
        cells = None
        if self.finest is not None:
            cells = self.finest[here].numpy().astype(np.int32) - grid.start.numpy()
            cells //= grid.factor
        return Subset(cells, first, offset, index, is_refinement, is_significant)

    def _code_moves(self, subset: Subset) -> np.ndarray:
        """Code by how many indexes the scales of a subset move, ``[B, n]``, int16."""
        B, images = self.order.shape[0], self.order.images[0]
        wanted: list[list[np.ndarray] | None] = [None] * B
        if subset.cells is not None:
            ends = itertools.pairwise(np.searchsorted(images, np.arange(B + 1)))
            wanted = [
                [_adapt_scales(self.grid.ratio, subset.of_blocks(*some))] for some in ends
            ]
        n = subset.scale_index.shape[1]
        moves = [parameter_updates.code(self.coder, m, [n])[0][0] for m in wanted]
        return np.stack(moves).astype(np.int16)

    def _code_cells(
        self, subset: Subset, index: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Code the cells of a subset by these scales; which of them are there, too."""
        cells, first, offset, _, is_refinement, is_significant = subset
        cell, there = np.zeros_like(offset), np.zeros(offset.shape, bool)
        refined = np.nonzero(is_refinement)
        for i in range(0, len(refined[0]), _AT_ONCE):
            at = tuple(axis[i : i + _AT_ONCE] for axis in refined)
            r = None if cells is None else cells[at] - first[at]
            weights = _refinement_weights(offset[at], first[at], index[at], self.grid.ratio)
            r, there[at] = self.coder.code_categorical(r, weights)
            cell[at] = first[at] + r

        nearest = (offset + POINTS // 2) // POINTS
        j = (offset - POINTS * nearest)[is_significant]
        k = None if cells is None else (cells - nearest)[is_significant]
        k, there[is_significant] = scale_table().code(
            self.coder, k, index[is_significant], j
        )
        cell[is_significant] = nearest[is_significant] + k
        # of damaged data they may be anywhere
        return np.where(there, cell, nearest).clip(-CELL_MAX, CELL_MAX), there


def _refinement_weights(
    offset: np.ndarray, first: np.ndarray, index: np.ndarray, ratio: int
) -> np.ndarray:
    """Return tables of the cells within a decoded one, ``[m, ratio]``, see :mod:`.cdf`.

    Args:
        offset: location of the prior from the middle of cell 0, in 1/32 step, ``[m]``.
        first: the first of the cells, ``[m]``.
        index: scale index, ``[m]``.
        ratio: number of cells.
    """
    cdf, table = scale_table().cdf, moment_table()
    zero = table.zero[index]
    low = POINTS * first - POINTS // 2
    reach = table.reach[index] - POINTS // 2
    location = offset.clip(low - reach, low + POINTS * ratio + reach)
    column, row = low - location + zero, cdf.shape[1] * index.astype(np.int32)
    edges = np.empty((ratio + 1, len(index)), np.int32)
    for i, edge in enumerate(edges):
        at = (column + POINTS * i).clip(0, 2 * zero)
        cdf.reshape(-1).take(at + row, out=edge, mode="clip")
    total = (np.diff(edges, axis=0) + 1).cumsum(0, dtype=np.int64)
    edges = np.floor(total * float((1 << PRECISION) - ratio) / total[-1])
    return np.diff(edges, axis=0, prepend=0).astype(np.float32).T


def _adapt_scales(ratio: int, subset: Subset) -> np.ndarray:
    """Return by how many indexes to move the scales of a subset of one image, ``[n]``."""
    cells, first, offset, index, is_refinement, is_significant = subset
    assert cells is not None
    places = (is_refinement | is_significant).nonzero()
    stride = scale_adaptation.stride(len(places[0]))
    places = tuple(place[::stride] for place in places)
    zero = POINTS // 2 + offset[places]
    below, start = POINTS * cells[places] - zero, POINTS * first[places] - zero
    low, high = LOG_SCALES[[0, -1]]
    per_index = (high - low) / (len(LOG_SCALES) - 1)
    values = (
        places[1],
        below,
        below + POINTS,
        np.where(is_refinement[places], start, -np.inf),
        np.where(is_refinement[places], start + POINTS * ratio, np.inf),
        low + index[places] * per_index + math.log(POINTS * 3**0.5 / math.pi),
    )
    targets = scale_adaptation.CodedValues(*values)
    return scale_adaptation.fit(targets, cells.shape[1], per_index, stride)


def _fill_blocks(found: CoefficientPosterior, coefficient_std: np.ndarray) -> None:
    """Fill the blocks of a truncated first stage.

    The context network's locations differ by the parity of the checkerboard, and would show
    as a grid of dots. So block means are interpolated from the decoded ones. All other
    coefficients of a block without a decoded luma mean are zero, with the variance that
    they have in photographs.

    Args:
        found: the posterior of the stage; its offsets and scale indexes are changed.
        coefficient_std: standard deviations of coefficients of photographs, ``[192]``.
    """
    assert found.missing is not None
    missing = found.missing.numpy()
    offsets, indexes = found.location_offset.numpy(), found.scale_index.numpy()
    middles = POINTS * found.cells.numpy().astype(np.int32) + found.grid.middle.numpy()
    blank = missing & missing[:, :1]
    widest = np.searchsorted(scale_table().scales, coefficient_std / found.grid.width)
    indexes[...] = np.where(blank, widest.clip(max=len(LOG_SCALES) - 1), indexes)
    target = np.where(blank, 0, middles + offsets)
    table, some = moment_table(), slice(N_COLOURS)
    reach = table.reach[indexes[:, some]]
    at = table.starts[indexes[:, some]] + reach + offsets[:, some].clip(-reach, reach)
    inside = middles[:, some] + (table.means[at] >> MEAN_BITS)
    target[:, some] = np.where(found.coded[:, some].numpy(), inside, target[:, some])
    for channel in range(N_COLOURS):
        column = torch.from_numpy(target[:, channel : channel + 1])
        is_there = torch.from_numpy(~missing[:, channel : channel + 1])
        planes = found.order.planes(column)[:, 0].numpy()
        there = found.order.planes(is_there)[:, 0].numpy()
        filled = [fill(p, t) if t.any() else p for p, t in zip(planes, there)]
        matrix = found.order.matrix(torch.from_numpy(np.stack(filled))[:, None])
        target[:, channel] = matrix[:, 0].numpy()
    changed = (target - middles).clip(-CELL_MAX, CELL_MAX)
    offsets[...] = np.where(missing, changed, offsets)
