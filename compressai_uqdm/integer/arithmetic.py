"""Integer arithmetic in floating point: exact while no sum reaches 2^24.

Weights and activations are fixed-point numbers. A single-precision float holds every
integer up to 2^24, so the sums are the same on every machine, in whatever order they are
added. :func:`.exact_floats` keeps the precision, :meth:`.IntegerNetwork.check` the bound.

Rounding passes gradients through (straight-through estimator), so training runs the same
functions as the codec.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from torch import Tensor

__all__ = [
    "EXACT",
    "HIDDEN_BITS",
    "HIDDEN_MAX",
    "WEIGHT_BITS",
    "activate",
    "compact",
    "floored",
    "rounded",
    "rounded_shift",
    "row_chunks",
    "run_in_rows",
]

EXACT = 1 << 24
"""Bound of sums that a single-precision float holds exactly."""

WEIGHT_BITS = 8
"""Fractional bits of weights, unless a layer has others."""

HIDDEN_BITS, HIDDEN_MAX = 7, 1023
"""Fractional bits of hidden activations, and the largest."""

_CHUNK = 1 << 14  # positions computed at once: their activations stay in a core's cache


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float, down: bool) -> Tensor:
        ctx.factor = factor
        scaled = x * factor
        return scaled.floor_() if down else scaled.round_()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] * ctx.factor, None, None


def rounded(x: Tensor, factor: float = 1.0) -> Tensor:
    """Return the integers nearest to multiples of x, with the gradient of the multiples."""
    return _Rounded.apply(x, factor, False)


def floored(x: Tensor, factor: float) -> Tensor:
    """Return the floors of multiples of x, with the gradient of the multiples."""
    return _Rounded.apply(x, factor, True)


def activate(sums: Tensor, shift: int, nearest: bool = False) -> Tensor:
    """Return a layer's activations: sums times 2^-shift, rounded, between 0 and a bound.

    Args:
        sums: integers of any type, overwritten where no gradient is recorded. Sums from
            2^24 on are beyond the bound, also where a float rounds them.
        shift: number of fractional bits to drop.
        nearest: round to the nearest, halves to even. Without it round down: then a half
            in the bias of the layer makes it the nearest, see
            :attr:`.IntegerLayer.rounding_offset`.

    Returns:
        integers from 0 to ``HIDDEN_MAX``, float32.
    """
    sums, factor = sums.float(), 2.0**-shift
    if torch.is_grad_enabled():
        scaled = (rounded if nearest else floored)(sums, factor)
    else:  # in place: nothing is allocated
        scaled = sums.mul_(factor)
        scaled = scaled.round_() if nearest else scaled.floor_()
    # hardtanh's gradient takes one pass over memory, clamp's takes three
    return F.hardtanh(scaled, 0, HIDDEN_MAX, inplace=True)


def compact(activations: Tensor) -> Tensor:
    """Return activations in half the memory, int16, where no gradient is recorded."""
    return activations if torch.is_grad_enabled() else activations.to(torch.int16)


def rounded_shift(x: np.ndarray, bits: int) -> np.ndarray:
    """Integers divided by 2^bits, rounded to the nearest, halves up."""
    return (x + (1 << (bits - 1))) >> bits


def row_chunks(height: int, width: int, positions: int | None = None) -> Iterator[slice]:
    """Yield rows to compute at once, of about so many positions, to bound memory."""
    step = max(1, (positions or _CHUNK) // max(width, 1))
    for first in range(0, height, step):
        yield slice(first, min(first + step, height))


def run_in_rows(
    function: Callable[[slice], tuple[Tensor, ...]], height: int, width: int
) -> tuple[Tensor, ...]:
    """Return the outputs of a function of rows, computed in chunks to bound memory.

    Args:
        function: returns tensors ``[..., rows, width]``.
        height: number of rows.
        width: positions in each.
    """
    found: tuple[Tensor, ...] = ()
    for rows in row_chunks(height, width):
        parts = function(rows)
        if rows == slice(0, height):
            return parts
        found = found or tuple(
            part.new_empty(*part.shape[:-2], height, part.shape[-1]) for part in parts
        )
        for whole, part in zip(found, parts):
            whole[..., rows, :] = part
    return found
