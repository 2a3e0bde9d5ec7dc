"""Interpolation of missing values of a plane, in integer arithmetic."""

import numpy as np

__all__ = ["fill"]

FAR = 2
"""Values interpolated from squares of side 2^(FAR + 1) or more are shrunk towards 0."""

SWEEPS = 4
"""Number of passes that smooth the interpolated values."""


def fill(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return a plane with its missing values interpolated.

    A pyramid holds the means of the given values in squares of 2x2, 4x4 and so on. From the
    coarsest level down, squares without a given value are interpolated from the next
    coarser level. At the coarse levels the result is shrunk towards 0, which is the better
    estimate far from all given values.

    Args:
        values: integers below 2^40, ``[h, w]``.
        mask: which values are given, bool, ``[h, w]``; one at least.

    Returns:
        int64, ``[h, w]``; the same on every machine.
    """
    n = mask.astype(np.int64)
    sizes = [(np.where(mask, values, 0).astype(np.int64), n)]
    while max(n.shape) > 1:
        sums, n = (_sums_of_squares(x) for x in (sizes[-1][0] * n, n))
        n_before, n = n, np.minimum(n, 1)
        sizes.append(((2 * sums + n_before) // np.maximum(2 * n_before, 1), n))
    filled = sizes[-1][0]
    for depth in reversed(range(len(sizes) - 1)):
        means, n = sizes[depth]
        interpolated = _upsample(filled)[: means.shape[0], : means.shape[1]]
        if depth >= FAR:
            interpolated = (7 * interpolated + 4) >> 3
        filled = np.where(n > 0, means, interpolated)
    for _ in range(SWEEPS):
        filled = np.where(mask, filled, _neighbour_means(filled))
    return filled


def _neighbour_means(x: np.ndarray) -> np.ndarray:
    """Return the means of the four neighbours of each value; edges are replicated."""
    p = np.pad(x, 1, "edge")
    total = p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:]
    return (total + 2) >> 2


def _sums_of_squares(x: np.ndarray) -> np.ndarray:
    """Return the sums of 2x2 values; values past the border are 0."""
    x = np.pad(x, [(0, side % 2) for side in x.shape])
    return x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]


def _upsample(x: np.ndarray) -> np.ndarray:
    """Return a plane of twice the size, by bilinear weights of 9, 3, 3 and 1 sixteenths."""
    h, w = x.shape
    padded = np.pad(x, 1, "edge")
    fine = np.empty((h, 2, w, 2), np.int64)
    for i, y in enumerate((slice(0, h), slice(2, h + 2))):
        rows = 3 * padded[1:-1] + padded[y]
        for j, columns in enumerate((slice(0, w), slice(2, w + 2))):
            fine[:, i, :, j] = (3 * rows[:, 1:-1] + rows[:, columns] + 8) >> 4
    return fine.reshape(2 * h, 2 * w)
