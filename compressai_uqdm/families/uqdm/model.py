"""UQDM: progressive compression with a universally quantized diffusion model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
import torch.nn as nn

from compressai.registry import register_model
from torch import Tensor

from ...entropy_models.uniform_noise import UniformNoiseConditional
from ...fingerprint import Fingerprint, prefixed
from ...models.checkpoint import Weights, loading
from ...models.coding import PictureCoder
from ...quantization.dither import dither, uniform
from ...quantization.lattice import from_lattice, least_bytes
from ...settings import exact_floats
from .bound import bound, fresh_noise
from .components import LATENT_PRIORS
from .config import UQDMConfig
from .context_files import read_contexts
from .context_prior import ContextConditional
from .denoiser import Denoiser
from .diffusion import levels_to_x, x_to_levels
from .diffusion_model import DiffusionModel
from .interval_pixels import IntervalPixels
from .latent import Latent

__all__ = ["UQDM"]

TRUNCATED_NOISE = 0.75
"""Share of their dither that missing values of a truncated first stage get. Without noise,
the network, which is used to much of it, sees structure there (measured)."""


@register_model("uqdm")
class UQDM(DiffusionModel):
    r"""Universally Quantized Diffusion Model from Y. Yang, J. Will, S. Mandt:
    `"Progressive Compression with Universally Quantized Diffusion Models"
    <https://arxiv.org/abs/2412.10935>`_, Int. Conf. on Learning Representations
    (ICLR), 2025.

    .. code-block:: none

                 z_1 ~ N(0, I), known to both sides
                      │
                ┌─────▼────┐  x_hat, scale   ┌────┐
        stage   │ denoiser ├────────────────►│ LP │◄┐ groups decoded of the stage,
          1     └─────┬────┘                 └─┬──┘ ┘ where LP is a context prior
                      │        z_s = mu(x) + U(-Delta/2, Delta/2), coded
                      │◄───────────────────────┘
                ┌─────▼────┐                 ┌────┐
        stage   │ denoiser ├────────────────►│ LP │
        2..L    └─────┬────┘                 └─┬──┘
                      ·◄───────────────────────┘
                      │ z_s                  ┌────┐
        stage L+1     ├─────────────────────►│ PP │◄┐ pixels, coded: now exact
                      ▼                      └────┘ ┘ groups, where it is a context prior

        LP = latent prior, under uniform noise, by universal quantization
        PP = pixel prior

    L is T, or less where the pixel prior is a context prior. One model, one stream: the
    first q stages are a coarser picture, all L + 1 the exact image. ``forward``,
    ``compress`` and ``decompress`` are those of :class:`.ProgressiveModel`: walks
    through the stages, each of which is :meth:`code_stage`.

    Args:
        config: the model's configuration, by default that of ``uqdm-tiny``.
        quality: number of stages to code, 1 (coarsest) to L + 1 (lossless), by default
            all; can be set later.
        denoiser: the network, in place of a fresh one as the configuration has it.
    """

    def __init__(
        self,
        config: UQDMConfig = UQDMConfig(),
        quality: int | None = None,
        denoiser: Denoiser | None = None,
    ):
        super().__init__(config, quality, denoiser)
        LatentPrior = LATENT_PRIORS[config.latent_prior]
        priors = [LatentPrior(config.prior_type) for _ in range(self.latent_stages)]
        # training is of all steps, those that are not sent too
        while len(priors) < config.n_timesteps:
            priors.append(UniformNoiseConditional(config.prior_type))
        self.latent_priors = _list_of(priors)

    def least_bytes(self, size: tuple[int, int]) -> int:
        return least_bytes(3 * size[0] * size[1])

    @exact_floats()
    def code_stage(self, latent: Latent, coder: PictureCoder) -> Latent:
        """Code one stage: run the denoiser, code with the prior, make the next latent."""
        if latent.stages == self.latent_stages:
            return self._code_pixels(latent, coder)
        prior, p = self.latent_priors[latent.stages], latent.prediction
        u = dither(coder.seed, latent.stages, coder.shape[1:])
        indexes = prior.build_indexes(p.scales[0], coder.rounding)
        M = prior.locate(p.means[0], u, coder.rounding)
        y = None
        if coder.levels is not None:
            # in double precision whatever the network has, so that latents are within half
            # their noise's width of the image, as the last stage takes for granted
            y = latent.mean(levels_to_x(coder.levels, torch.float64))[0]
        noise = TRUNCATED_NOISE if latent.stages == 0 else 0.0
        Z = prior.code(coder.symbols, y, indexes, M, u, noise)[None]
        coder.end_stage(Z.cpu().numpy())
        return latent.next(Z, M[None], prior.scale_table[indexes.long()][None], u)

    def _code_pixels(self, latent: Latent, coder: PictureCoder) -> Latent:
        """Code the last stage, the pixels."""
        assert latent.sent is not None
        levels = None
        if coder.levels is not None:
            levels = coder.levels[0].cpu().numpy().astype(np.uint8)
        found = self.pixel_prior.code(
            coder.symbols, levels, latent.sent, lambda: latent.estimate[0].cpu().numpy()
        )[None]
        coder.end_stage(found)
        return latent.exact(torch.from_numpy(found).to(latent.z.device))

    @exact_floats()
    def estimate_stage(
        self, latent: Latent, levels: Tensor, seed: int
    ) -> tuple[Tensor, Latent]:
        if latent.stages == self.latent_stages:
            return self.estimate_pixels(latent, levels)
        prior, p = self.latent_priors[latent.stages], latent.prediction
        u = dither(seed, latent.stages, levels.shape[1:])
        y = latent.mean(levels_to_x(levels, torch.float64))
        Z, M = prior.quantize_universally(y, p.means, u), prior.locate(p.means, u)
        z = from_lattice(Z, u, p.means.dtype)
        likelihoods, scales = prior.likelihoods(z, p.scales, p.means), p.scales
        if prior.has_tables:
            scales = prior.scale_table[prior.build_indexes(scales).long()]
        return likelihoods, latent.next(Z, M, scales, u)

    def bound(self, levels: Tensor) -> dict[str, Any]:
        """The bound on the exact image, and the image after ``quality`` stages."""
        noise = fresh_noise(levels_to_x(levels, self.dtype), self.config.n_timesteps)
        likelihoods, x_hats = bound(self, levels, noise)
        exact = self.quality == self.n_stages
        x_hat = levels_to_x(levels, self.dtype) if exact else x_hats[self.quality]
        return {
            "x_hat": x_to_levels(x_hat) / 255,
            "likelihoods": likelihoods,
        }

    def sample(self, latent: Latent, seed: int) -> Tensor:
        """A sample of p(z_s | z_t): G plus the uniform noise, in units of Delta."""
        p, shape = latent.prediction, latent.z.shape[1:]
        u, noise = (uniform(seed, 2 * latent.stages + i, shape).to(p.means) for i in (0, 1))
        if self.config.prior_type == "logistic":
            g = torch.logit(u) * (3**0.5 / torch.pi)
        else:
            g = torch.special.ndtri(u)
        return p.means + p.scales * g + noise - 0.5

    @loading()
    def update(self, force: bool = False) -> bool:
        """Build the integer tables that :meth:`compress` needs.

        Args:
            force: build them anew where they exist.

        Returns:
            whether any were built.
        """
        sent = self.latent_stages
        updated = [prior.update(force) for prior in self.latent_priors[:sent]]
        updated.append(self.pixel_prior.update(self.noise_schedule.steps()[:sent], force))
        return any(updated)

    def aux_loss(self) -> Tensor:
        """Quantile loss of the latent priors, for the auxiliary optimizer."""
        return torch.stack([prior.loss() for prior in self.latent_priors]).sum()

    def fingerprint(self) -> Fingerprint:
        gamma = [self.noise_schedule(t).item() for t in self.noise_schedule.times()]
        yield "gamma", np.array(gamma)
        yield "base_prior_scale", np.array(self.config.base_prior_scale == "default", int)
        yield from prefixed("denoiser", self.denoiser.fingerprint())
        for i, prior in enumerate(self.latent_priors[: self.latent_stages], 1):
            yield from prefixed(f"stage {i}", prior.fingerprint())
        yield from prefixed("pixels", self.pixel_prior.fingerprint())

    # ---- contexts ----

    @loading()
    def load_contexts(self, path: str | Path) -> None:
        """Give the stages context priors, with the networks in a file.

        The pixels then follow after as many latent stages as the file has networks for.

        Args:
            path: as ``python -m compressai_uqdm.train_context`` writes it.

        Raises:
            ValueError: it is of more stages than there are, or damaged.
        """
        contexts = read_contexts(Path(path))
        sent = len(contexts.latents)
        config = replace(
            self.config, latent_prior="context", pixel_prior="context", latent_stages=sent
        )
        priors = list(self.latent_priors)
        for i, network in enumerate(contexts.latents):
            prior = ContextConditional(config.prior_type, network)
            prior.quantiles = self.latent_priors[i].quantiles
            priors[i] = prior.to(prior.quantiles.device)
        self.latent_priors = _list_of(priors)
        pixels = IntervalPixels(contexts.pixels)
        self.pixel_prior = pixels.to(self.config_bytes.device)
        self.configure(config)
        self.quality = min(self.quality, self.n_stages)

    @classmethod
    @loading()
    def from_state_dict(
        cls,
        state_dict: Mapping[str, Any],
        weights: Weights = "ema",
        contexts: str | Path | None = None,
        **kwargs: Any,
    ) -> Self:
        """As of :class:`.DiffusionModel`; ``contexts`` as of :meth:`load_contexts`."""
        if contexts is None:
            return super().from_state_dict(state_dict, weights, **kwargs)
        quality = kwargs.pop("quality", None)  # of the stages that there will be
        net = super().from_state_dict(state_dict, weights, **kwargs)
        net.load_contexts(contexts)
        net.quality = net.n_stages if quality is None else quality
        return net


def _list_of(priors: Sequence[UniformNoiseConditional]) -> Any:
    return cast(Sequence[UniformNoiseConditional], nn.ModuleList(priors))
