"""The lattice of latents.

Encoder and decoder must hold the same latents, bit for bit, so a latent is stored as an
integer Z. Its value is ``Delta (Z - f) / N``. Delta is the width of its uniform noise, N
the number of lattice points per width, and f, in [0, 1), the fraction from the dither.
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
    "min_bytes",
    "split_dither",
]

LATTICE = 32
"""N, the number of lattice points in the width Delta of the uniform noise."""

FRACTION_BITS = 11
"""Bits of a dither that hold the fraction f of a lattice point."""


def split_dither(dither: Tensor) -> tuple[Tensor, Tensor]:
    """Return j and f of a dither: int16 in -N/2..N/2 - 1, and float32 in [0, 1)."""
    j = dither >> FRACTION_BITS
    f = (dither & ((1 << FRACTION_BITS) - 1)).float() / (1 << FRACTION_BITS)
    return j, f


def min_bytes(n: int) -> int:
    """Return a lower bound on the bytes of n coded values, for any prior.

    For one dither in 32 the location lies on the edge between two cells. Each of these has
    a probability of at most 1/2, so the symbol takes at least one bit. The bound is half of
    the expected number, less 8 bytes, so that it holds for the dither of every seed.
    """
    return max(0, n // (2 * 8 * LATTICE) - 8)


def from_lattice(Z: Tensor, dither: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the values at lattice points Z, in units of the noise's width Delta."""
    _, f = split_dither(dither.to(Z.device))
    return ((Z - f.to(dtype)) / LATTICE).to(dtype)


class LatticePoints(NamedTuple):
    """Latents as integers."""

    Z: Tensor  # int32, [B, 3, H, W]
    dither: Tensor  # from :func:`.dither.dither`, [3, H, W], on the CPU
    delta: float  # width of the noise, in units of z

    def integers(self) -> np.ndarray:
        """Return z in units of ``delta / (N 2^11)``, int64, ``[B, 3, H, W]``."""
        f = self.dither.numpy() & ((1 << FRACTION_BITS) - 1)
        return (self.Z.cpu().numpy().astype(np.int64) << FRACTION_BITS) - f

    def picture(self, b: int) -> "LatticePoints":
        """Return the latents of one picture of the batch, ``[1, 3, H, W]``."""
        return self._replace(Z=self.Z[b : b + 1])
