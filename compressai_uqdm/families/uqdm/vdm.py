"""VDM: Gaussian diffusion, the baseline that UQDM is measured against."""

from dataclasses import replace
from typing import Any, NoReturn

import torch

from compressai.registry import register_model
from torch import Tensor

from ...quantization.dither import gaussian_noise, uniform
from ...settings import exact_floats
from .config import GAUSSIAN, UQDMConfig
from .denoiser import Denoiser
from .diffusion import levels_to_x, prior_kl, x_to_levels
from .diffusion_model import DiffusionModel
from .gaussian_prior import GaussianNoiseConditional
from .latent import Latent

__all__ = ["VDM"]


@register_model("vdm")
class VDM(DiffusionModel):
    r"""Variational Diffusion Model from D. Kingma, T. Salimans, B. Poole, J. Ho:
    `"Variational Diffusion Models" <https://arxiv.org/abs/2107.00630>`_, Advances in
    Neural Information Processing Systems (NeurIPS), 2021, as a progressive codec.

    .. code-block:: none

                 z_1 ~ N(0, I), known to both sides
                      │
                ┌─────▼────┐     x_hat       ┌────┐
        stage   │ denoiser ├────────────────►│ GC │  costs KL(q || p)
        1..T    └─────┬────┘                 └─┬──┘
                      │        z_s ~ q(z_s | z_t, x) = N(mu(x), sigma_s^2 c)
                      │◄───────────────────────┘
                      │ z_0                  ┌────┐
        stage T+1     ├─────────────────────►│ PP │ pixels: now exact
                      ▼                      └────┘

        GC = Gaussian-noise conditional
        PP = pixel prior

    :class:`.UQDM` with the network, schedule, variances, stages and reconstructions it
    has, but Gaussian noise. Rates are what an ideal simulation of the Gaussian channel
    would send, which ``estimate`` and ``forward`` give; they cannot be coded.
    The bound tightens with the number of steps, and any number runs with any weights.

    In training, ``forward`` draws one step for each image, and gives T times its cost in
    place of the sum over steps. Steps are spread over the batch (Kingma et al., appendix
    I.1).

    Args:
        config: the model's configuration, by default that of ``vdm-tiny``; ``prior_type``
            is normal, its scale not learned and its base the default, q's own.
        quality: number of stages to send, 1 (coarsest) to T + 1 (lossless), by default
            T + 1; can be set later.
        denoiser: the network, in place of a fresh one as the configuration has it.
        n_timesteps: T, in place of the configuration's.

    Raises:
        ValueError: the configuration has another prior.
    """

    arithmetics = ()  # it cannot code

    def __init__(
        self,
        config: UQDMConfig = GAUSSIAN["vdm-tiny"],
        quality: int | None = None,
        denoiser: Denoiser | None = None,
        n_timesteps: int | None = None,
    ):
        prior = (config.prior_type, config.learned_prior_scale, config.base_prior_scale)
        if prior not in {(kind, False, "default") for kind in ("normal", "gaussian")}:
            raise ValueError(
                'a VDM needs prior_type "normal", learned_prior_scale False and '
                f'base_prior_scale "default", got {prior}'
            )
        if n_timesteps is not None:
            config = replace(config, n_timesteps=n_timesteps)
        if config.pixel_prior != "softmax":
            raise ValueError(
                f'a VDM needs pixel_prior "softmax", got {config.pixel_prior!r}: its '
                "latents are no integers that another could see"
            )
        super().__init__(config, quality, denoiser)
        self.latent_conditional = GaussianNoiseConditional()

    @exact_floats()
    def estimate_stage(
        self, latent: Latent, levels: Tensor, seed: int
    ) -> tuple[Tensor, Latent]:
        if latent.stages == self.config.n_timesteps:
            return self.estimate_pixels(latent, levels)
        x, p = levels_to_x(levels, self.dtype), latent.prediction
        noise = gaussian_noise(seed, latent.stages, levels.shape[1:]).to(x)
        y, likelihoods = self.latent_conditional(latent.mean(x), p.means, noise)
        return likelihoods, latent.at(latent.step.delta * y)

    def bound(self, levels: Tensor) -> dict[str, Any]:
        x = levels_to_x(levels, torch.float64)
        T, schedule, B = self.config.n_timesteps, self.noise_schedule, len(x)
        first = torch.rand(1, dtype=torch.float32, device=x.device)
        u = (first + torch.arange(B, device=x.device).float() / B) % 1
        i = (u.double() * T).floor().clamp(max=T - 1)[:, None, None, None]
        step, last = schedule.step(i), schedule.step(T - 1)

        z = step.alpha_t * x + step.sigma_t * torch.randn_like(x)
        p = self.predict(z, step)
        means = step.mean(z, x) / step.delta
        nats = T * self.latent_conditional.divergence(means, p.means)
        z_0 = last.alpha_s * x + last.sigma_s * torch.randn_like(x)
        likelihoods = {
            "prior": torch.exp(-prior_kl(x, schedule.step(0).gamma_t)),
            "stages": self.latent_conditional.likelihood(nats),
            "pixels": self.pixel_prior(levels, z_0, last, None),
        }

        x_hat = x
        if self.quality == T:
            x_hat = z_0 / last.alpha_s
        elif self.quality < T:
            step = schedule.step(self.quality)
            z = step.alpha_t * x + step.sigma_t * torch.randn_like(x)
            x_hat = self.predict(z, step).x_hat / last.alpha_s
        return {
            "x_hat": (x_to_levels(x_hat) / 255).to(self.dtype),
            "likelihoods": likelihoods,
        }

    def sample(self, latent: Latent, seed: int) -> Tensor:
        """A sample of p(z_s | z_t), in units of Delta."""
        p = latent.prediction
        u = uniform(seed, 2 * latent.stages, latent.z.shape[1:]).to(p.means)
        return p.means + p.scales * torch.special.ndtri(u)  # scales are 1 / sqrt(12)

    def compress(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Impossible: see the error.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "a VDM cannot code: no practical algorithm sends a sample of a Gaussian "
            "channel for about its KL divergence. Estimate its rate with model(x) "
            "(eval_model's --entropy-estimation), or use UQDM, whose uniform noise can be "
            "coded"
        )

    decompress = compress

    def aux_loss(self) -> Tensor:
        """0: there are no tables to fit."""
        return self.latent_conditional.loss()
