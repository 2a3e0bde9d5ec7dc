"""What diffusion models that compress share: stages, estimates, reconstructions."""

import functools

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import torch

from compressai.models import CompressionModel
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor

from ..entropy_models.dither import prior_sample, uniform
from ..entropy_models.pixel import PixelConditional
from .checkpoint import Weights, config_of, read_checkpoint, state_dict_of
from .config import UQDMConfig
from .denoiser import Denoiser
from .diffusion import (
    NoiseSchedule,
    Step,
    image_to_levels,
    levels_to_x,
    sharpness,
    x_to_levels,
)
from .windows import Progress, ignore, run_in_windows

__all__ = ["DiffusionModel", "Latent", "Prediction", "Reconstruction"]

Reconstruction = Literal["denoise", "ancestral", "flow_based"]

WINDOW_BATCH = {"cpu": 4, "cuda": 32}
"""Windows that the network sees at a time; in double precision on a CPU, where more do
not fit its caches, a quarter."""


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
    ``progress`` is told of the windows that the network sees.
    """

    model: "DiffusionModel"
    z: Tensor
    stage: int = 0
    levels: Tensor | None = None
    progress: Progress = ignore

    @functools.cached_property
    def step(self) -> Step:
        return self.model.noise_schedule.step(self.stage)

    @functools.cached_property
    def prediction(self) -> Prediction:
        return self.model.predict(self.z, self.step, self.progress)

    def next(self, y: Tensor) -> "Latent":
        """The picture one stage on, where the latent is y, in units of Delta."""
        return replace(self, z=self.step.delta * y, stage=self.stage + 1)


class DiffusionModel(CompressionModel, PyTorchModelHubMixin):
    """A diffusion model whose latents are sent stage by stage, and then the pixels.

    T stages take z_1 to z_0, one step each, and the last gives the exact image.
    :class:`UQDM` and :class:`VDM` differ in the noise of a step, and so in what it costs
    to send.

    Args:
        config: the model's configuration.
        quality: number of stages to send, 1 (coarsest) to T + 1 (lossless), by default
            T + 1; can be set later.
        overlap: pixels that neighbouring windows share, 0..32, in place of the
            configuration's.
    """

    config_bytes: Tensor

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
        self.pixel_conditional = PixelConditional()
        self.quality = self.n_stages if quality is None else quality

    # ---- how one model differs from another ----

    def _bound(self, levels: Tensor) -> dict[str, Any]:
        """What :meth:`forward` gives in training."""
        raise NotImplementedError

    def _transition(self, latent: "Latent", x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """The next latent of images x, in units of Delta, and its likelihoods."""
        raise NotImplementedError

    def _sample(self, latent: "Latent", seed: int) -> Tensor:
        """A sample of p(z_s | z_t), in units of Delta."""
        raise NotImplementedError

    # ---- stages ----

    @property
    def n_stages(self) -> int:
        """T + 1: the latent stages and the pixels."""
        return self.config.n_timesteps + 1

    @property
    def quality(self) -> int:
        """Number of stages to send, 1..T+1."""
        return self._quality

    @quality.setter
    def quality(self, quality: int) -> None:
        if isinstance(quality, bool) or quality not in range(1, self.n_stages + 1):
            raise ValueError(
                f"quality must be an integer in 1..{self.n_stages}, got {quality!r}"
            )
        self._quality = int(quality)

    def run_network(
        self, z_t: Tensor, gamma_t: Tensor, progress: Progress = ignore
    ) -> list[Tensor]:
        """``eps_hat`` and ``scale_factor`` at z_t, ``[B, 3, H, W]``, by windows.

        ``gamma_t`` is one number, or one for each of the B.
        """
        weight = self.denoiser.conv_in.weight

        def network(z: Tensor) -> list[Tensor]:
            gamma = gamma_t.flatten()
            if len(gamma) > 1:
                gamma = gamma.repeat(len(z) // len(gamma))  # the same for every window
            outputs = self.denoiser(z.to(weight.dtype), gamma)
            return [output.to(z.dtype) for output in outputs]

        batch = WINDOW_BATCH["cuda" if weight.is_cuda else "cpu"]
        if not weight.is_cuda and weight.dtype == torch.float64:
            batch = max(1, batch // 4)
        return run_in_windows(network, z_t, self.config.overlap, batch, progress)

    def predict(self, z_t: Tensor, step: Step, progress: Progress = ignore) -> Prediction:
        """What the network says at z_t, ``[B, 3, H, W]``."""
        eps_hat, scale_factor = self.run_network(z_t, step.gamma_t, progress)
        x_hat = step.denoise(z_t, eps_hat)
        means = step.mean(z_t, x_hat) / step.delta
        scales = step.prior_scale(scale_factor) / step.delta
        if not self.training and not (means.isfinite().all() and scales.isfinite().all()):
            raise ValueError("the network's output is not finite: are its weights damaged?")
        return Prediction(x_hat, eps_hat, means, scales)

    # ---- estimates ----

    def forward(self, x: Tensor, seed: int = 0) -> dict[str, Any]:
        """Estimate rate and distortion.

        In training the likelihoods of all stages, with that of z_1, multiply to the
        bound on p(x), under fresh noise. In evaluation those of the first ``quality``
        stages are given, and z_1 costs nothing.

        Args:
            x: images in [0, 1], ``[B, 3, H, W]``, taken at 8 bits.
            seed: seed of the noise in evaluation.

        Returns:
            ``x_hat``, ``[B, 3, H, W]`` in [0, 1], the image after ``quality`` stages
            (``denoise``), and ``likelihoods``, a dict of tensors ``[B, 3, H, W]``.
        """
        if self.training:
            return self._bound(self._check_images(x))
        return self.estimate(x, seed)

    def estimate(
        self,
        x: Tensor,
        seed: int = 0,
        reconstruction: Reconstruction = "denoise",
        progressive: bool = False,
    ) -> dict[str, Any]:
        """What the first ``quality`` stages cost, and what is seen of them.

        Args:
            x: images in [0, 1], ``[B, 3, H, W]``, taken at 8 bits.
            seed: seed of the noise.
            reconstruction: how an image is made of a latent: ``"denoise"``, the
                network's estimate; ``"ancestral"``, sample what was not sent;
                ``"flow_based"``, follow the probability flow.
            progressive: give the image of every stage.

        Returns:
            ``x_hat`` and ``likelihoods`` as :meth:`forward` gives them, these under
            ``stage_1`` to ``stage_T`` and ``pixels``; if ``progressive``, ``x_hats`` too,
            a list of images, one per stage.
        """
        self._check_reconstruction(reconstruction)
        levels = self._check_images(x)
        x = levels_to_x(levels, self._dtype)
        latent = Latent(self, prior_sample(seed, x.shape[1:]).to(x).expand_as(x))
        likelihoods, x_hats = {}, []
        for stage in range(1, self.quality + 1):
            if stage < self.n_stages:
                y, likelihoods[f"stage_{stage}"] = self._transition(latent, x, seed)
                latent = latent.next(y)
            else:
                last = self.noise_schedule.step(stage - 2)
                likelihoods["pixels"] = self.pixel_conditional(
                    levels, x_to_levels(latent.z / last.alpha_s), sharpness(last.gamma_s)
                )
                latent = Latent(self, latent.z, stage, levels)
            if progressive or stage == self.quality:
                image = self.reconstruct(latent, reconstruction, seed)
                x_hats.append(image.to(x.dtype) / 255)
        out: dict[str, Any] = {"x_hat": x_hats[-1], "likelihoods": likelihoods}
        if progressive:
            out["x_hats"] = x_hats
        return out

    def first_latent(
        self, shape: Sequence[int], seed: int, progress: Progress = ignore
    ) -> Latent:
        """z_1 of one image of shape (3, H, W), of which nothing is known yet."""
        weight = self.denoiser.conv_in.weight
        z_1 = prior_sample(seed, tuple(shape)).to(weight.device, self._dtype)
        return Latent(self, z_1[None], progress=progress)

    def reconstruct(self, latent: Latent, method: Reconstruction, seed: int) -> Tensor:
        """Levels 0..255 of images that share the seed."""
        if latent.levels is not None:
            return latent.levels
        T = self.config.n_timesteps
        last = self.noise_schedule.step(T - 1)
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
            latent = replace(latent, z=z, stage=latent.stage + 1)
        positions = x_to_levels(latent.z / alpha_0)
        if method == "ancestral":
            kappa = sharpness(last.gamma_s)
            v = uniform(seed, 2 * T, latent.z.shape[1:]).to(positions)
            positions = self.pixel_conditional.sample(positions, kappa, v)
        return positions.round().clamp(0, 255).to(torch.uint8)

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
    def _check_reconstruction(reconstruction: str) -> None:
        if reconstruction not in get_args(Reconstruction):
            raise ValueError(
                f"reconstruction must be one of {get_args(Reconstruction)}, got "
                f"{reconstruction!r}"
            )

    # ---- loading ----

    @classmethod
    def from_state_dict(
        cls,
        state_dict: Mapping[str, Any],
        weights: Weights = "ema",
        **kwargs: Any,
    ) -> Self:
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
            # arguments may have changed it
            state_dict = {**state_dict, "config_bytes": net.config_bytes}
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
    def _from_pretrained(cls, *, strict: bool = True, **kwargs: Any) -> Self:
        # the mixin would let weights of another model pass, and leave ours random
        return super()._from_pretrained(strict=strict, **kwargs)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, weights: Weights = "ema", **kwargs: Any
    ) -> Self:
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
