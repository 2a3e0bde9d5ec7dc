"""The state of a batch of images between two stages."""

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
    """The coded latents of a batch of images, the same in encoder and decoder."""

    points: tuple[LatticePoints, ...]
    """z_1, and the latents of all stages so far."""

    step: Step
    """Step of the diffusion to the last latent."""

    location: LatticePoints
    """Location of the last latent's prior: M in place of Z."""

    scales: Tensor
    """Scale of the last latent's prior, in units of Delta, ``[B, 3, H, W]``."""

    def picture(self, b: int) -> "QuantizedLatents":
        """Return the coded latents of one picture of the batch."""
        points = tuple(z.picture(b) for z in self.points)
        location, scales = self.location.picture(b), self.scales[b : b + 1]
        return QuantizedLatents(points, self.step, location, scales)


class Prediction(NamedTuple):
    """The network's prediction at z_t, each tensor ``[B, 3, H, W]``."""

    x_hat: Tensor  # the image, in [-1, 1]
    eps_hat: Tensor  # the noise in z_t
    means: Tensor  # location of z_s under the prior, in units of Delta
    scales: Tensor  # standard deviation of z_s under the prior, in units of Delta


def predict(
    denoiser: Denoiser, z_t: Tensor, step: Step, progress: Progress | None = None
) -> Prediction:
    """Return the network's prediction at z_t, ``[B, 3, H, W]``.

    Args:
        denoiser: the network.
        z_t: the latents.
        step: step of the diffusion from t.
        progress: called with the share of the pass that is done.

    Raises:
        ValueError: the prediction is not finite.
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
    """State of a batch of images after some stages.

    Attributes:
        denoiser: the network.
        schedule: the noise schedule.
        z: z_t at t = 1 - stages / T, ``[B, 3, H, W]``.
        stages: number of stages coded.
        points: z_1 and the coded latents as integers; empty if latents were not coded.
        sent: the coded latents with the prior of the last one; None before the first.
        levels: the pixels, uint8, after the last stage; None before.
        progress: called as the passes of the network advance.
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
        """Step of the diffusion from z."""
        return self.schedule.step(self.stages)

    @functools.cached_property
    def prediction(self) -> Prediction:
        """The network's prediction at z, computed on first use."""
        return predict(self.denoiser, self.z, self.step, self.progress)

    @property
    def estimate(self) -> Tensor:
        """The image that the network predicts, in levels, real numbers."""
        alpha_0 = self.schedule.steps()[-1].alpha_s
        return x_to_levels(self.prediction.x_hat / alpha_0)

    def mean(self, x: Tensor) -> Tensor:
        """Return mu(x), the mean of the next latent, in units of Delta.

        Args:
            x: images in [-1, 1], ``[B, 3, H, W]``; its type is that of the result.
        """
        return self.step.mean(self.z.to(x.dtype), x) / self.step.delta

    def next(self, Z: Tensor, M: Tensor, scales: Tensor, dither: Tensor) -> "Latent":
        """Return the state after a coded latent.

        Args:
            Z: lattice points of the latent, int32, ``[B, 3, H, W]``.
            M: lattice points of its prior's location, int32, same shape.
            scales: its prior's scales, in units of Delta, same shape.
            dither: the dither, ``[3, H, W]``.
        """
        delta = self.step.delta
        z, location = (LatticePoints(points, dither, delta.item()) for points in (Z, M))
        sent = QuantizedLatents((*self.points, z), self.step, location, scales)
        z_s = delta * from_lattice(Z, dither, self.z.dtype)
        return replace(self.at(z_s), points=sent.points, sent=sent)

    def at(self, z_s: Tensor) -> "Latent":
        """Return the state after a latent z_s that was not coded."""
        # replace() drops the cached prediction, which saves memory
        return replace(self, z=z_s, stages=self.stages + 1, points=(), sent=None)

    def exact(self, levels: Tensor) -> "Latent":
        """Return the state after the last stage, with the pixels."""
        return replace(self, stages=self.stages + 1, points=(), sent=None, levels=levels)
