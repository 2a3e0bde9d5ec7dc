"""Filling what is not there of a plane from what is around it, in integers."""

import numpy as np

__all__ = ["fill"]

FAR = 2
"""Squares of so many doublings, and larger ones, say little."""

SWEEPS = 4
"""How often what was interpolated becomes the mean of what is around it."""


def fill(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """A plane whose unknown values are interpolated.

    Means of squares of 2x2 known values, of 4x4 and so on; from the largest down, what has
    no value of its own is interpolated from the next larger squares, and the less of it
    taken the larger these are: far from all that is known, zero is the better guess.

    Args:
        values: integers below 2^40, ``[h, w]``.
        known: which of them count, bool; at least one does.

    Returns:
        int64, ``[h, w]``: the same on every machine.
    """
    n = known.astype(np.int64)
    sizes = [(np.where(known, values, 0).astype(np.int64), n)]
    while max(n.shape) > 1:
        sums, n = (_sums_of_squares(x) for x in (sizes[-1][0] * n, n))
        n_before, n = n, np.minimum(n, 1)
        sizes.append(((2 * sums + n_before) // np.maximum(2 * n_before, 1), n))
    filled = sizes[-1][0]
    for depth in reversed(range(len(sizes) - 1)):
        own, n = sizes[depth]
        guess = _twice_as_fine(filled)[: own.shape[0], : own.shape[1]]
        if depth >= FAR:
            guess = (7 * guess + 4) >> 3
        filled = np.where(n > 0, own, guess)
    for _ in range(SWEEPS):
        filled = np.where(known, filled, _means_around(filled))
    return filled


def _means_around(x: np.ndarray) -> np.ndarray:
    """Means of the four values around each."""
    p = np.pad(x, 1, "edge")
    total = p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:]
    return (total + 2) >> 2


def _sums_of_squares(x: np.ndarray) -> np.ndarray:
    """Sums of 2x2 values each; past the border are zeros."""
    x = np.pad(x, [(0, side % 2) for side in x.shape])
    return x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]


def _twice_as_fine(x: np.ndarray) -> np.ndarray:
    """Interpolated with weights of 9, 3, 3 and 1 sixteenths."""
    h, w = x.shape
    padded = np.pad(x, 1, "edge")
    fine = np.empty((h, 2, w, 2), np.int64)
    for i, y in enumerate((slice(0, h), slice(2, h + 2))):
        rows = 3 * padded[1:-1] + padded[y]
        for j, columns in enumerate((slice(0, w), slice(2, w + 2))):
            fine[:, i, :, j] = (3 * rows[:, 1:-1] + rows[:, columns] + 8) >> 4
    return fine.reshape(2 * h, 2 * w)
