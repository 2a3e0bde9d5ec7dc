"""The variational bound on -log p(x), for all stages of an image at once.

The latents z_1, ..., z_0 depend on the image and its noise only, so one pass of the network
denoises all of them.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn as nn

from torch import Tensor

from ...entropy_models.uniform_noise import UniformNoiseConditional
from .denoiser import Denoiser
from .diffusion import NoiseSchedule, levels_to_x, prior_kl, sharpness, x_to_levels
from .softmax_pixels import PixelConditional

__all__ = ["Bound", "BoundTerms", "bound", "fresh_noise"]

Steps = Literal["all", "one"]


class Bounded(Protocol):
    """The parts of a model that the bound needs."""

    denoiser: Denoiser
    noise_schedule: NoiseSchedule

    @property
    def latent_priors(self) -> Sequence[UniformNoiseConditional]: ...


class BoundTerms(NamedTuple):
    """The terms of the bound."""

    likelihoods: dict[str, Tensor]
    """Likelihoods of each stage, ``[n, 3, H, W]``, for n of the images."""

    x_hats: list[Tensor]
    """Predictions of the same images at z_1, ..., z_0, in [-1, 1]."""


def bound(
    net: Bounded, levels: Tensor, noise: Sequence[Tensor], steps: Steps = "all"
) -> BoundTerms:
    """Return likelihoods whose product bounds p(x).

    Args:
        net: the model.
        levels: images, 0..255, ``[B, 3, H, W]``.
        noise: T + 1 tensors of that shape, in the type of the computation: the noise of
            z_1, standard normal, and of each step, uniform in [-1/2, 1/2).
        steps: ``"all"`` T steps of every image, as published, or ``"one"`` step of every
            image, selected by its position in the batch. One step costs 1/T. It gives an
            unbiased estimate if the batch is a multiple of T images in random order.
    """
    schedule = net.noise_schedule.steps()
    T = len(schedule)
    x = levels_to_x(levels, noise[0].dtype)
    z = [schedule[0].alpha_t * x + schedule[0].sigma_t * noise[0]]
    for step, u in zip(schedule, noise[1:]):
        z.append(step.mean(z[-1], x) + step.delta * u)

    every = 1 if steps == "all" else T
    chosen = [slice(i % every, None, every) for i in range(T)]
    z_t = [z[i][chosen[i]] for i in range(T)]
    gamma_t = [step.gamma_t.expand(len(z)) for step, z in zip(schedule, z_t)]
    outputs = net.denoiser(torch.cat(z_t), torch.cat(gamma_t))
    eps_hat, scale_factor = (
        output.to(x.dtype).split([len(z) for z in z_t]) for output in outputs
    )

    alpha_0, kappa = schedule[-1].alpha_s, sharpness(schedule[-1].gamma_s)
    likelihoods = {"prior": torch.exp(-prior_kl(x, schedule[0].gamma_t)).type_as(x)}
    x_hats = []
    for i, (step, prior) in enumerate(zip(schedule, net.latent_priors)):
        x_hat = step.denoise(z_t[i], eps_hat[i])
        x_hats.append(x_hat / alpha_0)
        mean, scale = step.mean(z_t[i], x_hat), step.prior_scale(scale_factor[i])
        prior.observe(scale / step.delta)
        likelihoods[f"stage_{i + 1}"] = prior.likelihood(
            z[i + 1][chosen[i]] / step.delta, scale / step.delta, mean / step.delta
        )
    x_hats.append(z[T] / alpha_0)
    with x.device:
        pixels = PixelConditional()
    likelihoods["pixels"] = pixels.likelihood(levels, x_to_levels(x_hats[-1]), kappa)
    return BoundTerms(likelihoods, x_hats)


def fresh_noise(x: Tensor, T: int) -> list[Tensor]:
    """Return noise for :func:`bound`, shaped like x, from PyTorch's global generator."""
    gaussian = torch.randn_like(x)
    return [gaussian, *(torch.empty_like(x).uniform_(-0.5, 0.5) for _ in range(T))]


class Bound(nn.Module):
    """The bound, with noise that is drawn from a seed of each image.

    So a training step does not depend on the number of processes, nor on interruptions of
    the run.

    Args:
        net: the model.
        steps: steps of each image, see :func:`bound`.
    """

    def __init__(self, net: Bounded, steps: Steps = "all"):
        super().__init__()
        self.net, self.steps = net, steps

    def forward(self, levels: Tensor, keys: Tensor) -> dict[str, dict[str, Tensor]]:
        """Return the likelihoods of images.

        Args:
            levels: images, uint8, ``[B, 3, H, W]``.
            keys: seeds of their noise, int64, ``[B]``.

        Returns:
            dict with ``likelihoods``, those of :class:`BoundTerms`.
        """
        noise = _keyed_noise(keys, len(self.net.latent_priors), levels_to_x(levels))
        return {"likelihoods": bound(self.net, levels, noise, self.steps).likelihoods}


def _keyed_noise(keys: Tensor, T: int, x: Tensor) -> list[Tensor]:
    generator = torch.Generator(x.device)
    noise = x.new_empty(T + 1, *x.shape)
    for b, key in enumerate(keys.tolist()):
        generator.manual_seed(key)
        noise[0, b].normal_(generator=generator)
        noise[1:, b].uniform_(-0.5, 0.5, generator=generator)
    return list(noise)
