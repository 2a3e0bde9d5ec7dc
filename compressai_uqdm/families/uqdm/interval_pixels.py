"""Where the latents of a UQDM say that pixels are: to half the width of their noise.

A latent is ``z_s = a z_t + b x + Delta u``, u in [-1/2, 1/2], with a and b of the step
(``mu = a z_t + b x``). So ``(z_s - a z_t) / b`` is x to within half of ``Delta / b``, the
*width* of the stage, and both sides know it as exactly as they know the latents: it is
an integer here. No level is outside of the intervals of any stage, and the narrowest,
that of the last, leaves a few levels.
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
"""Planes that the network sees beside the guess."""

MARGIN = 1 / 4096
"""Share of a stage's width by which its interval is longer at either end: rounding may
put a latent that far outside of its noise."""

_BITS = 40  # of positions, before they are rounded
_ONE = 1 << POSITION_BITS
_UNIT_BITS = POSITION_BITS - 4  # of a position, to units of 1/16 level
_LOG_BITS = 5  # of the logarithm of a scale
_ERROR_MAX, _LOG_RANGE = 256, (-192, 128)  # bounds of what the network sees of them


def coefficients(steps: Sequence[Step]) -> np.ndarray:
    """Integers that positions and intervals follow from, by stage.

    Returns:
        of every stage what a unit of z_s, and what a unit of z_t, moves its position
        by, in 2^-40 levels, and half the length of its interval in 2^-12; int64,
        ``[stages, 3]``. Units are those of :meth:`.LatticePoints.integers`.
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
    """Where one stage places the pixels of one picture.

    Args:
        row: the stage's, of :func:`coefficients`.
        z_s: the latent, ``[1, 3, H, W]``.
        z_t: the one before.

    Returns:
        integers in 2^-12 levels, int64, ``[3, H, W]``.
    """
    found = z_s.integers()[0] * row[0] - z_t.integers()[0] * row[1]
    return rounded_shift(found, _BITS - POSITION_BITS) + 255 * _ONE // 2


def seen_of(sent: QuantizedLatents, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the denoiser said at the last stage.

    Returns:
        the image, in 1/16 level, and the logarithm of its scale to the base of 2, in
        1/32; int64, ``[3, H, W]``.
    """
    x_hat = rounded_shift(positions(rows[-1], sent.location, sent.points[-2]), _UNIT_BITS)
    log_scales = sent.scales[0].double().log2().cpu().numpy() * (1 << _LOG_BITS)
    return x_hat, np.rint(log_scales).astype(np.int64)


class IntervalPixels(ContextPixels):
    """The context prior of pixels after some latents of a UQDM.

    The network sees, beside the middle of the interval of all stages, how far what the
    denoiser said at the last stage is from there, how sure it was of it, and how much
    shorter than that stage's own the interval is.

    Args:
        network: what tells where levels are, by default one that has learned nothing.

    Attributes:
        coefficients: those of :func:`coefficients`, or empty before :meth:`update`.
    """

    coefficients: Tensor
    on_all_latents = False

    def __init__(self, network: PixelNetwork | None = None) -> None:
        super().__init__(network or PixelNetwork(PLANES))
        self.register_buffer("coefficients", torch.empty(0, 3, dtype=torch.int64))

    def update(self, steps: Sequence[Step], force: bool = False) -> bool:
        if self.has_tables and not force:
            return False
        found = torch.from_numpy(coefficients(steps))
        self.coefficients = found.to(self.coefficients.device)
        self.build(2 * int(found[-1, 2]))
        return True

    def fingerprint(self) -> Fingerprint:
        yield "position", self.coefficients.cpu().numpy()
        yield from super().fingerprint()

    def intervals(self, sent: QuantizedLatents) -> LevelInterval:
        """What latents tell of the pixels of one picture.

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
        found = torch.empty(levels.shape, dtype=z.dtype, device=z.device)
        for b in range(len(levels)):
            p = self.likelihoods(levels[b].cpu().numpy(), self.intervals(sent.picture(b)))
            found[b] = torch.from_numpy(p)
        return self.likelihood_lower_bound(found)

    def code(
        self,
        coder: SymbolCoder,
        levels: np.ndarray | None,
        sent: QuantizedLatents,
        estimate: Callable[[], np.ndarray],
    ) -> np.ndarray:
        return self.code_in_intervals(coder, levels, self.intervals(sent), estimate)
