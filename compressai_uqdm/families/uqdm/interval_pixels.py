"""The pixel prior of a UQDM with context: the latents confine each pixel to an interval.

A latent is ``z_s = a z_t + b x + Delta u``, u in [-1/2, 1/2], with ``mu(x) = a z_t + b x``
of its step. So ``(z_s - a z_t) / b``, the position, differs from x by at most half of
``Delta / b``, the *width* of the stage. Encoder and decoder compute it in integers from the
coded latents. A pixel lies in the intervals of all stages. Their intersection, about as
narrow as the last of them, contains a few levels.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from torch import Tensor

from ...bitstream.symbols import SymbolCoder
from ...fingerprint import Fingerprint
from ...integer.arithmetic import rounded_shift
from ...quantization.lattice import FRACTION_BITS, LATTICE, LatticePoints
from .context_pixels import POSITION_BITS, ContextPixels, LevelInterval
from .diffusion import Step
from .latent import QuantizedLatents
from .pixel_network import PixelNetwork
from .pixel_prior import LEVELS

__all__ = ["MARGIN", "PLANES", "IntervalPixels", "coefficients", "positions", "seen_of"]

PLANES = 3
"""Input planes of the network besides the estimate of the image."""

MARGIN = 1 / 4096
"""Share of a stage's width by which its interval is longer at either end, because rounding
may shift a latent by that much."""

_BITS = 40  # fractional bits of positions before they are rounded
_ONE = 1 << POSITION_BITS
_UNIT_BITS = POSITION_BITS - 4  # shift from a position to units of 1/16 level
_LOG_BITS = 5  # fractional bits of the logarithm of a scale
_ERROR_MAX, _LOG_RANGE = 256, (-192, 128)  # ranges of the network's inputs


def coefficients(steps: Sequence[Step]) -> np.ndarray:
    """Return the integer coefficients of positions and intervals of all stages.

    Returns:
        int64, ``[stages, 3]``: the factors of z_s and of z_t in the position, in 2^-40
        levels, and half the length of the interval, in 2^-12 levels. z_s and z_t are in
        units of :meth:`.LatticePoints.integers`.
    """
    rows, before = [], LATTICE / 256  # z_1 is in multiples of 1/256
    for step in steps:
        a = (step.alpha_s * (1 - step.c) / step.alpha_t).item()
        b, delta = (step.alpha_s * step.c).item(), step.delta.item()
        unit = 2.0**_BITS / (LATTICE << FRACTION_BITS)
        width = 128 * delta / b
        rows.append(
            (
                round(width * unit),
                round(128 * a / b * before * unit),
                round(width * (0.5 + MARGIN) * _ONE),
            )
        )
        before = delta
    return np.array(rows, np.int64)


def positions(row: np.ndarray, z_s: LatticePoints, z_t: LatticePoints) -> np.ndarray:
    """Return the positions of pixels from one stage of one picture.

    Args:
        row: the stage's row of :func:`coefficients`.
        z_s: the latent of the stage, ``[1, 3, H, W]``.
        z_t: the latent before it, ``[1, 3, H, W]``.

    Returns:
        integers in 2^-12 levels, int64, ``[3, H, W]``.
    """
    position = z_s.integers()[0] * row[0] - z_t.integers()[0] * row[1]
    return rounded_shift(position, _BITS - POSITION_BITS) + 255 * _ONE // 2


def seen_of(sent: QuantizedLatents, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the denoiser's prediction at the last stage, as inputs of the network.

    Args:
        sent: the coded latents of one picture.
        rows: coefficients from :func:`coefficients`.

    Returns:
        the predicted image, in 1/16 level, and the base-2 logarithm of its scale, in 1/32;
        int64, ``[3, H, W]``.
    """
    x_hat = rounded_shift(positions(rows[-1], sent.location, sent.points[-2]), _UNIT_BITS)
    log_scales = sent.scales[0].double().log2().cpu().numpy() * (1 << _LOG_BITS)
    return x_hat, np.rint(log_scales).astype(np.int64)


class IntervalPixels(ContextPixels):
    """The context prior of pixels, given some latents of a UQDM.

    The inputs of the network are the middle of the intersected interval, the distance of
    the denoiser's prediction at the last stage from it, the scale of that prediction, and
    the interval's length relative to that of the last stage.

    Args:
        network: the context network, by default an untrained one.

    Attributes:
        coefficients: from :func:`coefficients`; empty before :meth:`update`.
    """

    coefficients: Tensor
    on_all_latents = False

    def __init__(self, network: PixelNetwork | None = None) -> None:
        super().__init__(network or PixelNetwork(PLANES))
        self.register_buffer("coefficients", torch.empty(0, 3, dtype=torch.int64))

    def update(self, steps: Sequence[Step], force: bool = False) -> bool:
        if self.has_tables and not force:
            return False
        rows = torch.from_numpy(coefficients(steps))
        self.coefficients = rows.to(self.coefficients.device)
        self.build(2 * int(rows[-1, 2]))
        return True

    def fingerprint(self) -> Fingerprint:
        yield "position", self.coefficients.cpu().numpy()
        yield from super().fingerprint()

    def intervals(self, sent: QuantizedLatents) -> LevelInterval:
        """Return the intervals of the pixels of one picture, and the network's inputs.

        Args:
            sent: the coded latents of the picture.

        Raises:
            ValueError: :meth:`update` was not called.
        """
        width = int(self.tables.width)
        rows = self.coefficients.cpu().numpy()
        shape = tuple(sent.points[0].Z.shape[1:])
        low, high = np.full(shape, -_ONE // 2), np.full(shape, 255 * _ONE)
        low, high = low.astype(np.int64), high.astype(np.int64) + _ONE // 2
        for row, z_t, z_s in zip(rows, sent.points, sent.points[1:]):
            v = positions(row, z_s, z_t)
            np.maximum(low, v - row[2], out=low)
            np.minimum(high, v + row[2], out=high)
        low, high = low.clip(None, (LEVELS - 1) * _ONE), high.clip(0, None)
        x_hat, log_scales = seen_of(sent, rows)
        middle = rounded_shift(low + high, _UNIT_BITS + 1)
        error = ((middle - x_hat) >> 1).clip(-_ERROR_MAX, _ERROR_MAX)
        log_scales = log_scales.clip(*_LOG_RANGE)
        share = rounded_shift((high - low) * round(2**27 / width), 20) - 128
        return LevelInterval(low, high, (error, log_scales, share))

    def forward(
        self, levels: Tensor, z: Tensor, step: Step, sent: QuantizedLatents | None
    ) -> Tensor:
        if sent is None:
            raise ValueError("the context prior of pixels needs latents on a lattice")
        likelihoods = torch.empty(levels.shape, dtype=z.dtype, device=z.device)
        for b in range(len(levels)):
            p = self.likelihoods(levels[b].cpu().numpy(), self.intervals(sent.picture(b)))
            likelihoods[b] = torch.from_numpy(p)
        return self.likelihood_lower_bound(likelihoods)

    def code(
        self,
        coder: SymbolCoder,
        levels: np.ndarray | None,
        sent: QuantizedLatents,
        estimate: Callable[[], np.ndarray],
    ) -> np.ndarray:
        return self.code_in_intervals(coder, levels, self.intervals(sent), estimate)
