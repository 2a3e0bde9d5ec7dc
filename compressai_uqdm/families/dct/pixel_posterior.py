"""Posterior of pixels, given the decoded DCT coefficients, in integers."""

import functools

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ...integer.arithmetic import (
    rounded_shift,
    row_chunks,
)
from ...threads import parallel_map
from .coefficient_posterior import CoefficientPosterior
from .transform import (
    BLOCK,
    COEFFICIENT_BITS,
    SUBBANDS,
    inverse_dct,
    n_blocks,
    spread_variances,
)

__all__ = ["PixelPosterior", "block_rows", "deviations", "deviations_of", "thresholds"]

_AT_ONCE = 1 << 10  # blocks whose pixels are computed at once, to bound memory

INPUT_BITS, INPUT_MAX = 6, 512
"""Fractional bits of the network's inputs, and their largest magnitude."""

SIDE = 5
"""Of the window, and of the square whose mean is taken from the picture."""

N_BANDS = 12
"""Four bands of frequencies of three colours."""

POSITION_BITS, VARIANCE_BITS = 16, 14
"""Fractional bits of positions, in levels, and of variances, in their squares."""
_PICTURE_SHIFT = 3  # a unit of the network is eight levels of the picture
DEVIATION_BITS = 12
"""Fractional bits of deviations; their inverses have 4 more."""

LOWEST, _LOWEST_IN_BAND = -121, -295  # logarithms, in 1/64: of 0.15 and 0.01 levels
_HIGHEST = 262  # of 60 levels
_BANDS = ((0, 6), (6, 15), (15, 21), (21, 24))  # in groups of coefficients


class PixelPosterior(NamedTuple):
    """The pixels of one picture given its coefficients, in integers."""

    mean: np.ndarray
    """Posterior mean, in levels with 16 fractional bits, int32, ``[3, H, W]``."""

    planes: np.ndarray
    """Inputs of networks, int16 with 6 fractional bits, ``[6, H, W]``: the mean less its
    average around each pixel, in eight levels, and the natural logarithm of the standard
    deviation, in levels."""

    bands: np.ndarray
    """Log deviations of coefficients in four bands of three colours, ``[12, h, w]``."""

    @property
    def log_deviation(self) -> np.ndarray:
        """Natural logarithm of the standard deviation of each pixel, ``[3, H, W]``."""
        return self.planes[3:]

    @classmethod
    def of(
        cls, coefficients: CoefficientPosterior, b: int, size: tuple[int, int]
    ) -> "PixelPosterior":
        """Return the posterior of one image.

        Args:
            coefficients: posterior of the coefficients of all images.
            b: the image.
            size: (H, W).
        """
        (H, W), step = size, coefficients.grid.width
        mean = np.empty((3, H, W), np.int32)
        planes = np.empty((6, H, W), np.int16)
        bands = np.empty((N_BANDS, n_blocks(H), n_blocks(W)), np.int16)

        def fill(blocks: slice) -> None:
            rows = slice(BLOCK * blocks.start, min(BLOCK * blocks.stop, H))
            shape = rows.stop - rows.start, W
            means, variances = coefficients.moments(b, blocks)
            shift = 9 - COEFFICIENT_BITS  # means are in 1/512 step
            mean[:, rows] = inverse_dct(means * step + (1 << shift - 1) >> shift, shape)
            variances *= step**2
            variances >>= 20 - VARIANCE_BITS
            of_pixels = spread_variances(variances, shape)
            planes[3:, rows] = _log_deviation(of_pixels, LOWEST)
            of_bands = _means_of_bands(variances)
            bands[:, blocks] = _log_deviation(of_bands, _LOWEST_IN_BAND)

        parallel_map(fill, block_rows(size))
        _subtract_local_mean(mean, planes[:3])
        return cls(mean, planes, bands)


def block_rows(size: tuple[int, int]) -> Iterator[slice]:
    """Yield rows of blocks to compute at once, to bound memory."""
    height, width = size
    return row_chunks(n_blocks(height), n_blocks(width), _AT_ONCE)


def _means_of_bands(variances: np.ndarray) -> np.ndarray:
    """Means of the coefficients of each band and colour, ``[12, h, w]``."""
    starts = [channels.start for channels in SUBBANDS]
    sums = np.add.reduceat(variances, starts, axis=0)  # of the groups
    counts = np.diff([*starts, len(variances)])
    means = [
        sums[low + c : high : 3].sum(0) // counts[low + c : high : 3].sum()
        for c in range(3)
        for low, high in _BANDS
    ]
    return np.stack(means)


def _subtract_local_mean(posterior_mean: np.ndarray, found: np.ndarray) -> None:
    """A picture, less its mean around every pixel, as the network sees it."""
    n, (_, H, W) = SIDE // 2, posterior_mean.shape
    across = np.arange(-n, W + n).clip(0, W - 1)
    shift = POSITION_BITS + _PICTURE_SHIFT - INPUT_BITS

    def see(rows: slice) -> None:
        down = np.arange(rows.start - n, rows.stop + n).clip(0, H - 1)
        around = posterior_mean[:, down[:, None], across].astype(np.int64)
        around = np.pad(around.cumsum(1), ((0, 0), (1, 0), (0, 0)))
        around = around[:, SIDE:] - around[:, :-SIDE]
        around = np.pad(around.cumsum(2), ((0, 0), (0, 0), (1, 0)))
        mean = (around[:, :, SIDE:] - around[:, :, :-SIDE]) // SIDE**2
        detail = rounded_shift(posterior_mean[:, rows] - mean, shift)
        found[:, rows] = detail.clip(-INPUT_MAX, INPUT_MAX)

    parallel_map(see, row_chunks(H, W))


def _log_deviation(variances: np.ndarray, lowest: int) -> np.ndarray:
    """Logarithm of the root of variances, with 6 fractional bits, within bounds."""
    edges = thresholds()[lowest - _LOWEST_IN_BAND :]
    return (np.searchsorted(edges, variances, "right") + lowest).astype(np.int16)


@functools.cache
def thresholds() -> np.ndarray:
    """Variances, with 14 fractional bits, where the next logarithm begins."""
    i = np.arange(_LOWEST_IN_BAND, _HIGHEST)
    edges = np.exp((2 * i + 1) / (1 << INPUT_BITS)) * (1 << VARIANCE_BITS)
    return np.rint(edges).astype(np.int64)


@functools.cache
def deviations() -> tuple[np.ndarray, np.ndarray]:
    """Deviations with 12 fractional bits, and their inverses with 16, by logarithm."""
    deviation = np.exp(np.arange(LOWEST, _HIGHEST + 1) / (1 << INPUT_BITS))
    one = 1 << DEVIATION_BITS
    return (
        np.rint(deviation * one).astype(np.int64),
        np.rint(16 * one / deviation).astype(np.int64),
    )


def deviations_of(log_deviations: np.ndarray) -> np.ndarray:
    """Deviations with 12 fractional bits, int64, by their logarithms."""
    return deviations()[0][log_deviations.astype(np.int64) - LOWEST]
