r"""The diffusion of UQDM: its noise schedule and the equations of one step.

The notation is that of Yang, Will, Mandt, "Progressive Compression with Universally
Quantized Diffusion Models" (ICLR 2025, arXiv 2412.10935). The forward process turns an
image ``x`` in [-1, 1] into latents ``z_t = alpha_t x + sigma_t eps``. Time runs from t = 1,
almost pure noise, to t = 0. ``gamma_t`` is the negative log signal-to-noise ratio,

    alpha_t^2 = sigmoid(-gamma_t),    sigma_t^2 = sigmoid(gamma_t),

and a step goes from a time t to the next smaller time s.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn

from torch import Tensor

from ...checks import check_choice, check_count, check_number
from ...precision import SinglePrecision

__all__ = [
    "DiffusionConfig",
    "NoiseSchedule",
    "Step",
    "levels_to_x",
    "prior_kl",
    "sharpness",
    "x_to_levels",
]


@dataclass(frozen=True)
class DiffusionConfig:
    """Configuration of a diffusion, without that of its network.

    Args:
        n_timesteps: T, the number of diffusion steps.
        prior_type: distribution G; the prior is G convolved with the uniform noise.
        learned_prior_scale: whether the network also predicts a factor of G's scale.
        base_prior_scale: the scale that this factor multiplies, ``sigma_t sqrt(c)``
            (forward_kernel) or ``sigma_s sqrt(c)`` (default).
        noise_schedule: gamma(t), fixed or learned, always linear in t.
        fix_gamma_max: with a learned schedule, keep gamma(1) at ``gamma_max``.
        gamma_min: negative log signal-to-noise ratio at t = 0.
        gamma_max: negative log signal-to-noise ratio at t = 1.

    Raises:
        ValueError: a value is out of range.
    """

    n_timesteps: int = 4
    prior_type: Literal["logistic", "normal", "gaussian"] = "logistic"
    learned_prior_scale: bool = True
    base_prior_scale: Literal["forward_kernel", "default"] = "forward_kernel"
    noise_schedule: Literal["learned_linear", "fixed_linear"] = "learned_linear"
    fix_gamma_max: bool = True
    gamma_min: float = -12.3
    gamma_max: float = 6.0

    def __post_init__(self) -> None:
        check_choice(self, "prior_type", ("logistic", "normal", "gaussian"))
        check_choice(self, "base_prior_scale", ("forward_kernel", "default"))
        check_choice(self, "noise_schedule", ("learned_linear", "fixed_linear"))
        check_count(self, "n_timesteps")
        check_number(self, "gamma_min")
        check_number(self, "gamma_max")
        if not -20 <= self.gamma_min < self.gamma_max:
            raise ValueError(
                "expected -20 <= gamma_min < gamma_max, got "
                f"{self.gamma_min} and {self.gamma_max}"
            )


class NoiseSchedule(SinglePrecision, nn.Module):
    """gamma(t), linear in t, with fixed or learned ends.

    Args:
        config: the diffusion's configuration.
    """

    def __init__(self, config: DiffusionConfig):
        super().__init__()
        self.config = config
        if config.noise_schedule == "learned_linear":
            span = config.gamma_max - config.gamma_min
            self.w = nn.Parameter(torch.tensor(span, dtype=torch.float32))
            if not config.fix_gamma_max:
                low = torch.tensor(config.gamma_min, dtype=torch.float32)
                self.b = nn.Parameter(low)

    def forward(self, t: float | Tensor) -> Tensor:
        """Return gamma(t) for times in [0, 1], float64, a scalar or shaped like ``t``."""
        low, high = self.config.gamma_min, self.config.gamma_max
        if self.config.noise_schedule == "fixed_linear":
            device = t.device if isinstance(t, Tensor) else "cpu"
            gamma = low + (high - low) * t
            return torch.as_tensor(gamma, dtype=torch.float64, device=device)
        w = self.w.double().abs()
        if self.config.fix_gamma_max:
            return w * (t - 1) + high
        return self.b.double() + w * t

    def step(self, i: int | Tensor) -> "Step":
        """Return step i = 0..T-1, from t = 1 - i / T; i in a tensor must be float64."""
        T = self.config.n_timesteps
        scale = self.config.base_prior_scale
        return Step(self(1 - i / T), self(1 - (i + 1) / T), scale)

    def times(self) -> list[float]:
        """Return the T + 1 times, from t = 1 down to 0."""
        T = self.config.n_timesteps
        return [1 - i / T for i in range(T + 1)]

    def steps(self) -> list["Step"]:
        """Return the T steps, from t = 1 down to s = 0."""
        return [self.step(i) for i in range(self.config.n_timesteps)]


@dataclass(frozen=True)
class Step:
    """The equations of one step from time t to time s < t.

    gamma_t and gamma_s are float64 tensors, so that gradients reach a learned schedule.
    They are scalars, or ``[B, 1, 1, 1]`` if every image has a step of its own.
    """

    gamma_t: Tensor
    gamma_s: Tensor
    base_prior_scale: str = "forward_kernel"

    @property
    def alpha_t(self) -> Tensor:
        return torch.sigmoid(-self.gamma_t).sqrt()

    @property
    def sigma_t(self) -> Tensor:
        return torch.sigmoid(self.gamma_t).sqrt()

    @property
    def alpha_s(self) -> Tensor:
        return torch.sigmoid(-self.gamma_s).sqrt()

    @property
    def sigma_s(self) -> Tensor:
        return torch.sigmoid(self.gamma_s).sqrt()

    @property
    def c(self) -> Tensor:
        """c = 1 - exp(gamma_s - gamma_t)."""
        return -torch.expm1(self.gamma_s - self.gamma_t)

    @property
    def delta(self) -> Tensor:
        """Width of the uniform noise of q(z_s | z_t, x): sqrt(12 c) sigma_s."""
        return (12 * self.c).sqrt() * self.sigma_s

    def mean(self, z_t: Tensor, x: Tensor) -> Tensor:
        """Return mu(x), the mean of q(z_s | z_t, x); that of p(z_s | z_t) is mu(x_hat)."""
        return self.alpha_s * (1 - self.c) / self.alpha_t * z_t + self.alpha_s * self.c * x

    def prior_scale(self, scale_factor: Tensor) -> Tensor:
        """Return S, the standard deviation of G in p(z_s | z_t)."""
        forward_kernel = self.base_prior_scale == "forward_kernel"
        sigma = self.sigma_t if forward_kernel else self.sigma_s
        return scale_factor * (sigma * self.c.sqrt())

    def denoise(self, z_t: Tensor, eps_hat: Tensor) -> Tensor:
        """Return x_hat, the image predicted from z_t, in [-1, 1]."""
        return ((z_t - self.sigma_t * eps_hat) / self.alpha_t).clamp(-1, 1)

    def flow(self, z_t: Tensor, eps_hat: Tensor) -> Tensor:
        """Return z_s on the probability flow: the same noise, scaled to time s."""
        ratio = self.alpha_s / self.alpha_t
        return ratio * z_t + (self.sigma_s - ratio * self.sigma_t) * eps_hat


def prior_kl(x: Tensor, gamma_1: Tensor) -> Tensor:
    """Return KL(q(z_1 | x) || N(0, I)) of every value of ``x``, in nats."""
    mean2 = torch.sigmoid(-gamma_1) * x**2
    var = torch.sigmoid(gamma_1)
    return 0.5 * (mean2 + var - 1 - nn.functional.logsigmoid(gamma_1))


def levels_to_x(levels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return x in (-1, 1) for levels 0..255, the centres of 256 equal bins."""
    return (2 * levels.to(dtype) + 1) / 256 - 1


def x_to_levels(x: Tensor) -> Tensor:
    """Return the levels for x, the inverse of :func:`levels_to_x`, as real numbers."""
    return 128 * (x + 1) - 0.5


def sharpness(gamma_0: Tensor) -> Tensor:
    """Return kappa of p(v | z_0) = softmax_v -kappa (u - v)^2.

    v are the levels 0..255, u is z_0 / alpha_0 in units of levels.
    """
    return torch.exp(-gamma_0) / (2 * 128**2)
