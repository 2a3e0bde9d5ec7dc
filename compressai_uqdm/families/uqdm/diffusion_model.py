"""The base class of UQDM and VDM: network, noise schedule, stages, reconstructions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from torch import Tensor

from ...models.arguments import Reconstruction
from ...models.base import ProgressiveModel
from ...models.checkpoint import (
    SAVED,
    Weights,
    check_family,
    load_weights,
    loading,
    state_dict_of,
    undrawn,
)
from ...progress import Progress
from ...quantization.dither import prior_sample, uniform, z_1_points
from ...settings import exact_floats
from .components import PIXEL_PRIORS
from .config import UQDMConfig, config_of
from .denoiser import Denoiser
from .diffusion import NoiseSchedule, Step, sharpness, x_to_levels
from .latent import Latent, Prediction, predict
from .softmax_pixels import sample_levels

__all__ = ["DiffusionModel"]


class DiffusionModel(ProgressiveModel[Latent]):
    """A diffusion model that codes its latents stage by stage, and then the pixels.

    Each of the first steps of the diffusion, by default all T, is a stage. They lead from
    z_1 towards z_0. The last stage codes the exact image. :class:`.UQDM` and :class:`.VDM`
    differ in the noise of a step, and so in its cost.

    Args:
        config: the model's configuration.
        quality: number of stages to code, 1 (coarsest) to ``n_stages`` (lossless), by
            default all; can be set later.
        denoiser: the network, by default a new one with the configuration's architecture.
    """

    config_bytes: Tensor
    arithmetics: ClassVar[tuple[str, ...]] = ("float64", "float32")

    def __init__(
        self,
        config: UQDMConfig = UQDMConfig(),
        quality: int | None = None,
        denoiser: Denoiser | None = None,
    ):
        super().__init__()
        self.register_buffer("config_bytes", torch.empty(0, dtype=torch.uint8))
        self.configure(config)
        self.noise_schedule = NoiseSchedule(config)
        self.denoiser = denoiser or config.network.build(config)
        self.pixel_prior = PIXEL_PRIORS[config.pixel_prior]()
        self.quality = self.n_stages if quality is None else quality

    def configure(self, config: UQDMConfig) -> None:
        """Store a configuration; the state dict contains it as ``config_bytes``."""
        # the Hub's mixin writes the second attribute to config.json
        self.config = self._hub_mixin_config = config
        self.config_bytes = config.to_tensor().to(self.config_bytes.device)

    # ---- stages ----

    @property
    def latent_stages(self) -> int:
        """Number of stages that code latents, by default T."""
        return self.config.latent_stages or self.config.n_timesteps

    @property
    def n_stages(self) -> int:
        """Number of latent stages, plus one for the pixels."""
        return self.latent_stages + 1

    @property
    def device(self) -> torch.device:
        return self.denoiser.device

    @property
    def dtype(self) -> torch.dtype:
        double = self.denoiser.dtype == torch.float64
        return torch.float64 if double else torch.float32

    @property
    def output_dtype(self) -> torch.dtype:
        # images in bfloat16 would be off by up to half a level
        half = self.denoiser.dtype == torch.float16
        return torch.float16 if half else torch.float32

    @property
    def portable(self) -> bool:
        """Whether strings decode on other machines: in float64, after ``double()``."""
        return self.denoiser.portable

    @property
    def guarded(self) -> tuple[bool, ...]:
        return (self.portable,) * self.latent_stages + (False,)

    def passes(self, stages: int, picture: bool = False) -> int:
        coded = min(stages, self.latent_stages)
        # z_0 and the pixels need no pass for their picture
        return coded + (picture and stages < min(self.n_stages, self.config.n_timesteps))

    @exact_floats()
    def first_latent(
        self, shape: Sequence[int], seed: int, progress: Progress | None = None
    ) -> Latent:
        """Return z_1, the state of images ``[B, 3, H, W]`` before the first stage."""
        z_1 = prior_sample(seed, tuple(shape[1:])).to(self.denoiser.device, self.dtype)
        z_1 = z_1.expand(*shape)
        points = (z_1_points(z_1),)
        return Latent(
            self.denoiser, self.noise_schedule, z_1, points=points, progress=progress
        )

    def predict(self, z_t: Tensor, step: Step) -> Prediction:
        """Return the network's prediction at z_t, ``[B, 3, H, W]``."""
        return predict(self.denoiser, z_t, step)

    def estimate_pixels(self, latent: Latent, levels: Tensor) -> tuple[Tensor, Latent]:
        """Return the likelihoods of the pixels, and the state after the last stage."""
        step = latent.schedule.step(latent.stages - 1)
        likelihoods = self.pixel_prior(levels, latent.z, step, latent.sent)
        return likelihoods, latent.exact(levels)

    # ---- reconstructions ----

    @exact_floats()
    def blend_partial_stage(self, before: Latent, latent: Latent, n_decoded: int) -> Latent:
        # in the first half of the first stage the picture is poor, so it is blended with
        # the picture before the stage
        share = 2 * n_decoded / before.z.numel()
        if before.stages == 0 and share < 1:
            x_hat = torch.lerp(before.prediction.x_hat, latent.prediction.x_hat, share)
            latent.prediction = latent.prediction._replace(x_hat=x_hat)
        return latent

    def sample(self, latent: Latent, seed: int) -> Tensor:
        """Return a sample of p(z_s | z_t), in units of Delta."""
        raise NotImplementedError

    @exact_floats()
    def reconstruct(self, latent: Latent, method: Reconstruction, seed: int) -> Tensor:
        """Return the images of a state, levels 0..255, uint8, ``[B, 3, H, W]``.

        Args:
            latent: the state.
            method: method of reconstruction, see :meth:`.ProgressiveModel.estimate`.
            seed: seed of ``"ancestral"`` samples, the same for all images.
        """
        if latent.levels is not None:
            return latent.levels
        T = self.config.n_timesteps
        last = self.noise_schedule.step(T - 1)
        alpha_0 = last.alpha_s
        if method == "denoise" and latent.stages < T:
            return latent.estimate.round().clamp(0, 255).to(torch.uint8)
        while latent.stages < T:
            step = latent.step
            if method == "ancestral":
                z_s = step.delta * self.sample(latent, seed)
            else:
                z_s = step.flow(latent.z, latent.prediction.eps_hat)
            latent = latent.at(z_s)
        positions = x_to_levels(latent.z / alpha_0)
        if method == "ancestral":
            u = uniform(seed, 2 * T, latent.z.shape[1:]).to(positions)
            positions = sample_levels(positions, sharpness(last.gamma_s), u)
        return positions.round().clamp(0, 255).to(torch.uint8)

    # ---- loading ----

    @classmethod
    @loading()
    def from_state_dict(
        cls, state_dict: Mapping[str, Any], weights: Weights = "ema", **kwargs: Any
    ) -> Self:
        """Return a model from its state dict, or from the dict of a checkpoint.

        Args:
            state_dict: our state dict, which contains the configuration; a trainer's dict
                that contains one; or a published dict.
            weights: which weights, if there are several: ``"ema"``, the average over
                training (fewer bits), or ``"raw"``, the last. For a published dict both
                use the initial noise schedule, and ``"ema_schedule"`` uses the learned one
                (fewer bits still).
            kwargs: arguments of the class, such as ``quality``. A dict in the published
                layout needs ``config``, unless it is one of the published models.

        Raises:
            ValueError: the dict contains no state dict, one of another class, or one that
                does not fit its configuration.
        """
        state_dict = state_dict_of(state_dict, weights)
        has_config = "config_bytes" in state_dict
        if has_config:
            check_family(state_dict, cls)
            kwargs["config"] = UQDMConfig.from_tensor(state_dict["config_bytes"])
        elif "config" not in kwargs:
            kwargs["config"] = config_of(state_dict)
        with undrawn():
            net = cls(**kwargs)
        if has_config:  # arguments may have changed the configuration
            state_dict = {**state_dict, "config_bytes": net.config_bytes}
        else:
            # the dict holds the network only; the rest keeps its initial values
            initial = net.state_dict().items()
            rest = {k: v for k, v in initial if not k.startswith("denoiser.")}
            state_dict = {**rest, **state_dict}
        load_weights(net, state_dict)
        return net

    @classmethod
    def _from_pretrained(cls, *, strict: bool = True, **kwargs: Any) -> Self:
        # by default the mixin accepts weights of another model, and leaves ours random
        return super()._from_pretrained(strict=strict, **kwargs)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, weights: Weights = "ema", **kwargs: Any
    ) -> Self:
        """Return the model of a checkpoint, ready to code, on the CPU.

        Args:
            path: a file or folder, see :meth:`.ProgressiveModel.from_checkpoint`, or a
                published folder, with ``config.json`` and ``checkpoint.pt``.
            weights: which weights, see :meth:`from_state_dict`.
            kwargs: arguments of the class, such as ``quality``.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is not a checkpoint of this class.
        """
        path = Path(path)
        config = path / "config.json"
        if config.exists() and not (path / SAVED).exists():
            kwargs.setdefault("config", UQDMConfig.from_json(config))
        return super().from_checkpoint(path, weights, **kwargs)
