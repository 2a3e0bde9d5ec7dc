"""The prior of the last stage: pixel levels given z_0."""

import math

import numpy as np
import torch

from compressai.entropy_models import EntropyModel
from torch import Tensor

from .coder import StreamDecoder, StreamEncoder
from .tables import exp, quantize_cdf
from .uniform_noise import load_tables

__all__ = ["PixelConditional"]

LEVELS = 256
BINS = 256  # offsets of a position from its nearest level that have a table each
FRACTION_BITS = 16

_NEGLIGIBLE = 40.0  # nats: a level less likely by more is left out of the sum
_TAIL = 14.0  # nats: a level less likely by more is coded as an escape
_CHUNK = 1 << 22


class PixelConditional(EntropyModel):
    r"""Softmax over the 256 levels of a pixel, given where z_0 places it.

        p(v | u) = softmax_v  -kappa (u - v)^2,

    with the position u of ``z_0 / alpha_0`` in units of levels. Close to u only a few
    levels have any probability, so sums and tables hold those alone.

    In coding, u is an integer with 16 fractional bits, and a table is chosen by its
    offset from the nearest level, in 256 bins, and by how near the edges 0 and 255 are.
    """

    _offset: Tensor
    _quantized_cdf: Tensor

    def __init__(self) -> None:
        super().__init__(likelihood_bound=1e-30)
        self._weights: dict[int, np.ndarray] = {}

    def forward(self, levels: Tensor, positions: Tensor, kappa: Tensor) -> Tensor:
        """Likelihoods of levels.

        Args:
            levels: integers 0..255, any shape.
            positions: u, real numbers, same shape.
            kappa: sharpness, a positive scalar.

        Returns:
            likelihoods, same shape, in (0, 1].
        """
        kappa = kappa.to(positions.dtype)
        _, minus_log_sum = self._normalize(positions, kappa)
        log_p = minus_log_sum - kappa * (positions - levels) ** 2
        return self.likelihood_lower_bound(log_p.exp())

    def sample(self, positions: Tensor, kappa: Tensor, u: Tensor) -> Tensor:
        """Levels drawn from the softmax.

        Args:
            positions: real numbers, any shape.
            kappa: sharpness, a positive scalar.
            u: numbers uniform on (0, 1), same shape.
        """
        kappa = kappa.to(positions.dtype)
        v, minus_log_sum = self._normalize(positions, kappa)
        logits = self._logits(positions, v, kappa) + minus_log_sum[..., None]
        below = (logits.exp().cumsum(-1) < u[..., None]).sum(-1, keepdim=True)
        return v.expand_as(logits).gather(-1, below.clamp(max=v.shape[-1] - 1))[..., 0]

    @staticmethod
    def _logits(positions: Tensor, v: Tensor, kappa: Tensor) -> Tensor:
        logits = -kappa * (positions[..., None] - v) ** 2
        return logits.masked_fill((v < 0) | (v > LEVELS - 1), -torch.inf)

    def _normalize(self, positions: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor]:
        """The levels v that count, and minus the logarithm of the softmax's sum."""
        R = _half_width(float(kappa.detach()), _NEGLIGIBLE)
        v = torch.arange(LEVELS, device=positions.device).to(positions.dtype)
        if 2 * R + 1 < LEVELS:
            nearest = positions.detach().round().clamp(0, LEVELS - 1)
            v = nearest[..., None] + torch.arange(-R, R + 1, device=positions.device)
        return v, -self._logits(positions, v, kappa).logsumexp(-1)

    def update(self, kappa: float, force: bool = False) -> bool:
        """Build the integer tables for a sharpness.

        Args:
            kappa: sharpness of the softmax.
            force: build them anew where they exist.

        Returns:
            whether they were built.
        """
        if self._quantized_cdf.numel() and not force:
            return False
        if not kappa > 0:
            raise ValueError(f"kappa must be positive, got {kappa}")
        kappa = float(np.float32(kappa))  # rounded, so that all platforms agree
        R = min(_half_width(kappa, _TAIL), LEVELS - 1)
        d = np.arange(-R, R + 1)
        offset = (np.arange(BINS) + 0.5) / BINS - 0.5
        # relative to the nearest level, whose logit is -kappa offset^2
        p = exp(-kappa * (d * d - 2 * d * offset[:, None]).clip(0))
        # [distance of the edge 0, at most R; bin; level]
        p = np.where(d >= -np.arange(R + 1)[:, None, None], p, 0.0)
        cdf = np.cumsum(p, -1)
        cdf = quantize_cdf(cdf / cdf[..., -1:], 2 * R + 3).reshape(-1, 2 * R + 1)
        device = self._offset.device
        self._quantized_cdf = torch.from_numpy(cdf).to(device)
        self._cdf_length = torch.full((len(cdf),), 2 * R + 1, dtype=torch.int32).to(device)
        self._offset = torch.full((len(cdf),), -R, dtype=torch.int32).to(device)
        self._weights = {}
        return True

    def encode(
        self, encoder: StreamEncoder, levels: np.ndarray, positions: np.ndarray
    ) -> None:
        """Code the levels of one picture into a stream.

        Args:
            encoder: the stream.
            levels: integers 0..255, any shape.
            positions: u with 16 fractional bits, int64, same shape.
        """
        levels, positions = levels.reshape(-1), positions.reshape(-1)
        for chunk in self._chunks(len(levels)):
            nearest, weights, flip = self._tables(positions[chunk])
            R = self._half_width()
            d = flip * (levels[chunk].astype(np.int32) - nearest)
            encoder.encode(d.clip(-R - 1, R + 1) + R + 1, weights)
            encoder.encode_uniform(levels[chunk][np.abs(d) > R], LEVELS)

    def decode(self, decoder: StreamDecoder, positions: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`encode`: levels, uint8.

        Where the decoder's stream ends early, levels are the nearest to their position.
        """
        shape, positions = positions.shape, positions.reshape(-1)
        levels = np.zeros(len(positions), np.uint8)
        for chunk in self._chunks(len(levels)):
            nearest, weights, flip = self._tables(positions[chunk])
            R = self._half_width()
            d = decoder.decode(weights) - (R + 1)
            escaped = np.flatnonzero(np.abs(d) > R)
            d[escaped] = 0
            values = nearest
            values[: len(d)] += flip[: len(d)] * d
            values = values.clip(0, LEVELS - 1)
            v = decoder.decode_uniform(len(escaped), LEVELS)
            values[escaped[: len(v)]] = v
            levels[chunk] = values
        return levels.reshape(shape)

    def _half_width(self) -> int:
        self._check_cdf_size()
        return (self._quantized_cdf.shape[1] - 1) // 2

    def _chunks(self, count: int) -> list[slice]:
        step = max(1, _CHUNK // (2 * self._half_width() + 3))
        return [slice(start, start + step) for start in range(0, count, step)]

    def _tables(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        R = self._half_width()
        if R not in self._weights:
            cdf = self._quantized_cdf.cpu().numpy()
            total = (1 << 24) - (2 * R + 3)
            escapes = {"prepend": 0, "append": total}
            w = np.diff(np.pad(cdf, ((0, 0), (1, 0))), **escapes)
            self._weights[R] = w.astype(np.float32).reshape(R + 1, BINS, 2 * R + 3)
        half, one = 1 << (FRACTION_BITS - 1), 1 << FRACTION_BITS
        nearest = ((positions + half) >> FRACTION_BITS).clip(0, LEVELS - 1)
        offset = (positions - nearest * one).clip(-half, half - 1)
        bins = (offset + half) * BINS >> FRACTION_BITS
        # near the edge 255 the tables of the edge 0 serve, seen in a mirror
        flip = np.where(nearest > LEVELS // 2, -1, 1).astype(np.int32)
        bins = np.where(flip > 0, bins, BINS - 1 - bins)
        distance = np.minimum(nearest, LEVELS - 1 - nearest).clip(0, R)
        return nearest.astype(np.int32), self._weights[R][distance, bins], flip

    def _load_from_state_dict(self, state_dict, prefix, *args):  # type: ignore[no-untyped-def]
        load_tables(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _half_width(kappa: float, nats: float) -> int:
    # beyond it, from anywhere within half a level, levels are less likely by `nats`
    return min(LEVELS, math.ceil(math.sqrt(nats / kappa + 0.25) - 0.5))
