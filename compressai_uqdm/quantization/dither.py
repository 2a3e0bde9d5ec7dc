"""Random numbers that encoder and decoder share: the dither and the first latent.

Both come from Philox (Salmon et al. 2011), a counter-based generator, here keyed by (seed,
stage). NumPy guarantees its raw stream on every platform and in every version. The numbers
do not depend on the device, the batch or the tiling.
"""

import functools

import numpy as np
import torch

from torch import Tensor

from ..bitstream.cdf import normal_cdf
from .lattice import LATTICE, LatticePoints

__all__ = ["dither", "gaussian_noise", "prior_sample", "uniform", "z_1_points"]

# z_1 is rounded to multiples of 1 / 256, up to 6 standard deviations.
_Z_1_STEP = 1 / 256
_Z_1_MAX = 6 * 256

# Streams of Philox beside those of the dither, which are numbered by stage.
_Z_1_STREAM = 1 << 32
_SAMPLING_STREAM = 1 << 33


def _words(seed: int, stream: int, count: int, dtype: str) -> np.ndarray:
    generator = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64))
    per_word = 8 // np.dtype(dtype).itemsize
    raw = generator.random_raw(-(-count // per_word)).astype("<u8", copy=False)
    return raw.view(dtype)[:count]


def dither(seed: int, stage: int, shape: tuple[int, ...]) -> Tensor:
    """Return the dither of a stage, 16-bit integers in units of 2^-16.

    The upper five bits are j, in -N/2..N/2 - 1 for N = 32, which selects a table. The lower
    eleven bits are f, the fraction of a lattice point that shifts the lattice
    (:func:`.lattice.split_dither`). Without the shift, lattice points could coincide with
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
def _z_1_cdf() -> np.ndarray:
    edges = (np.arange(-_Z_1_MAX, _Z_1_MAX) + 0.5) * _Z_1_STEP
    return np.rint(normal_cdf(edges) * 2.0**32)


def prior_sample(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Return z_1, a sample of N(0, I), the same for encoder and decoder.

    Args:
        seed: seed of the picture.
        shape: shape of the latents of one picture, ``[C, H, W]``.

    Returns:
        float32 tensor of that shape, on the CPU, exact multiples of 1/256.
    """
    words = _words(seed, _Z_1_STREAM, int(np.prod(shape)), "<u4")
    index = np.searchsorted(_z_1_cdf(), words.astype(np.float64), side="right")
    z_1 = (index - _Z_1_MAX).astype(np.float32) * np.float32(_Z_1_STEP)
    return torch.from_numpy(z_1).reshape(shape)


def z_1_points(z_1: Tensor) -> LatticePoints:
    """Return a batch of :func:`prior_sample`, ``[B, 3, H, W]``, as lattice points."""
    Z = (z_1 / _Z_1_STEP).round().to(torch.int32)
    dither = torch.zeros((), dtype=torch.int16, device="cpu").expand(z_1.shape[1:])
    return LatticePoints(Z, dither, LATTICE * _Z_1_STEP)


def gaussian_noise(seed: int, stage: int, shape: tuple[int, ...]) -> Tensor:
    """Return the noise of a stage of a Gaussian diffusion, which has no dither.

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
    """Return numbers uniform on (0, 1), for reconstructions that sample.

    Args:
        seed: seed of the picture.
        stream: number of the set of samples, from 0.
        shape: shape of the result.

    Returns:
        float64 tensor of that shape, on the CPU; its values are exact in float32.
    """
    words = _words(seed, _SAMPLING_STREAM + stream, int(np.prod(shape)), "<u4")
    # 23 bits: with more, float32 would round some numbers to 1, whose logit is infinite
    return torch.from_numpy(((words >> 9) + 0.5) / 2.0**23).reshape(shape)
