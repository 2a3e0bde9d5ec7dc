"""Posterior of DCT coefficients: mean and variance, given the cells that were decoded."""

from typing import NamedTuple

import numpy as np

from torch import Tensor

from ...quantization.nested import POINTS, NestedGrid
from .block_order import BlockOrder
from .coefficient_scales import MAX_VARIANCE, MEAN_BITS, moment_table

__all__ = ["CoefficientPosterior"]


class CoefficientPosterior(NamedTuple):
    """The coefficients of images after a stage; matrices are ``[B h w, 192]``.

    A coefficient is *coded* if its cell was sent, in this stage or an earlier one.
    """

    cells: Tensor
    """The cell that holds a coded coefficient, any near cell otherwise, int16."""

    coded: Tensor
    """Which coefficients are coded, bool."""

    location_offset: Tensor
    """Location of the prior from the middle of the cell, in 1/32 step, int16."""

    scale_index: Tensor
    """Scale of the prior, uint8."""

    order: BlockOrder
    """The blocks: how rows of the matrices stand in the images."""

    grid: NestedGrid
    """The quantization cells of the stage."""

    missing: Tensor | None = None
    """Coefficients that a truncated bitstream did not reach, bool."""

    before: "CoefficientPosterior | None" = None
    """The posterior a stage earlier, which holds for these."""

    def moments(self, b: int, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return posterior means and variances of some rows of blocks of image b.

        Returns:
            means in 1/512 step and variances in 2^-20 of the squared step, int64,
            ``[192, n, w]``.
        """
        found = self._moments_at(self.order.rows(b, rows))
        width = self.order.shape[2]
        means, variances = (m.T.reshape(m.shape[1], -1, width) for m in found)
        return means, variances

    def _moments_at(self, places: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Those of some rows of the matrices, ``[m, 192]``."""

        def at(matrix: Tensor) -> np.ndarray:
            return matrix.index_select(0, places.to(matrix.device)).cpu().numpy()

        cells, coded, offset, index = map(at, self[:4])
        middle = self.grid.map(lambda m: m[places.to(m.device)]).middle.cpu().numpy()
        table = moment_table()
        means = POINTS * cells.astype(np.int64) + middle << MEAN_BITS
        reach = table.reach[index]
        entry = table.starts[index] + reach + offset.clip(-reach, reach)
        means += np.where(coded, table.means[entry], offset.astype(np.int64) << MEAN_BITS)
        variances = np.where(coded, table.variances[entry], table.uncoded[index])
        variances = variances.astype(np.int64)
        if self.before is not None and self.missing is not None:
            missing = at(self.missing)
            coarser, wider = self.before._moments_at(places)  # noqa: SLF001 (own class)
            means[missing] = coarser[missing] * self.grid.ratio
            wider = (wider[missing] * self.grid.ratio**2).clip(max=MAX_VARIANCE)
            variances[missing] = wider
        return means, variances
