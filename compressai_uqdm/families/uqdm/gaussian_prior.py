"""The ideal cost of a latent stage under Gaussian noise."""

import math

import torch
import torch.nn as nn

from torch import Tensor

__all__ = ["GaussianNoiseConditional"]

_MAX_NATS = 700.0  # above it, a likelihood in double precision would be 0
_MAX_FACTORS = 1000


class GaussianNoiseConditional(nn.Module):
    r"""Conditional model of values under additive Gaussian noise of variance 1/12.

    The counterpart of :class:`.UniformNoiseConditional`; 1/12 is the variance of uniform
    noise of width 1. The posterior is q = N(inputs, 1/12), the prior p = N(means, 1/12). An
    ideal simulation of the channel would code a value with

        KL(q || p) = (inputs - means)^2 / (2 / 12)

    nats, which is the loss of Kingma et al., "Variational Diffusion Models" (2021). No
    practical code comes near it, so there are no tables.

    Attributes:
        quantiles: empty; CompressAI's trainers expect parameters of this name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.quantiles = nn.Parameter(torch.zeros(0, dtype=torch.float32))

    def forward(
        self, inputs: Tensor, means: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add noise to values, and return them with their likelihoods.

        Args:
            inputs: values, ``[B, ...]``, in units of the width of uniform noise.
            means: locations of p, same shape.
            noise: samples of N(0, 1), broadcast to that shape.

        Returns:
            values with the noise, and the :meth:`likelihood` of their divergences.
        """
        outputs = inputs + noise / math.sqrt(12)
        return outputs, self.likelihood(self.divergence(inputs, means))

    @staticmethod
    def divergence(inputs: Tensor, means: Tensor) -> Tensor:
        """Return KL(q || p) of every value, in nats."""
        return 6 * (inputs - means) ** 2

    @staticmethod
    def likelihood(nats: Tensor) -> Tensor:
        """Return likelihoods whose logarithms sum to minus the nats.

        Args:
            nats: costs of values, ``[B, ...]``.

        Returns:
            exp(-nats), float64, as costs may be very small. If that underflows, with few
            steps or an untrained network, exp(-nats / n) repeated n times, ``[n B, ...]``.
        """
        largest = nats.detach().max().nan_to_num().item()
        n = min(max(1, math.ceil(largest / _MAX_NATS)), _MAX_FACTORS)
        return torch.exp(-nats.double() / n).repeat(n, *[1] * (nats.dim() - 1))

    def loss(self) -> Tensor:
        """Return 0: there is nothing to learn."""
        return self.quantiles.sum()
