"""The base class of all models: coding in stages, behind CompressAI's interface."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, get_args

import torch

from compressai.models import CompressionModel
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import Tensor

from ..bitstream.range_coder import check_strings
from ..fingerprint import Fingerprint
from ..levels import levels_to_image
from ..progress import Progress
from ..settings import exact_floats, uncompiled
from .arguments import Reconstruction, check_images, check_reconstruction, check_shape
from .card import model_card
from .checkpoint import Weights, loading, read_checkpoint, undrawn
from .coding import Decoder, Encoder, PictureCoder

__all__ = ["ProgressiveModel", "State"]


class State(Protocol):
    """State of a batch of images after some stages."""

    stages: int
    """Number of stages coded."""

    levels: Tensor | None
    """The pixels, ``[B, 3, H, W]``, or None before the last stage."""


L = TypeVar("L", bound=State)


class ProgressiveModel(
    CompressionModel,
    PyTorchModelHubMixin,
    Generic[L],
    library_name="compressai-uqdm",
    pipeline_tag="image-to-image",
    tags=["image-compression", "lossless", "progressive"],
):
    """A model that codes images in stages, from a coarse picture to the exact one.

    ``compress`` and ``decompress`` run the same loop over stages: one encodes them, the
    other decodes them. ``forward`` estimates their rate. A family of models defines the
    start (:meth:`first_latent`), one stage (:meth:`code_stage`, :meth:`estimate_stage`)
    and the picture after it (:meth:`reconstruct`).

    ``quality``, CompressAI's word, is the number of stages that are coded. Stage 1 is the
    first; after all ``n_stages`` the image is exact.
    """

    _quality: int

    arithmetics: ClassVar[tuple[str, ...]]
    """Arithmetics in which the model can code; the first is the default of files."""

    reconstructions: ClassVar[tuple[Reconstruction, ...]] = get_args(Reconstruction)
    """Methods by which the model can reconstruct the picture of a stage."""

    # ---- defined by each family ----

    @property
    def n_stages(self) -> int:
        """Number of stages after which the image is exact."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        """Type of computations outside networks; networks may use half precision."""
        raise NotImplementedError

    @property
    def portable(self) -> bool:
        """Whether strings decode with other kernels, threads or batch sizes."""
        raise NotImplementedError

    @property
    def guarded(self) -> tuple[bool, ...]:
        """Of each stage, whether its string begins with a rounding log."""
        return (False,) * self.n_stages

    def passes(self, stages: int, picture: bool = False) -> int:
        """Return how often the network runs.

        Args:
            stages: number of stages to code.
            picture: whether to reconstruct the picture after them too.
        """
        raise NotImplementedError

    def min_bytes(self, size: tuple[int, int]) -> int:
        """Return a lower bound on the bytes of the first stage of an image.

        Args:
            size: (H, W).
        """
        return 0

    def first_latent(
        self, shape: Sequence[int], seed: int, progress: Progress | None = None
    ) -> L:
        """Return the state before the first stage.

        Args:
            shape: shape of the images, ``[B, 3, H, W]``.
            seed: seed of the dither.
            progress: called as the passes of the network advance.
        """
        raise NotImplementedError

    def code_stage(self, latent: L, coder: PictureCoder) -> L:
        """Encode or decode one stage, and return the state after it."""
        raise NotImplementedError

    def estimate_stage(self, latent: L, levels: Tensor, seed: int) -> tuple[Tensor, L]:
        """Return the likelihoods of a stage, ``[B, 3, H, W]``, and the state after it.

        Args:
            latent: the state before it.
            levels: images, 0..255, ``[B, 3, H, W]``.
            seed: seed of the dither.
        """
        raise NotImplementedError

    def blend_partial_stage(self, before: L, latent: L, n_decoded: int) -> L:
        """Return the state to reconstruct a truncated stage from.

        Args:
            before: the state before the stage.
            latent: the state after it, with missing values set to their location.
            n_decoded: number of symbols that the bitstream held.
        """
        raise NotImplementedError

    def reconstruct(self, latent: L, method: Reconstruction, seed: int) -> Tensor:
        """Return the images of a state, levels 0..255, uint8, ``[B, 3, H, W]``."""
        raise NotImplementedError

    def bound(self, levels: Tensor) -> dict[str, Any]:
        """Return the output of :meth:`forward` in training."""
        raise NotImplementedError

    def fingerprint(self) -> Fingerprint:
        """Yield all arrays that bitstreams and pictures depend on."""
        raise NotImplementedError

    # ---- stages ----

    @property
    def quality(self) -> int:
        """Number of stages to code, 1 (coarsest) to ``n_stages`` (lossless)."""
        return self._quality

    @quality.setter
    def quality(self, quality: int) -> None:
        if isinstance(quality, bool) or quality not in range(1, self.n_stages + 1):
            raise ValueError(
                f"quality must be an integer in 1..{self.n_stages}, got {quality!r}"
            )
        self._quality = int(quality)

    def iter_stages(
        self, coder: PictureCoder, stages: int, progress: Progress | None = None
    ) -> Iterator[L]:
        """Code the first stages.

        Args:
            coder: encoder or decoder.
            stages: number of stages.
            progress: called as the passes of the network advance, for pictures too.

        Yields:
            the state after each stage.
        """
        latent = self.first_latent(coder.shape, coder.seed, progress)
        while latent.stages < stages:
            latent = self.code_stage(latent, coder)
            yield latent

    def stage_name(self, stage: int) -> str:
        """Return the key of a stage's likelihoods; stages count from 1."""
        return "pixels" if stage == self.n_stages else f"stage_{stage}"

    # ---- CompressAI's interface ----

    def forward(self, x: Tensor, seed: int = 0) -> dict[str, Any]:
        """Estimate rate and distortion.

        In training, the product of all likelihoods is the bound on p(x), under fresh noise;
        it includes the prior of z_1 and all stages. In evaluation, the likelihoods are
        those of the first ``quality`` stages, and z_1 costs nothing.

        Args:
            x: images in [0, 1], ``[B, 3, H, W]``; they are rounded to 8 bits.
            seed: seed of the noise in evaluation.

        Returns:
            ``x_hat``, ``[B, 3, H, W]`` in [0, 1], the image after ``quality`` stages
            (``denoise``), and ``likelihoods``, a dict of tensors ``[B, 3, H, W]``.
        """
        if self.training:
            return self.bound(check_images(x, self.device))
        return self.estimate(x, seed)

    @uncompiled
    @exact_floats()
    def estimate(
        self,
        x: Tensor,
        seed: int = 0,
        reconstruction: Reconstruction = "denoise",
        progressive: bool = False,
    ) -> dict[str, Any]:
        """Estimate the rate of the first ``quality`` stages, and reconstruct the image.

        Args:
            x: images in [0, 1], ``[B, 3, H, W]``; they are rounded to 8 bits.
            seed: seed of the noise.
            reconstruction: method of reconstruction: ``"denoise"``, the posterior mean that
                the network estimates; ``"ancestral"``, a sample of the remaining stages;
                ``"flow_based"``, the probability flow.
            progressive: return the image of every stage.

        Returns:
            ``x_hat`` and ``likelihoods`` as from :meth:`forward`; if ``progressive``,
            ``x_hats`` too, a list of images, one per stage.
        """
        check_reconstruction(reconstruction)
        levels = check_images(x, self.device)
        latent, likelihoods, x_hats = self.first_latent(levels.shape, seed), {}, []
        while latent.stages < self.quality:
            p, latent = self.estimate_stage(latent, levels, seed)
            likelihoods[self.stage_name(latent.stages)] = p
            if progressive or latent.stages == self.quality:
                shown = self.reconstruct(latent, reconstruction, seed)
                x_hats.append(levels_to_image(shown, self.dtype))
        out: dict[str, Any] = {"x_hat": x_hats[-1], "likelihoods": likelihoods}
        if progressive:
            out["x_hats"] = x_hats
        return out

    @uncompiled
    @torch.no_grad()
    @exact_floats()
    def compress(self, x: Tensor, seed: int = 0) -> dict[str, Any]:
        """Encode the first ``quality`` stages of images.

        Args:
            x: images in [0, 1], ``[B, 3, H, W]``; they are rounded to 8 bits.
            seed: seed of the dither; the decoder needs the same.

        Returns:
            ``strings[stage][image]``, bytes, and ``shape``, (H, W).

        Raises:
            ValueError: ``x`` has another shape, type, range or device, or ``update`` was
                not called.
        """
        images = []
        for levels in check_images(x, self.device).split(1):
            encoder = Encoder(levels, seed, self.guarded)
            for _ in self.iter_stages(encoder, self.quality):
                pass
            images.append(encoder.strings())
        return {"strings": [list(stage) for stage in zip(*images)], "shape": x.shape[2:]}

    @uncompiled
    @torch.no_grad()
    @exact_floats()
    def decompress(
        self,
        strings: Sequence[Sequence[bytes]],
        shape: Sequence[int],
        reconstruction: Reconstruction = "denoise",
        progressive: bool = False,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Decode the first stages of images; with all stages the images are exact.

        Args:
            strings: ``strings[stage][image]``, of any number of first stages.
            shape: (H, W).
            reconstruction: method of reconstruction, see :meth:`estimate`.
            progressive: return the image of every stage.
            seed: seed of the encoder's dither.

        Returns:
            ``x_hat``, ``[B, 3, H, W]`` in [0, 1], multiples of 1/255; if
            ``progressive``, ``x_hats`` too, a list of images, one per stage.

        Raises:
            ValueError: strings or shape have another layout.
            DamagedStringError: a string is damaged, or was coded with another model, image
                size or seed.
        """
        check_reconstruction(reconstruction)
        batch_size = check_strings(strings, self.n_stages)
        stages, (H, W) = len(strings), check_shape(shape)
        images = []
        for b in range(batch_size):
            string = [stage[b] for stage in strings]
            decoder = Decoder.of(string, self.guarded, (1, 3, H, W), seed)
            images.append(
                [
                    self.reconstruct(latent, reconstruction, seed)
                    for latent in self.iter_stages(decoder, stages)
                    if progressive or latent.stages == stages
                ]
            )
        x_hats = [
            levels_to_image(torch.cat(stage), self.output_dtype) for stage in zip(*images)
        ]
        out: dict[str, Any] = {"x_hat": x_hats[-1]}
        if progressive:
            out["x_hats"] = x_hats
        return out

    @property
    def output_dtype(self) -> torch.dtype:
        """Type of the images from :meth:`decompress`."""
        return torch.float32

    def generate_model_card(self, results: str | Path | None = None) -> ModelCard:
        """Return the card that ``save_pretrained`` and ``push_to_hub`` write.

        Args:
            results: a result file of ``eval/evaluate.py`` for this model. Both functions
                pass it on from ``model_card_kwargs={"results": path}``.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is not a result of ``eval/evaluate.py``.
        """
        data = self._hub_mixin_info.model_card_data
        return model_card(type(self).__name__, bool(self.arithmetics), data, results)

    # ---- loading ----

    @classmethod
    def from_state_dict(
        cls, state_dict: Mapping[str, Any], weights: Weights = "ema", **kwargs: Any
    ) -> Self:
        """Return a model from its state dict, or from a dict that contains one.

        Args:
            state_dict: the dict, see :func:`.state_dict_of`.
            weights: which weights, if there are several: ``"ema"``, the average over
                training (fewer bits), or ``"raw"``, the last.
            kwargs: arguments of the class, such as ``quality``.

        Raises:
            ValueError: the dict contains no state dict, one of another class, or a damaged
                one.
        """
        raise NotImplementedError

    @classmethod
    @loading()
    def _from_pretrained(cls, **kwargs: Any) -> Self:
        with undrawn():
            return super()._from_pretrained(**kwargs)

    @classmethod
    @loading()
    def from_checkpoint(
        cls, path: str | Path, weights: Weights = "ema", **kwargs: Any
    ) -> Self:
        """Return the model of a checkpoint, ready to code, on the CPU.

        Args:
            path: a file of PyTorch, safetensors or NumPy that holds a dict for
                :meth:`.ProgressiveModel.from_state_dict`, or a folder that
                ``save_pretrained`` wrote.
            weights: which weights, see :meth:`.ProgressiveModel.from_state_dict`.
            kwargs: arguments of the class, such as ``quality``.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is not a checkpoint of this class.
        """
        checkpoint = read_checkpoint(Path(path))
        try:
            net = cls.from_state_dict(checkpoint, weights, **kwargs)
            net.update()
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return net.eval()
