"""UQDM: progressive compression with a universally quantized diffusion model."""

import functools

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import torch
import torch.nn as nn

from compressai.models import CompressionModel
from compressai.registry import register_model
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor

from ..entropy_models.coder import StreamDecoder, StreamEncoder, check_strings
from ..entropy_models.context import ContextConditional, load_contexts
from ..entropy_models.dither import (
    FRACTION_BITS,
    LATTICE,
    dither,
    prior_sample,
    uniform,
)
from ..entropy_models.pixel import PixelConditional
from ..entropy_models.uniform_noise import UniformNoiseConditional
from .checkpoint import Weights, config_of, read_checkpoint, state_dict_of
from .config import UQDMConfig
from .denoiser import Denoiser
from .diffusion import (
    NoiseSchedule,
    Step,
    image_to_levels,
    levels_to_x,
    prior_kl,
    sharpness,
    x_to_levels,
)
from .windows import run_in_windows

__all__ = ["UQDM", "ContextUQDM"]

Reconstruction = Literal["denoise", "ancestral", "flow_based"]

WINDOW_BATCH = {"cpu": 4, "cuda": 32}
"""Windows that the network sees at a time."""

MAX_PIXELS = 1 << 28
"""Largest image that is decoded: a damaged shape must not take all memory."""


class Prediction(NamedTuple):
    """What the network says at z_t, each ``[B, 3, H, W]``."""

    x_hat: Tensor  # the image, in [-1, 1]
    eps_hat: Tensor  # the noise in z_t
    means: Tensor  # location of z_s under the prior, in units of Delta
    scales: Tensor  # its standard deviation, likewise


@dataclass
class Latent:
    """A picture of which ``stage`` stages are known.

    ``z`` is then z_t at t = 1 - stage / T, and ``levels`` the pixels once all are.
    """

    model: "UQDM"
    z: Tensor
    stage: int = 0
    levels: Tensor | None = None

    @functools.cached_property
    def step(self) -> Step:
        return self.model.noise_schedule.steps()[self.stage]

    @functools.cached_property
    def prediction(self) -> Prediction:
        return self.model.predict(self.z, self.step)

    def next(self, y: Tensor) -> "Latent":
        """The picture one stage on, where the latent is y, in units of Delta."""
        return Latent(self.model, self.step.delta * y, self.stage + 1)


@register_model("uqdm")
class UQDM(CompressionModel, PyTorchModelHubMixin):
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

    config_bytes: Tensor
    latent_conditional: type[UniformNoiseConditional] = UniformNoiseConditional

    def __init__(
        self,
        config: UQDMConfig = UQDMConfig(),
        quality: int | None = None,
        overlap: int | None = None,
    ):
        super().__init__()
        if overlap is not None:
            config = replace(config, overlap=overlap)
        self.config = self._hub_mixin_config = config
        self.register_buffer("config_bytes", config.to_tensor())
        self.noise_schedule = NoiseSchedule(config)
        self.denoiser = Denoiser(config)
        self.latent_conditionals = nn.ModuleList(
            self.latent_conditional(config.prior_type) for _ in range(config.n_timesteps)
        )
        self.pixel_conditional = PixelConditional()
        self.quality = self.n_stages if quality is None else quality

    @property
    def n_stages(self) -> int:
        """T + 1: the latent stages and the pixels."""
        return self.config.n_timesteps + 1

    @property
    def priors(self) -> list[UniformNoiseConditional]:
        """The priors of the latent stages."""
        return cast(list[UniformNoiseConditional], list(self.latent_conditionals))

    @property
    def quality(self) -> int:
        """Number of stages to code, 1..T+1."""
        return self._quality

    @quality.setter
    def quality(self, quality: int) -> None:
        if isinstance(quality, bool) or quality not in range(1, self.n_stages + 1):
            raise ValueError(
                f"quality must be an integer in 1..{self.n_stages}, got {quality!r}"
            )
        self._quality = int(quality)

    def run_network(self, z_t: Tensor, gamma_t: Tensor) -> list[Tensor]:
        """``eps_hat`` and ``scale_factor`` at z_t, ``[B, 3, H, W]``, by windows."""
        weight = self.denoiser.conv_in.weight

        def network(z: Tensor) -> list[Tensor]:
            outputs = self.denoiser(z.to(weight.dtype), gamma_t)
            return [output.to(z.dtype) for output in outputs]

        batch = WINDOW_BATCH["cuda" if weight.is_cuda else "cpu"]
        return run_in_windows(network, z_t, self.config.overlap, batch)

    def predict(self, z_t: Tensor, step: Step) -> Prediction:
        """What the network says at z_t, ``[B, 3, H, W]``."""
        eps_hat, scale_factor = self.run_network(z_t, step.gamma_t)
        x_hat = step.denoise(z_t, eps_hat)
        means = step.mean(z_t, x_hat) / step.delta
        scales = step.prior_scale(scale_factor) / step.delta
        if not self.training and not (means.isfinite().all() and scales.isfinite().all()):
            raise ValueError("the network's output is not finite: are its weights damaged?")
        return Prediction(x_hat, eps_hat, means, scales)

    def forward(self, x: Tensor, seed: int = 0) -> dict[str, Any]:
        """Estimate rate and distortion.

        In training all T + 1 stages see fresh noise, and their likelihoods, with that
        of z_1, multiply to the bound on p(x). In evaluation the first ``quality``
        stages are quantized as in :meth:`compress`, and z_1 costs nothing.

        Args:
            x: images in [0, 1], ``[B, 3, H, W]``, taken at 8 bits.
            seed: seed of the dither in evaluation.

        Returns:
            ``x_hat``, ``[B, 3, H, W]`` in [0, 1], the image after ``quality`` stages
            (``denoise``), and ``likelihoods``, a tensor ``[B, 3, H, W]`` per stage.
        """
        levels = self._check_images(x)
        x = levels_to_x(levels, self._dtype)
        steps = self.noise_schedule.steps()
        likelihoods = {}
        if self.training:
            n_coded = self.n_stages
            z = steps[0].alpha_t * x + steps[0].sigma_t * torch.randn_like(x)
            likelihoods["prior"] = torch.exp(-prior_kl(x, steps[0].gamma_t)).type_as(x)
        else:
            n_coded = self.quality
            z = prior_sample(seed, x.shape[1:]).to(x).expand_as(x)

        x_hat = x
        for i, step in enumerate(steps[: n_coded + 1]):
            p = self.predict(z, step)
            if i == self.quality:
                x_hat = p.x_hat / steps[-1].alpha_s
            if i == n_coded:
                break
            u = None if self.training else dither(seed, i, x.shape[1:]).to(x.device)
            y, likelihoods[f"stage_{i + 1}"] = self.priors[i](
                step.mean(z, x) / step.delta, p.scales, p.means, u
            )
            z = step.delta * y
        z_0 = z / steps[-1].alpha_s
        if self.quality == len(steps):
            x_hat = z_0
        if n_coded == self.n_stages:
            kappa = sharpness(steps[-1].gamma_s)
            likelihoods["pixels"] = self.pixel_conditional(levels, x_to_levels(z_0), kappa)
        x_hat = x_to_levels(x_hat)
        if not self.training:
            x_hat = x_hat.round().clamp(0, 255)
        return {"x_hat": x_hat / 255, "likelihoods": likelihoods}

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
        """The segments of one image, ``[1, 3, H, W]``."""
        encoder = StreamEncoder()
        x = levels_to_x(levels, self._dtype)
        latent = self.first_latent(levels.shape[1:], seed)
        for prior in self.priors[: self.quality]:
            step, p = latent.step, latent.prediction
            y = step.mean(latent.z, x) / step.delta
            u = dither(seed, latent.stage, levels.shape[1:])
            indexes, M = prior.build_indexes(p.scales[0]), prior.locate(p.means[0], u)
            Z = prior.encode(encoder, y[0], indexes, M, u)
            encoder.end_stage(Z.cpu().numpy())
            latent = latent.next(prior.dequantize(Z, u, y.dtype)[None])
        if self.quality == self.n_stages:
            pixels = levels[0].cpu().numpy().astype(np.uint8)
            self.pixel_conditional.encode(encoder, pixels, self._positions(Z, u))
            encoder.end_stage(pixels)
        return encoder.segments()

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
            reconstruction: how an image is made of a latent: ``"denoise"``, the
                network's estimate; ``"ancestral"``, sample what was not sent;
                ``"flow_based"``, follow the probability flow.
            progressive: give the image of every stage.
            seed: the encoder's.

        Returns:
            ``x_hat``, ``[B, 3, H, W]`` in [0, 1], multiples of 1/255; if
            ``progressive``, ``x_hats`` too, a list of these, one per stage.

        Raises:
            ValueError: strings or shape are not those of a picture of this model.
        """
        if reconstruction not in get_args(Reconstruction):
            raise ValueError(
                f"reconstruction must be one of {get_args(Reconstruction)}, got "
                f"{reconstruction!r}"
            )
        batch_size = check_strings(strings, self.n_stages)
        H, W = self._check_shape(shape)
        x_hats: list[list[Tensor]] = []
        for b in range(batch_size):
            decoded = self._decode([segment[b] for segment in strings], (3, H, W), seed)
            images = [
                self._reconstruct(latent, reconstruction, seed)
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
        decoder = StreamDecoder(strings)
        latent = self.first_latent(shape, seed)
        for prior, _ in zip(self.priors, strings):
            p = latent.prediction
            u = dither(seed, latent.stage, tuple(shape))
            indexes, M = prior.build_indexes(p.scales[0]), prior.locate(p.means[0], u)
            Z = prior.decode(decoder, indexes, M, u)
            decoder.end_stage(Z.cpu().numpy())
            latent = latent.next(prior.dequantize(Z, u, p.means.dtype)[None])
            yield latent
        if len(strings) == self.n_stages:
            pixels = self.pixel_conditional.decode(decoder, self._positions(Z, u))
            decoder.end_stage(pixels)
            levels = torch.from_numpy(pixels)[None].to(latent.z.device)
            yield Latent(self, latent.z, self.n_stages, levels)

    def _reconstruct(self, latent: Latent, method: Reconstruction, seed: int) -> Tensor:
        """Levels 0..255, uint8, of one image."""
        if latent.levels is not None:
            return latent.levels
        T, last = self.config.n_timesteps, self.noise_schedule.steps()[-1]
        alpha_0 = last.alpha_s
        if method == "denoise" and latent.stage < T:
            x_hat = latent.prediction.x_hat / alpha_0
            return x_to_levels(x_hat).round().clamp(0, 255).to(torch.uint8)
        while latent.stage < T:
            p, step = latent.prediction, latent.step
            if method == "ancestral":
                z = step.delta * self._sample(latent, seed)
            else:
                z = step.flow(latent.z, p.eps_hat)
            latent = Latent(self, z, latent.stage + 1)
        positions = x_to_levels(latent.z / alpha_0)
        if method == "ancestral":
            kappa = sharpness(last.gamma_s)
            v = uniform(seed, 2 * T, latent.z.shape).to(positions)
            positions = self.pixel_conditional.sample(positions, kappa, v)
        return positions.round().clamp(0, 255).to(torch.uint8)

    def _sample(self, latent: Latent, seed: int) -> Tensor:
        """A sample of p(z_s | z_t): G plus the uniform noise, in units of Delta."""
        p, shape = latent.prediction, latent.z.shape
        u, noise = (uniform(seed, 2 * latent.stage + i, shape).to(p.means) for i in (0, 1))
        if self.config.prior_type == "logistic":
            g = torch.logit(u) * (3**0.5 / torch.pi)
        else:
            g = torch.special.ndtri(u)
        return p.means + p.scales * g + noise - 0.5

    def first_latent(self, shape: Sequence[int], seed: int) -> Latent:
        """z_1 of one image of shape (3, H, W), of which nothing is known yet."""
        weight = self.denoiser.conv_in.weight
        z_1 = prior_sample(seed, tuple(shape)).to(weight.device, self._dtype)
        return Latent(self, z_1[None])

    def _positions(self, Z: Tensor, u: Tensor) -> np.ndarray:
        """z_0 / alpha_0 in units of levels with 16 fractional bits, from its lattice."""
        step = self.noise_schedule.steps()[-1]
        levels_per_point = float(128 * step.delta / (LATTICE * step.alpha_s))
        f = u.numpy() & ((1 << FRACTION_BITS) - 1)
        points = (Z.cpu().numpy().astype(np.int64) << FRACTION_BITS) - f
        positions = points * round(levels_per_point * 2**28) >> (12 + FRACTION_BITS)
        return positions + int(127.5 * 2**16)

    @property
    def _dtype(self) -> torch.dtype:
        # of everything outside the network, which may itself be in half precision
        double = self.denoiser.conv_in.weight.dtype == torch.float64
        return torch.float64 if double else torch.float32

    @staticmethod
    def _check_images(x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, Tensor) else type(x)
            raise ValueError(f"expected images as a tensor of floats, got {kind}")
        if x.dim() != 4 or x.shape[1] != 3 or 0 in x.shape:
            hint = ""
            if x.dim() == 4 and x.shape[1] == 1:
                hint = "; a grayscale image can be passed as x.expand(-1, 3, -1, -1)"
            raise ValueError(f"expected RGB images [B, 3, H, W], got {list(x.shape)}{hint}")
        if not (x.min() >= 0 and x.max() <= 1):
            raise ValueError(
                "expected images with values in [0, 1], got values from "
                f"{float(x.min()):g} to {float(x.max()):g}"
            )
        return image_to_levels(x)

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

    @classmethod
    def from_state_dict(
        cls,
        state_dict: Mapping[str, Any],
        weights: Weights = "ema",
        **kwargs: Any,
    ) -> "UQDM":
        """A model from its state dict, or from the dict of a checkpoint.

        Args:
            state_dict: ours, which holds the configuration; a trainer's dict with one;
                or the published dict.
            weights: where there are several, ``"ema"``, the average over training
                (fewer bits), or ``"raw"``, the last. Of a published dict these are with
                the initial noise schedule; ``"ema_schedule"`` is with the learned one
                (fewer bits still).
            kwargs: arguments of the class, such as ``quality``; ``config`` is needed
                for a dict in the published layout that is none of the published models.

        Raises:
            ValueError: it is neither, or does not fit its configuration.
        """
        state_dict = state_dict_of(state_dict, weights)
        if "config_bytes" in state_dict:
            kwargs["config"] = UQDMConfig.from_tensor(state_dict["config_bytes"])
            net = cls(**kwargs)
            if not any(".context." in name for name in state_dict):
                # a context prior is fitted to weights later, and stands in its own file
                contexts = {k: v for k, v in net.state_dict().items() if ".context." in k}
                state_dict = {**state_dict, **contexts}
        else:
            if "config" not in kwargs:
                kwargs["config"] = config_of(state_dict)
            net = cls(**kwargs)
            # it holds the network; all else stands at its initial value
            initial = net.state_dict().items()
            rest = {k: v for k, v in initial if not k.startswith("denoiser.")}
            state_dict = {**rest, **state_dict}
        try:
            net.load_state_dict(state_dict)
        except RuntimeError as error:
            raise ValueError(f"weights of another architecture: {error}") from error
        return net

    @classmethod
    def _from_pretrained(cls, *, strict: bool = True, **kwargs: Any) -> "UQDM":
        # the mixin would let weights of another model pass, and leave ours random
        return super()._from_pretrained(strict=strict, **kwargs)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, weights: Weights = "ema", **kwargs: Any
    ) -> "UQDM":
        """A model from a file, ready to code.

        Args:
            path: a published folder (``config.json``, ``checkpoint.pt``), or a file with
                a state dict as CompressAI's tools and ours write it.
            weights: as in :meth:`from_state_dict`.
            kwargs: arguments of the class, such as ``quality``.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no checkpoint of a UQDM.
        """
        path = Path(path)
        if path.is_dir():
            kwargs.setdefault("config", UQDMConfig.from_json(path / "config.json"))
            path = path / "checkpoint.pt"
        net = cls.from_state_dict(read_checkpoint(path), weights, **kwargs)
        net.update()
        return net.eval()


CONTEXTS = Path(__file__).parent.parent / "contexts/uqdm-tiny.npz"
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
