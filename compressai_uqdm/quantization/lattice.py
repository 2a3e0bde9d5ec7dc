"""The lattice that latents stand on.

Encoder and decoder must hold the same latents, bit for bit, so a latent is an integer:
in units of the width Delta of its uniform noise it is ``(Z - f) / N``, with N points to
the width, and a fraction f of a point that the dither gives.
"""

from typing import NamedTuple

import numpy as np
import torch

from torch import Tensor

__all__ = [
    "FRACTION_BITS",
    "LATTICE",
    "LatticePoints",
    "from_lattice",
    "least_bytes",
    "split_dither",
]

LATTICE = 32
"""N, the lattice points in the width Delta of the uniform noise."""

FRACTION_BITS = 11
"""Bits of the fraction of a lattice point in a dither."""


def split_dither(dither: Tensor) -> tuple[Tensor, Tensor]:
    """j and f of a dither: int16, and float32 in [0, 1)."""
    j = dither >> FRACTION_BITS
    f = (dither & ((1 << FRACTION_BITS) - 1)).float() / (1 << FRACTION_BITS)
    return j, f


def least_bytes(n: int) -> int:
    """Return a number of bytes that n coded values exceed, whatever their prior is.

    With one dither in 32 the location lies on the edge between two cells. Each of them has
    a probability of at most 1/2, so the symbol takes at least one bit. The number here is
    half of that, less 8 bytes, so that it holds for the dither of every seed.
    """
    return max(0, n // (2 * 8 * LATTICE) - 8)


def from_lattice(Z: Tensor, dither: Tensor, dtype: torch.dtype) -> Tensor:
    """The values, in units of the noise's width, at lattice points Z."""
    _, f = split_dither(dither.to(Z.device))
    return ((Z - f.to(dtype)) / LATTICE).to(dtype)


class LatticePoints(NamedTuple):
    """The latents of a picture as the integers that they are."""

    Z: Tensor  # int32, [B, 3, H, W]
    dither: Tensor  # as of :func:`.dither.dither`, [3, H, W], on the CPU
    delta: float  # width of the noise, in units of z

    def integers(self) -> np.ndarray:
        """z in units of ``delta / (N 2^11)``: int64, ``[B, 3, H, W]``."""
        f = self.dither.numpy() & ((1 << FRACTION_BITS) - 1)
        return (self.Z.cpu().numpy().astype(np.int64) << FRACTION_BITS) - f

    def picture(self, b: int) -> "LatticePoints":
        """Those of one picture of the batch."""
        return self._replace(Z=self.Z[b : b + 1])
