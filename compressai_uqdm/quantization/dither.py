"""Randomness that encoder and decoder share: the dither and the first latent.

Both come from Philox (Salmon et al. 2011), a generator keyed by (seed, stage) that
counts; NumPy promises its raw stream on every platform and version. Nothing of it
depends on a device, a batch or a tiling.
"""

import functools

import numpy as np
import torch

from torch import Tensor

from ..bitstream.cdf import normal_cdf
from .lattice import LATTICE, LatticePoints

__all__ = ["dither", "gaussian_noise", "prior_sample", "uniform", "z_1_points"]

# z_1 stands on a lattice too: multiples of 1 / 256 up to 6 standard deviations.
_Z1_PITCH = 1 / 256
_Z1_LIMIT = 6 * 256

# Streams that are not the dither of a stage.
_Z1_STREAM = 1 << 32
_SAMPLING_STREAM = 1 << 33


def _words(seed: int, stream: int, count: int, dtype: str) -> np.ndarray:
    generator = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64))
    per_word = 8 // np.dtype(dtype).itemsize
    raw = generator.random_raw(-(-count // per_word)).astype("<u8", copy=False)
    return raw.view(dtype)[:count]


def dither(seed: int, stage: int, shape: tuple[int, ...]) -> Tensor:
    """The dither of a stage: 16-bit integers, the dither itself in units of 2^-16.

    The upper five bits are j, in {-N/2, ..., N/2 - 1}, which chooses a table; the lower
    eleven are a fraction f of a lattice point by which the lattice is shifted
    (:func:`.lattice.split_dither`). Without it, lattice points could fall in step with
    the levels of pixels.

    Args:
        seed: seed of the picture, 0 <= seed < 2^64.
        stage: number of the stage, from 0.
        shape: shape of the latents of one picture, ``[C, H, W]``.

    Returns:
        int16 tensor of that shape, on the CPU.
    """
    words = _words(seed, stage, int(np.prod(shape)), "<u2")
    return torch.from_numpy(words.view("<i2").astype(np.int16)).reshape(shape)


@functools.lru_cache(maxsize=1)
def _z1_cdf() -> np.ndarray:
    edges = (np.arange(-_Z1_LIMIT, _Z1_LIMIT) + 0.5) * _Z1_PITCH
    return np.rint(normal_cdf(edges) * 2.0**32)


def prior_sample(seed: int, shape: tuple[int, ...]) -> Tensor:
    """z_1, a sample of N(0, I) on a lattice, the same for encoder and decoder.

    Args:
        seed: seed of the picture.
        shape: shape of the latents of one picture, ``[C, H, W]``.

    Returns:
        float32 tensor of that shape, on the CPU, exact multiples of 1/256.
    """
    words = _words(seed, _Z1_STREAM, int(np.prod(shape)), "<u4")
    index = np.searchsorted(_z1_cdf(), words.astype(np.float64), side="right")
    z_1 = (index - _Z1_LIMIT).astype(np.float32) * np.float32(_Z1_PITCH)
    return torch.from_numpy(z_1).reshape(shape)


def z_1_points(z_1: Tensor) -> LatticePoints:
    """What :func:`prior_sample` gives, ``[B, 3, H, W]``, as integers."""
    Z = (z_1 / _Z1_PITCH).round().to(torch.int32)
    dither = torch.zeros((), dtype=torch.int16, device="cpu").expand(z_1.shape[1:])
    return LatticePoints(Z, dither, LATTICE * _Z1_PITCH)


def gaussian_noise(seed: int, stage: int, shape: tuple[int, ...]) -> Tensor:
    """The noise of a stage where it is Gaussian and there is no dither.

    Args:
        seed: seed of the picture.
        stage: number of the stage, from 0.
        shape: shape of the latents of one picture, ``[C, H, W]``.

    Returns:
        samples of N(0, 1), float64 tensor of that shape, on the CPU.
    """
    words = _words(seed, stage, int(np.prod(shape)), "<u4")
    return torch.special.ndtri(torch.from_numpy((words + 0.5) / 2.0**32)).reshape(shape)


def uniform(seed: int, stream: int, shape: tuple[int, ...]) -> Tensor:
    """Numbers uniform on (0, 1) for reconstructions that sample.

    Args:
        seed: seed of the picture.
        stream: number that tells one set of samples from another.
        shape: shape of the result.

    Returns:
        float64 tensor of that shape, on the CPU; its values are exact in float32.
    """
    words = _words(seed, _SAMPLING_STREAM + stream, int(np.prod(shape)), "<u4")
    # 23 bits: more would be rounded to 1 by float32, whose logit is infinite
    return torch.from_numpy(((words >> 9) + 0.5) / 2.0**23).reshape(shape)
