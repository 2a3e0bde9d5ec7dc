"""UQDM: progressive compression with a universally quantized diffusion model."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn as nn

from compressai.registry import register_model
from torch import Tensor

from ..entropy_models.coder import StreamDecoder, StreamEncoder, check_strings
from ..entropy_models.context import ContextConditional, load_contexts
from ..entropy_models.dither import FRACTION_BITS, LATTICE, dither, uniform
from ..entropy_models.guard import Guard, ReadGuard, WrittenGuard
from ..entropy_models.uniform_noise import UniformNoiseConditional
from .base import DiffusionModel, Latent, Reconstruction
from .config import UQDMConfig
from .diffusion import levels_to_x, prior_kl, sharpness, x_to_levels
from .windows import Progress, ignore

__all__ = ["UQDM", "ContextUQDM"]

MAX_PIXELS = 1 << 28
"""Largest image that is decoded: a damaged shape must not take all memory."""

CUT_NOISE = 0.75
"""Share of their dither that values of the first stage take where it is cut. There the
network, used to much noise, sees structure in a latent that has none (measured)."""


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
        stage   │ denoiser ├────────────────►│ UC │
          1     └─────┬────┘                 └─┬──┘
                      │        z_s = mu(x) + U(-Delta/2, Delta/2), coded
                      │◄───────────────────────┘
                ┌─────▼────┐                 ┌────┐
        stage   │ denoiser ├────────────────►│ UC │
        2..T    └─────┬────┘                 └─┬──┘
                      ·◄───────────────────────┘
                      │ z_0                  ┌────┐
        stage T+1     ├─────────────────────►│ PC │ pixels, coded: now exact
                      ▼                      └────┘

        UC = uniform-noise conditional, by universal quantization
        PC = pixel conditional

    One model, one stream: the first q stages are a coarser picture, all T + 1 the exact
    image. Images of any size are covered by windows of 64x64.

    Args:
        config: the model's configuration, by default that of ``uqdm-tiny``.
        quality: number of stages to code, 1 (coarsest) to T + 1 (lossless), by default
            T + 1; can be set later.
        overlap: pixels that neighbouring windows share, 0..32, in place of the
            configuration's.
    """

    latent_conditional: type[UniformNoiseConditional] = UniformNoiseConditional

    def __init__(
        self,
        config: UQDMConfig = UQDMConfig(),
        quality: int | None = None,
        overlap: int | None = None,
    ):
        super().__init__(config, quality, overlap)
        self.latent_conditionals = nn.ModuleList(
            self.latent_conditional(self.config.prior_type)
            for _ in range(self.config.n_timesteps)
        )

    @property
    def priors(self) -> list[UniformNoiseConditional]:
        """The priors of the latent stages."""
        return cast(list[UniformNoiseConditional], list(self.latent_conditionals))

    def _bound(self, levels: Tensor) -> dict[str, Any]:
        # all T + 1 stages, as published
        x = levels_to_x(levels, self._dtype)
        steps = self.noise_schedule.steps()
        z = steps[0].alpha_t * x + steps[0].sigma_t * torch.randn_like(x)
        likelihoods = {"prior": torch.exp(-prior_kl(x, steps[0].gamma_t)).type_as(x)}
        x_hat, alpha_0 = x, steps[-1].alpha_s
        for i, (step, prior) in enumerate(zip(steps, self.priors)):
            p = self.predict(z, step)
            if i == self.quality:
                x_hat = p.x_hat / alpha_0
            y, likelihoods[f"stage_{i + 1}"] = prior(
                step.mean(z, x) / step.delta, p.scales, p.means
            )
            z = step.delta * y
        z_0 = z / alpha_0
        if self.quality == len(steps):
            x_hat = z_0
        kappa = sharpness(steps[-1].gamma_s)
        likelihoods["pixels"] = self.pixel_conditional(levels, x_to_levels(z_0), kappa)
        return {"x_hat": x_to_levels(x_hat) / 255, "likelihoods": likelihoods}

    def _transition(self, latent: Latent, x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        # quantized as in compress
        step, p = latent.step, latent.prediction
        u = dither(seed, latent.stage, x.shape[1:]).to(x.device)
        y = step.mean(latent.z, x) / step.delta
        return self.priors[latent.stage](y, p.scales, p.means, u)

    @torch.no_grad()
    def compress(self, x: Tensor, seed: int = 0) -> dict[str, Any]:
        """Code the first ``quality`` stages of images.

        Args:
            x: images in [0, 1], ``[B, 3, H, W]``, taken at 8 bits.
            seed: seed of the dither, which the decoder needs too.

        Returns:
            ``strings[stage][image]``, bytes, and ``shape``, (H, W).

        Raises:
            ValueError: ``x`` is not that, or :meth:`update` was not called.
        """
        levels = self._check_images(x)
        strings = [self._encode(image, seed) for image in levels.split(1)]
        return {"strings": [list(s) for s in zip(*strings)], "shape": x.shape[2:]}

    def _encode(self, levels: Tensor, seed: int) -> list[bytes]:
        """The strings of one image, ``[1, 3, H, W]``."""
        encoder = StreamEncoder()
        return self.join(
            [found for _, found in self.encode_stages(levels, encoder, seed)], encoder
        )

    def encode_stages(
        self,
        levels: Tensor,
        encoder: StreamEncoder,
        seed: int,
        progress: Progress = ignore,
    ) -> Iterator[tuple[Latent, bytes]]:
        """Code an image, ``[1, 3, H, W]``, into a stream.

        Yields:
            after each of the first ``quality`` stages, its latent, and the list of
            values that the decoder might round elsewhere.
        """
        guard = WrittenGuard() if self.portable else Guard()
        x = levels_to_x(levels, self._dtype)
        latent = self.first_latent(levels.shape[1:], seed, progress)
        for prior in self.priors[: self.quality]:
            step, p = latent.step, latent.prediction
            y = step.mean(latent.z, x) / step.delta
            u = dither(seed, latent.stage, levels.shape[1:])
            indexes = prior.build_indexes(p.scales[0], guard)
            M = prior.locate(p.means[0], u, guard)
            Z = prior.encode(encoder, y[0], indexes, M, u)
            encoder.end_stage(Z.cpu().numpy())
            latent = latent.next(prior.dequantize(Z, u, y.dtype)[None])
            yield latent, guard.end()
        if self.quality == self.n_stages:
            pixels = levels[0].cpu().numpy().astype(np.uint8)
            self.pixel_conditional.encode(encoder, pixels, self._positions(latent, seed))
            encoder.end_stage(pixels)
            yield Latent(self, latent.z, self.n_stages, levels), b""

    @staticmethod
    def join(listed: Sequence[bytes], encoder: StreamEncoder) -> list[bytes]:
        """The strings of the stages: each one's list, then its segment of the stream."""
        return [found + segment for found, segment in zip(listed, encoder.segments())]

    @torch.no_grad()
    def decompress(
        self,
        strings: Sequence[Sequence[bytes]],
        shape: Sequence[int],
        reconstruction: Reconstruction = "denoise",
        progressive: bool = False,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Decode the first stages of images; those of all T + 1 stages are exact.

        Args:
            strings: ``strings[stage][image]``, of the first stages, as many as wanted.
            shape: (H, W).
            reconstruction: as of :meth:`estimate`.
            progressive: give the image of every stage.
            seed: the encoder's.

        Returns:
            ``x_hat``, ``[B, 3, H, W]`` in [0, 1], multiples of 1/255; if
            ``progressive``, ``x_hats`` too, a list of these, one per stage.

        Raises:
            ValueError: strings or shape are not those of a picture of this model.
        """
        self._check_reconstruction(reconstruction)
        batch_size = check_strings(strings, self.n_stages)
        H, W = self._check_shape(shape)
        x_hats: list[list[Tensor]] = []
        for b in range(batch_size):
            decoded = self._decode([segment[b] for segment in strings], (3, H, W), seed)
            images = [
                self.reconstruct(latent, reconstruction, seed)
                for latent in decoded
                if progressive or latent.stage == len(strings)
            ]
            x_hats.append(images)
        # in a model's half precision levels stay apart; in bfloat16 they would not
        half = self.denoiser.conv_in.weight.dtype == torch.float16
        dtype = torch.float16 if half else torch.float32
        stages = [torch.cat(images).type(dtype) / 255 for images in zip(*x_hats)]
        out: dict[str, Any] = {"x_hat": stages[-1]}
        if progressive:
            out["x_hats"] = stages
        return out

    def _decode(
        self, strings: Sequence[bytes], shape: Sequence[int], seed: int
    ) -> Iterator[Latent]:
        """The latents of one image, ``[1, 3, H, W]``, after each of its stages."""
        guards, segments = zip(*(self.split(*item) for item in enumerate(strings)))
        decoder = StreamDecoder(segments)
        latent = self.first_latent(shape, seed)
        for guard in guards:
            latent = self.decode_stage(latent, decoder, guard, seed)
            yield latent

    def decode_stage(
        self, latent: Latent, decoder: StreamDecoder, guard: Guard, seed: int
    ) -> Latent:
        """The next latent of one image, from the part of a stream that is its."""
        shape = latent.z.shape[1:]
        if latent.stage == self.config.n_timesteps:
            pixels = self.pixel_conditional.decode(decoder, self._positions(latent, seed))
            decoder.end_stage(pixels)
            levels = torch.from_numpy(pixels)[None].to(latent.z.device)
            return Latent(self, latent.z, self.n_stages, levels)
        prior, p = self.priors[latent.stage], latent.prediction
        u = dither(seed, latent.stage, shape)
        indexes = prior.build_indexes(p.scales[0], guard)
        M = prior.locate(p.means[0], u, guard)
        guard.end()
        noise = CUT_NOISE if latent.stage == 0 else 0
        Z = prior.decode(decoder, indexes, M, u, noise)
        decoder.end_stage(Z.cpu().numpy())
        return latent.next(prior.dequantize(Z, u, p.means.dtype)[None])

    @property
    def portable(self) -> bool:
        """Whether strings decode with other kernels: in float64, after ``double()``."""
        return self._dtype == torch.float64

    def split(self, stage: int, string: bytes) -> tuple[Guard, bytes]:
        """The list that a stage's string begins with, if it does, and its segment."""
        if not self.portable or stage == self.config.n_timesteps:
            return Guard(), string
        guard = ReadGuard(string)
        return guard, guard.rest

    def _sample(self, latent: Latent, seed: int) -> Tensor:
        """A sample of p(z_s | z_t): G plus the uniform noise, in units of Delta."""
        p, shape = latent.prediction, latent.z.shape[1:]
        u, noise = (uniform(seed, 2 * latent.stage + i, shape).to(p.means) for i in (0, 1))
        if self.config.prior_type == "logistic":
            g = torch.logit(u) * (3**0.5 / torch.pi)
        else:
            g = torch.special.ndtri(u)
        return p.means + p.scales * g + noise - 0.5

    def _positions(self, latent: Latent, seed: int) -> np.ndarray:
        """z_0 / alpha_0 in units of levels with 16 fractional bits, from its lattice."""
        stage = self.config.n_timesteps - 1
        step, u = self.noise_schedule.step(stage), dither(seed, stage, latent.z.shape[1:])
        Z = self.priors[stage].locate(latent.z[0] / step.delta, u)
        levels_per_point = float(128 * step.delta / (LATTICE * step.alpha_s))
        f = u.numpy() & ((1 << FRACTION_BITS) - 1)
        points = (Z.cpu().numpy().astype(np.int64) << FRACTION_BITS) - f
        positions = points * round(levels_per_point * 2**28) >> (12 + FRACTION_BITS)
        return positions + int(127.5 * 2**16)

    @staticmethod
    def _check_shape(shape: Sequence[int]) -> tuple[int, int]:
        try:
            H, W = (int(side) for side in shape)
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected shape (H, W), got {shape!r}") from error
        if H < 1 or W < 1 or H * W > MAX_PIXELS:
            raise ValueError(f"expected a shape of 1 to {MAX_PIXELS} pixels, got {H} x {W}")
        return H, W

    def update(self, force: bool = False) -> bool:
        """Build the integer tables that :meth:`compress` needs.

        Args:
            force: build them anew where they exist.

        Returns:
            whether any were built.
        """
        updated = [prior.update(force) for prior in self.priors]
        kappa = sharpness(self.noise_schedule.steps()[-1].gamma_s).detach()
        updated.append(self.pixel_conditional.update(float(kappa), force))
        return any(updated)

    def aux_loss(self) -> Tensor:
        """Quantile loss of the latent priors, for the auxiliary optimizer."""
        return torch.stack([prior.loss() for prior in self.priors]).sum()


CONTEXTS = Path(__file__).parents[1] / "contexts/uqdm-tiny.npz"
"""Context networks fitted to the published ``uqdm-tiny``, four stages."""


@register_model("uqdm-ctx")
class ContextUQDM(UQDM):
    r"""A UQDM that codes the same latents with fewer bits.

    .. code-block:: none

                ┌──────────┐  x_hat, scale   ┌────┐      ┌────┐
        stage   │ denoiser ├────────────────►│ CP ├─────►│ UC │
          s     └──────────┘                 └─▲──┘      └─┬──┘
                                               └───────────┘
                                        groups decoded of the stage

        UC = uniform-noise conditional, by universal quantization
        CP = context prior, in integers, over 12 groups: the phases of a 2x2 lattice in
             each colour channel

    Args:
        config: as of :class:`UQDM`.
        quality: as of :class:`UQDM`.
        overlap: as of :class:`UQDM`.
        contexts: file with the context networks of all stages, as
            ``python -m compressai_uqdm.train_context`` writes it; by default those of
            ``uqdm-tiny``, for models of four steps, and none for others.
    """

    latent_conditional = ContextConditional

    def __init__(
        self,
        config: UQDMConfig = UQDMConfig(),
        quality: int | None = None,
        overlap: int | None = None,
        contexts: Path | None = None,
    ):
        super().__init__(config, quality, overlap)
        if contexts is not None or self.config.n_timesteps == 4:
            networks = [cast(ContextConditional, p).context for p in self.priors]
            load_contexts(contexts or CONTEXTS, networks)
