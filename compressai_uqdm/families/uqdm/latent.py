"""A picture on its way from nothing to exact."""

import functools

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from ...progress import Progress
from ...quantization.lattice import LatticePoints, from_lattice
from .denoiser import Denoiser
from .diffusion import NoiseSchedule, Step, x_to_levels

__all__ = ["Latent", "QuantizedLatents", "Prediction", "predict"]


class QuantizedLatents(NamedTuple):
    """What was sent of pictures, as encoder and decoder both hold it."""

    points: tuple[LatticePoints, ...]
    """z_1, and the latent of every stage so far."""

    step: Step
    """The step to the last of them."""

    location: LatticePoints
    """Where the prior placed that one: at M in place of Z."""

    scales: Tensor
    """The prior's scale for it, in units of Delta, ``[B, 3, H, W]``."""

    def picture(self, b: int) -> "QuantizedLatents":
        """What was sent of one picture of the batch."""
        points = tuple(z.picture(b) for z in self.points)
        location, scales = self.location.picture(b), self.scales[b : b + 1]
        return QuantizedLatents(points, self.step, location, scales)


class Prediction(NamedTuple):
    """What the network says at z_t, each ``[B, 3, H, W]``."""

    x_hat: Tensor  # the image, in [-1, 1]
    eps_hat: Tensor  # the noise in z_t
    means: Tensor  # location of z_s under the prior, in units of Delta
    scales: Tensor  # its standard deviation, likewise


def predict(
    denoiser: Denoiser, z_t: Tensor, step: Step, progress: Progress | None = None
) -> Prediction:
    """What the network says at z_t, ``[B, 3, H, W]``.

    Raises:
        ValueError: it is not finite.
    """
    eps_hat, scale_factor = denoiser(z_t, step.gamma_t, progress)
    x_hat = step.denoise(z_t, eps_hat)
    means = step.mean(z_t, x_hat) / step.delta
    scales = step.prior_scale(scale_factor) / step.delta
    if not denoiser.training and not (means.isfinite().all() and scales.isfinite().all()):
        raise ValueError("the network's output is not finite: are its weights damaged?")
    return Prediction(x_hat, eps_hat, means, scales)


@dataclass
class Latent:
    """Images of which some stages are known.

    Attributes:
        denoiser: the network.
        schedule: the diffusion's.
        z: z_t at t = 1 - stages / T, ``[B, 3, H, W]``.
        stages: number of stages that are known.
        points: z_1 and what was sent since, as integers, where they are such.
        sent: the same with what the last of it follows from, once there is any.
        levels: the pixels, uint8, once they are known.
        progress: is told of every pass of the network.
    """

    denoiser: Denoiser
    schedule: NoiseSchedule
    z: Tensor
    stages: int = 0
    points: tuple[LatticePoints, ...] = ()
    sent: QuantizedLatents | None = None
    levels: Tensor | None = None
    progress: Progress | None = None

    @functools.cached_property
    def step(self) -> Step:
        """The step from here on."""
        return self.schedule.step(self.stages)

    @functools.cached_property
    def prediction(self) -> Prediction:
        """What the network says here; it runs once."""
        return predict(self.denoiser, self.z, self.step, self.progress)

    @property
    def estimate(self) -> Tensor:
        """The image that the network sees here, in levels, real numbers."""
        alpha_0 = self.schedule.steps()[-1].alpha_s
        return x_to_levels(self.prediction.x_hat / alpha_0)

    def mean(self, x: Tensor) -> Tensor:
        """The location of the next latent of x, in units of Delta, in the type of x."""
        return self.step.mean(self.z.to(x.dtype), x) / self.step.delta

    def next(self, Z: Tensor, M: Tensor, scales: Tensor, dither: Tensor) -> "Latent":
        """The latent one stage on.

        Args:
            Z: its lattice points, int32, ``[B, 3, H, W]``.
            M: those of its prior's location, likewise.
            scales: its prior's scales, same shape.
            dither: the dither, ``[3, H, W]``.
        """
        delta = self.step.delta
        z, location = (LatticePoints(at, dither, delta.item()) for at in (Z, M))
        sent = QuantizedLatents((*self.points, z), self.step, location, scales)
        z_s = delta * from_lattice(Z, dither, self.z.dtype)
        return replace(self.at(z_s), points=sent.points, sent=sent)

    def at(self, z_s: Tensor) -> "Latent":
        """The latent one stage on, where it is z_s and was not sent."""
        # without what the network said: memory
        return replace(self, z=z_s, stages=self.stages + 1, points=(), sent=None)

    def exact(self, levels: Tensor) -> "Latent":
        """The picture one stage on, where that is the pixels."""
        return replace(self, stages=self.stages + 1, points=(), sent=None, levels=levels)
