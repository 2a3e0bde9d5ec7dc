"""The order in which the values of a stage are coded.

A subset holds one colour channel at one of the four phases of the 2x2 lattice. The phases
on the diagonal come first, as in the checkerboard context model (He et al., "Checkerboard
Context Model for Efficient Learned Image Compression", CVPR 2021). The prior of a subset
may depend on all subsets before it.
"""

import numpy as np

__all__ = ["CODING_ORDER", "subset"]

_PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))
_CHANNELS = (1, 0, 2)  # green first: it predicts the other two best

CODING_ORDER = tuple((channel, phase) for phase in _PHASES for channel in _CHANNELS)
"""The (channel, (row, column)) of every subset, in coding order."""


def subset(plane: np.ndarray, index: int) -> np.ndarray:
    """Return the values of a subset of ``plane``, ``[C, H, W]``, as a strided view."""
    channel, (row, column) = CODING_ORDER[index]
    return plane[channel, row::2, column::2]
