"""The order in which the values of a stage are coded.

A group holds one colour channel at one of the four phases of the 2x2 lattice, the
diagonal first, as in checkerboard context models (He et al. 2021): what is decoded of
one group can inform the prior of the next.
"""

import numpy as np

__all__ = ["CODING_ORDER", "subset"]

_PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))
_CHANNELS = (1, 0, 2)  # green first: it tells most about the others

CODING_ORDER = tuple((channel, phase) for phase in _PHASES for channel in _CHANNELS)
"""The (channel, (row, column)) of every group, in coding order."""


def subset(plane: np.ndarray, index: int) -> np.ndarray:
    """The values of a group in ``plane``, ``[C, H, W]``: a view of every second one."""
    channel, (row, column) = CODING_ORDER[index]
    return plane[channel, row::2, column::2]
