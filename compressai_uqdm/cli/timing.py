"""How long a network takes for a pixel, measured on a small square."""

import math
import time

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..files.model import Codec

__all__ = ["is_quick", "tile_side", "timed"]

TILE = 96
"""Side of the square that is coded to tell how long a picture takes: the published
networks see as many windows of it as of so many pixels of a large picture."""

QUICK = 1e-4
"""Seconds, more than a pixel takes a model in integers."""


def is_quick(codec: "Codec", is_long: Callable[[float], bool]) -> bool:
    """Whether it need not be measured, which takes a second."""
    return codec.arithmetics == ("integer",) and not is_long(QUICK)


def tile_side(codec: "Codec") -> int:
    # steps of models in integers take their time also where pixels are few
    return 4 * TILE if codec.arithmetics == ("integer",) else TILE


def timed(run: Callable[[], object], side: int, is_long: Callable[[float], bool]) -> float:
    """Seconds for a pixel of a tile."""
    best = math.inf
    for _ in range(2):  # the first may only warm up
        start = time.perf_counter()
        run()
        best = min(best, (time.perf_counter() - start) / side**2)
        if not is_long(best):
            break
    return best
