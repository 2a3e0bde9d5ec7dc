"""The scales of DCT coefficients: table, dead zone, and moments of a value in a cell."""

import functools
import math

import numpy as np

from ...entropy_models.scale_table import N_SCALES, ScaleTable
from ...quantization.nested import POINTS

__all__ = [
    "LOG_SCALES",
    "MEAN_BITS",
    "TAILS",
    "MomentTable",
    "dead_zone_index",
    "moment_table",
    "scale_table",
]

SCALE_SPAN = (0.01, 64.0)
"""Smallest and largest scale, in units of the quantization step."""

LOG_SCALES = np.linspace(math.log(SCALE_SPAN[0]), math.log(SCALE_SPAN[1]), N_SCALES)
"""Natural logarithms of the scales, ``[128]``."""

TAILS = 4.0
"""Standard deviations that a location may lie outside of a decoded cell: beyond, the tables
hold no probability in it."""

MEAN_BITS = 4
"""Fractional bits of posterior means, in lattice points (1/32 step)."""

VARIANCE_UNITS, MAX_VARIANCE = 1 << 20, (1 << 31) - 1


@functools.cache
def scale_table() -> ScaleTable:
    """Return the table that all coefficients are coded with."""
    # logarithms in single precision, as the tables of the format were made
    low, high = (float(np.float32(math.log(scale))) for scale in SCALE_SPAN)
    return ScaleTable.spanning("logistic", low, high)


@functools.cache
def moment_table() -> "MomentTable":
    """Return the moments for :func:`scale_table`."""
    table = scale_table()
    return MomentTable(
        table.cdf, table.half_widths.astype(np.int64), table.scales.astype(np.float64)
    )


def dead_zone_index(dead_zone: float) -> int:
    """Return the first scale index whose coefficients are coded.

    Args:
        dead_zone: coefficients whose predicted scale is below so many steps are not coded
            in a stage.
    """
    low, high = LOG_SCALES[[0, -1]]
    return math.ceil((math.log(dead_zone) - low) / (high - low) * (N_SCALES - 1))


class MomentTable:
    """Mean and variance of a value in its cell, by scale index and location.

    Args:
        cdf: rows of the scale table's CDF.
        R: half-widths of the rows.
        scale: of each row, float64.

    Attributes:
        zero: column of the CDF where the location is, by scale index.
        reach: largest distance of a location from the cell's middle, in lattice points, by
            scale index.
        starts: where the moments of a scale index start among those of all.
        uncoded: variances of values that are in no cell, by scale index.
    """

    def __init__(self, cdf: np.ndarray, R: np.ndarray, scale: np.ndarray):
        self._cdf, self.zero = cdf, ((R + 1) * POINTS).astype(np.int32)
        self.reach = np.ceil(TAILS * POINTS * scale).astype(np.int32) + POINTS // 2
        self.starts = np.cumsum([0, *(2 * self.reach[:-1] + 1)], dtype=np.int64)
        uncoded = np.rint(scale**2 * VARIANCE_UNITS)
        self.uncoded = uncoded.clip(max=MAX_VARIANCE).astype(np.int32)

    @property
    def means(self) -> np.ndarray:
        """Means from the cell's middle, in 1/16 lattice points, for all locations."""
        return self._moments[0]

    @property
    def variances(self) -> np.ndarray:
        """Variances, in 2^-20 of the squared step, likewise."""
        return self._moments[1]

    @functools.cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        # on demand: only previews and pixels need them, after the last decoded stage
        one = POINTS << MEAN_BITS
        unit, inside = VARIANCE_UNITS / one**2, one**2 / (12 * POINTS**2)  # of a point
        means, variances = [], []
        for cdf, middle, reach in zip(self._cdf, self.zero, self.reach):
            # the cell's 32 points, at locations from -reach to reach
            first = middle - POINTS // 2 - reach
            edges = first + np.arange(2 * reach + POINTS + 1)
            mass = np.diff(cdf[edges.clip(0, 2 * middle)].astype(np.int64))
            place = np.arange(len(mass))
            # sums over windows are differences of cumulative sums, exact in integers
            total, moment, square = (
                (sums[POINTS:] - sums[:-POINTS])[::-1]
                for sums in (
                    np.append(0, (mass * place**power).cumsum()) for power in range(3)
                )
            )
            # moments about the window's centre, not its first point
            centre = 2 * place[: len(total)][::-1] + POINTS - 1
            half = 1 << MEAN_BITS - 1
            mean = (2 * moment - centre * total) * half
            squares = (4 * square - 4 * centre * moment + centre**2 * total) * half**2
            total = np.maximum(total, 1)
            mean = mean / total
            variance = squares / total - mean**2 + inside
            means.append(np.rint(mean).astype(np.int32))
            variances.append(np.rint(variance * unit).astype(np.int32))
        return np.concatenate(means), np.concatenate(variances)
