"""Networks of integers: the same on every machine.

Weights and activations are fixed-point numbers, and no sum of a convolution reaches
2^24, so that single-precision floats hold all of them exactly, in whatever order they
are added. :func:`check_sums` makes sure of it; :func:`.exact_floats` of the precision.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.nn as nn

from torch import Tensor

from ..fingerprint import Fingerprint

__all__ = [
    "HIDDEN_BITS",
    "HIDDEN_MAX",
    "WEIGHT_BITS",
    "IntegerNetwork",
    "activate",
    "row_chunks",
    "check_sums",
    "rounded_shift",
]

WEIGHT_BITS = 8
"""Fractional bits of weights."""

HIDDEN_BITS, HIDDEN_MAX = 7, 1023
"""Fractional bits of hidden activations, and the largest."""

_EXACT = 1 << 24
_BAND = 1 << 14  # places computed at once: what they take stays in a core's cache


class IntegerNetwork(nn.Module):
    """A network of integers: what all have in common.

    Its buffers are its weights and its biases, whose names end with ``bias``, int32 and
    zero at first: libraries that processes send tensors with know no int16. In a state
    dict weights are int16, as in files.

    Args:
        shapes: of the buffers, by name.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]]):
        super().__init__()
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(tuple(shape), dtype=torch.int32))

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, buffer in self.named_buffers():
            if not name.endswith("bias"):
                destination[prefix + name] = buffer.short()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # flat: those of five dimensions can have no format of memory of four
        for name, buffer in self.named_buffers():
            self._buffers[name] = fn(buffer.flatten()).view(buffer.shape)
        return self

    def check(self) -> None:
        """Raise a ValueError where a sum could be rounded."""
        raise NotImplementedError

    def fractional_bits(self, name: str) -> int:
        """Fractional bits of a buffer."""
        raise NotImplementedError

    def rounding_offset(self, name: str) -> int:
        """What a bias has in it for sums to be rounded to the nearest."""
        return 0

    def fingerprint(self) -> Fingerprint:
        """All weights, by name."""
        for name, weight in self.named_buffers():
            yield name, weight.cpu().numpy()


def check_sums(name: str, *terms: tuple[Tensor, int], bias: Tensor) -> None:
    """Raise a ValueError where a sum could be rounded.

    Args:
        name: of the weights, for the error.
        terms: weights of what is summed, ``[..., n]`` with the n terms of a sum last,
            and the largest magnitude of their inputs.
        bias: ``[...]``.
    """
    total = bias.long().abs()
    for weight, largest in terms:
        total = total + weight.long().abs().sum(-1) * largest
    if total.max() >= _EXACT:
        raise ValueError(
            f"context weights {name!r} are too large: a sum may reach "
            f"{int(total.max())}, and must stay below 2^24"
        )


def activate(sums: Tensor, bits: int) -> Tensor:
    """ReLU of sums that have so many fractional bits, as hidden activations, in place."""
    # exact: a power of two
    return sums.mul_(2.0 ** (HIDDEN_BITS - bits)).floor_().clamp_(0, HIDDEN_MAX)


def rounded_shift(x: np.ndarray, bits: int) -> np.ndarray:
    """Integers divided by 2^bits, rounded to the nearest, halves up."""
    return (x + (1 << (bits - 1))) >> bits


def row_chunks(height: int, width: int, places: int | None = None) -> Iterator[slice]:
    """Rows to compute at once, of about so many places, to bound memory."""
    step = max(1, (places or _BAND) // max(width, 1))
    for first in range(0, height, step):
        yield slice(first, min(first + step, height))
