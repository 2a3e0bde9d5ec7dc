"""The cost of a latent stage under Gaussian noise, if it could be sent."""

import math

import torch
import torch.nn as nn

from torch import Tensor

__all__ = ["GaussianNoiseConditional"]

_MAX_NATS = 700.0  # more, and a likelihood in double precision would be 0
_MAX_FACTORS = 1000


class GaussianNoiseConditional(nn.Module):
    r"""Conditional model of values under additive Gaussian noise of variance 1/12.

    What :class:`.UniformNoiseConditional` is for uniform noise of width 1, whose variance
    this is. A value is drawn from q = N(inputs, 1/12) where p = N(means, 1/12) is
    expected. An ideal simulation of that noisy channel would send it for

        KL(q || p) = (inputs - means)^2 / (2 / 12)

    nats (Kingma et al., "Variational Diffusion Models", 2021, have it as a loss). No
    practical code comes near it, so there are no tables.

    Attributes:
        quantiles: empty; CompressAI's trainers ask every model for parameters of that
            name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.quantiles = nn.Parameter(torch.zeros(0, dtype=torch.float32))

    def forward(
        self, inputs: Tensor, means: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Values under noise and their likelihoods.

        Args:
            inputs: values, ``[B, ...]``, in units of the width of uniform noise.
            means: locations of p, same shape.
            noise: samples of N(0, 1), broadcast to that shape.

        Returns:
            values with the noise, and :meth:`likelihood` of their divergences.
        """
        outputs = inputs + noise / math.sqrt(12)
        return outputs, self.likelihood(self.divergence(inputs, means))

    @staticmethod
    def divergence(inputs: Tensor, means: Tensor) -> Tensor:
        """KL(q || p) of every value in nats."""
        return 6 * (inputs - means) ** 2

    @staticmethod
    def likelihood(nats: Tensor) -> Tensor:
        """Likelihoods whose logarithms add up to minus the nats, as CompressAI adds them.

        Args:
            nats: costs of values, ``[B, ...]``.

        Returns:
            exp(-nats), float64, since a value may cost very little. Where that would be
            0, which takes few steps or an untrained network, exp(-nats / n) n times,
            ``[n B, ...]``.
        """
        largest = nats.detach().max().nan_to_num().item()
        n = min(max(1, math.ceil(largest / _MAX_NATS)), _MAX_FACTORS)
        return torch.exp(-nats.double() / n).repeat(n, *[1] * (nats.dim() - 1))

    def loss(self) -> Tensor:
        """0: there is nothing to learn."""
        return self.quantiles.sum()
