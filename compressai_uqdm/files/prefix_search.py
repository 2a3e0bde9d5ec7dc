"""The search for the smallest prefix of a file that reaches a PSNR."""

import bisect
import itertools
import math

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..models.base import ProgressiveModel
from ..models.streaming import PictureDecoder

__all__ = ["SEARCH", "psnr_of", "smallest_prefix"]

SEARCH = 7
"""Approximate number of network passes of a search."""


def psnr_of(net: ProgressiveModel[Any], levels: Tensor, seed: int, latent: Any) -> float:
    """Return the PSNR of the image of a state, in dB; levels are 0..255."""
    x_hat = net.reconstruct(latent, "denoise", seed)
    errors = 0
    for row, row_hat in zip(levels.unbind(2), x_hat.unbind(2)):  # to bound memory
        errors += int((row_hat.double() - row).square().sum())
    mse = errors / levels.numel()
    return 10 * math.log10(255**2 / mse) if mse else math.inf


def smallest_prefix(
    decoder: PictureDecoder[Any],
    strings: list[bytes],
    room: int,
    reached: float,
    min_psnr: float,
    psnr: Callable[[Any], float],
) -> tuple[int, float]:
    """Find the smallest prefix of the strings that reaches a PSNR.

    Args:
        decoder: before the first stage.
        strings: of the stages; all of them reach ``reached``, all but the last too little.
        room: number of bytes that the prefix may have.
        reached: PSNR of all strings, in dB.
        min_psnr: PSNR to reach.
        psnr: returns the PSNR of a state.

    Returns:
        the number of bytes and the PSNR that they reach.
    """
    ends = list(itertools.accumulate(map(len, strings), initial=0))
    room = min(room, ends[-1])
    last = max(bisect.bisect_left(ends, room) - 1, 0)  # the string that room ends in
    part = strings[last][: room - ends[last]]
    for string in strings[:last]:
        decoder.append(string)
    if room < ends[-1]:
        reached = psnr(decoder.decode_partial(part))
    low, high = 0, len(part)
    while reached >= min_psnr and high - low > max(1, len(part) // 64):
        middle = (low + high) // 2
        found = psnr(decoder.decode_partial(part[:middle]))
        if found >= min_psnr:
            high, reached = middle, found
        else:
            low = middle
    return ends[last] + high, reached
