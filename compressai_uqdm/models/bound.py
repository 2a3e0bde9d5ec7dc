"""The bound on -log p(x) with noise that belongs to the image, not to the process.

What a training step computes must not depend on how many processes share it, nor on
whether the run was ever interrupted. So the noise of an image is drawn from a key.
"""

from typing import Literal

import torch
import torch.nn as nn

from torch import Tensor

from .diffusion import levels_to_x, prior_kl, sharpness, x_to_levels
from .uqdm import UQDM

__all__ = ["Bound"]

Steps = Literal["all", "one"]


class Bound(nn.Module):
    """Likelihoods whose product bounds p(x), as :class:`.UQDM` gives them in training.

    The latents z_1, ..., z_0 follow from the image and its noise alone, so one pass of
    the network sees all of them that it shall denoise.

    Args:
        net: the model.
        steps: ``"all"`` T steps of every image, as published, or ``"one"`` for each, by
            its place in the batch: an unbiased estimate at 1/T of the cost, where the
            batch has a multiple of T images in random order.
    """

    def __init__(self, net: UQDM, steps: Steps = "all"):
        super().__init__()
        self.net, self.steps = net, steps

    def forward(self, levels: Tensor, keys: Tensor) -> dict[str, dict[str, Tensor]]:
        """Likelihoods of images.

        Args:
            levels: images, uint8, ``[B, 3, H, W]``.
            keys: seeds of their noise, int64, ``[B]``.

        Returns:
            ``likelihoods`` by stage, each ``[n, 3, H, W]``, n the images that it is of.
        """
        net, T = self.net, self.net.config.n_timesteps
        steps = net.noise_schedule.steps()
        x = levels_to_x(levels)
        noise = _noise(keys, T, x)

        z = [steps[0].alpha_t * x + steps[0].sigma_t * noise[0]]
        for step, u in zip(steps, noise[1:]):
            z.append(step.mean(z[-1], x) + step.delta * u)

        every = 1 if self.steps == "all" else T
        chosen = [slice(i % every, None, every) for i in range(T)]
        z_t = [z[i][chosen[i]] for i in range(T)]
        gamma_t = [step.gamma_t.expand(len(z)) for step, z in zip(steps, z_t)]
        outputs = net.denoiser(torch.cat(z_t), torch.cat(gamma_t))
        eps_hat, scale_factor = (
            output.float().split([len(z) for z in z_t]) for output in outputs
        )

        likelihoods = {"prior": torch.exp(-prior_kl(x, steps[0].gamma_t)).type_as(x)}
        for i, (step, prior) in enumerate(zip(steps, net.priors)):
            mean = step.mean(z_t[i], step.denoise(z_t[i], eps_hat[i]))
            z_s, scale = z[i + 1][chosen[i]], step.prior_scale(scale_factor[i])
            prior.observe(scale / step.delta)
            likelihoods[f"stage_{i + 1}"] = prior.likelihood(
                z_s / step.delta, scale / step.delta, mean / step.delta
            )
        positions = x_to_levels(z[T] / steps[-1].alpha_s)
        likelihoods["pixels"] = net.pixel_conditional(
            levels, positions, sharpness(steps[-1].gamma_s)
        )
        return {"likelihoods": likelihoods}


def _noise(keys: Tensor, T: int, x: Tensor) -> list[Tensor]:
    """For z_1 standard normal noise, for each step uniform noise in [-1/2, 1/2)."""
    generator = torch.Generator(x.device)
    noise = x.new_empty(T + 1, *x.shape)
    for b, key in enumerate(keys.tolist()):
        generator.manual_seed(key)
        noise[0, b].normal_(generator=generator)
        noise[1:, b].uniform_(-0.5, 0.5, generator=generator)
    return list(noise)
