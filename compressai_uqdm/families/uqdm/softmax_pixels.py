"""The published prior of the last stage: a softmax over levels, given z_0."""

import math

from collections.abc import Callable, Sequence

import numpy as np
import torch

from torch import Tensor

from ...bitstream.cdf import exp, quantize_cdf, symbol_weights
from ...bitstream.symbols import SymbolCoder
from ...entropy_models.tables import chunks
from ...quantization.lattice import FRACTION_BITS, LATTICE, LatticePoints
from .diffusion import Step, sharpness, x_to_levels
from .latent import QuantizedLatents
from .pixel_prior import LEVELS, PixelPrior

__all__ = ["PixelConditional", "sample_levels"]

POSITION_BITS = 16  # fractional bits of a position in coding
BINS = 256  # offsets of a position from its nearest level that have a table each

_NEGLIGIBLE = 40.0  # nats: a level less likely by more is left out of the sum
_TAIL = 14.0  # nats: a level less likely by more is coded as an escape


class PixelConditional(PixelPrior):
    r"""Softmax over the 256 levels of a pixel, given where z_0 places it.

        p(v | u) = softmax_v  -kappa (u - v)^2,

    with the position u of ``z_0 / alpha_0`` in units of levels, and a sharpness kappa that
    the last step gives. Close to u only a few levels have any probability, so sums and
    tables hold those alone.

    In coding, u is an integer with 16 fractional bits, and a table is chosen by its
    offset from the nearest level, in 256 bins, and by how near the edges 0 and 255 are.
    """

    on_all_latents = True

    def locate(self, z_s: LatticePoints, step: Step) -> np.ndarray:
        """Where the last latent places the pixels, for coding.

        Args:
            z_s: the latent, ``[B, 3, H, W]``.
            step: the step to it.

        Returns:
            positions in units of levels, int64 with 16 fractional bits, same shape.
        """
        levels_per_point = float(128 * z_s.delta / (LATTICE * step.alpha_s))
        factor = round(levels_per_point * 2**28)
        positions = z_s.integers() * factor >> (28 - POSITION_BITS + FRACTION_BITS)
        return positions + (255 << (POSITION_BITS - 1))  # z = 0 is between 127 and 128

    def forward(
        self, levels: Tensor, z: Tensor, step: Step, sent: QuantizedLatents | None
    ) -> Tensor:
        positions = x_to_levels(z / step.alpha_s)
        return self.likelihood(levels, positions, sharpness(step.gamma_s))

    def likelihood(self, levels: Tensor, positions: Tensor, kappa: Tensor) -> Tensor:
        """p(levels | positions), in (0, 1], at a sharpness kappa, a positive scalar."""
        kappa = kappa.to(positions.dtype)
        _, minus_log_sum = _normalize(positions, kappa)
        log_p = minus_log_sum - kappa * (positions - levels) ** 2
        return self.likelihood_lower_bound(log_p.exp())

    def update(self, steps: Sequence[Step], force: bool = False) -> bool:
        if self.has_tables and not force:
            return False
        return self.build(sharpness(steps[-1].gamma_s).item())

    def build(self, kappa: float) -> bool:
        """Build the integer tables for a sharpness."""
        kappa = float(np.float32(kappa))  # rounded, so that all platforms agree
        if not kappa > 0:
            raise ValueError(f"the sharpness of the pixels must be positive, got {kappa}")
        R = min(_reach(kappa, _TAIL), LEVELS - 1)
        d = np.arange(-R, R + 1)
        offset = (np.arange(BINS) + 0.5) / BINS - 0.5
        # relative to the nearest level, whose logit is -kappa offset^2
        p = exp(-kappa * (d * d - 2 * d * offset[:, None]).clip(0))
        # [distance of the edge 0, at most R; bin; level]
        p = np.where(d >= -np.arange(R + 1)[:, None, None], p, 0.0)
        cdf = np.cumsum(p, -1)
        cdf = quantize_cdf(cdf / cdf[..., -1:], 2 * R + 3).reshape(-1, 2 * R + 1)
        length, first = np.full(len(cdf), 2 * R + 1), np.full(len(cdf), -R)
        self._set_tables(cdf, length, first, self._offset.device)
        return True

    def code(
        self,
        coder: SymbolCoder,
        levels: np.ndarray | None,
        sent: QuantizedLatents,
        estimate: Callable[[], np.ndarray],
    ) -> np.ndarray:
        return self.code_at(coder, levels, self.locate(sent.points[-1], sent.step)[0])

    def code_at(
        self, coder: SymbolCoder, levels: np.ndarray | None, positions: np.ndarray
    ) -> np.ndarray:
        """Code levels at positions as of :meth:`locate`, ``[3, H, W]``.

        Args:
            coder: where symbols come from and go to.
            levels: 0..255, or None where they are to be read.
            positions: of the means of their softmax.

        Returns:
            the levels, uint8; where a stream ends early, the nearest to their position.
        """
        shape, positions = positions.shape, positions.reshape(-1)
        target = None if levels is None else levels.reshape(-1).astype(np.int32)
        found, R = np.zeros(len(positions), np.uint8), self._half_width()
        for chunk in chunks(0, len(found), 2 * R + 3):
            nearest, weights, flip = self._tables(positions[chunk])
            d = None
            if target is not None:
                d = (flip * (target[chunk] - nearest)).clip(-R - 1, R + 1) + R + 1
            d, there = coder.code_categorical(d, weights)
            is_near = there & (np.abs(d - R - 1) <= R)
            values = np.where(is_near, nearest + flip * (d - R - 1), nearest)
            values = values.clip(0, LEVELS - 1)
            escaped = np.flatnonzero(there & ~is_near)
            wanted = None if target is None else target[chunk][escaped]
            exact, are_there = coder.code_uniform(wanted, len(escaped), LEVELS)
            values[escaped] = np.where(are_there, exact, values[escaped])
            found[chunk] = values
        return found.reshape(shape)

    def _half_width(self) -> int:
        self._check_cdf_size()
        return (self._quantized_cdf.shape[1] - 1) // 2

    def _tables(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        R = self._half_width()
        if "weights" not in self._derived:
            cdf = self._quantized_cdf.cpu().numpy()
            w = symbol_weights(np.pad(cdf, ((0, 0), (1, 0))))
            self._derived["weights"] = w.reshape(R + 1, BINS, 2 * R + 3)
        half, one = 1 << (POSITION_BITS - 1), 1 << POSITION_BITS
        nearest = ((positions + half) >> POSITION_BITS).clip(0, LEVELS - 1)
        offset = (positions - nearest * one).clip(-half, half - 1)
        bins = (offset + half) * BINS >> POSITION_BITS
        # near the edge 255 the tables of the edge 0 serve, seen in a mirror
        flip = np.where(nearest > LEVELS // 2, -1, 1).astype(np.int32)
        bins = np.where(flip > 0, bins, BINS - 1 - bins)
        distance = np.minimum(nearest, LEVELS - 1 - nearest).clip(0, R)
        return nearest.astype(np.int32), self._derived["weights"][distance, bins], flip


def _reach(kappa: float, nats: float) -> int:
    # farther than that, from anywhere within half a level, levels are less likely by `nats`
    return min(LEVELS, math.ceil(math.sqrt(nats / kappa + 0.25) - 0.5))


def sample_levels(positions: Tensor, kappa: Tensor, u: Tensor) -> Tensor:
    """Levels drawn from the softmax.

    Args:
        positions: real numbers, any shape.
        kappa: sharpness, a positive scalar.
        u: numbers uniform on (0, 1), same shape.
    """
    kappa = kappa.to(positions.dtype)
    v, minus_log_sum = _normalize(positions, kappa)
    logits = _logits(positions, v, kappa) + minus_log_sum[..., None]
    below = (logits.exp().cumsum(-1) < u[..., None]).sum(-1, keepdim=True)
    return v.expand_as(logits).gather(-1, below.clamp(max=v.shape[-1] - 1))[..., 0]


def _logits(positions: Tensor, v: Tensor, kappa: Tensor) -> Tensor:
    logits = -kappa * (positions[..., None] - v) ** 2
    return logits.masked_fill((v < 0) | (v > LEVELS - 1), -torch.inf)


def _normalize(positions: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor]:
    """The levels v that count, and minus the logarithm of the softmax's sum."""
    R = _reach(float(kappa.detach()), _NEGLIGIBLE)
    v = torch.arange(LEVELS, device=positions.device).to(positions.dtype)
    if 2 * R + 1 < LEVELS:
        nearest = positions.detach().round().clamp(0, LEVELS - 1)
        v = nearest[..., None] + torch.arange(-R, R + 1, device=positions.device)
    return v, -_logits(positions, v, kappa).logsumexp(-1)
