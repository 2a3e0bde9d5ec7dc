"""What all progressive models share: stages, and CompressAI's interface over them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar, get_args

import torch

from compressai.models import CompressionModel
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import Tensor

from ..bitstream.range_coder import check_strings
from ..checks import MAX_PIXELS
from ..fingerprint import Fingerprint
from ..levels import image_to_levels, levels_to_image
from ..progress import Progress
from ..settings import exact_floats, uncompiled
from .card import model_card
from .checkpoint import Weights, loading, read_checkpoint, undrawn
from .coding import Decoder, Encoder, PictureCoder

__all__ = ["ProgressiveModel", "Reconstruction"]

Reconstruction = Literal["denoise", "ancestral", "flow_based"]


class State(Protocol):
    """What is known of images."""

    stages: int
    levels: Tensor | None


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
    """What the model can compute in, first that of files unless they say otherwise."""

    reconstructions: ClassVar[tuple[Reconstruction, ...]] = get_args(Reconstruction)
    """How it can make pictures of a stage."""

    # ---- how one family differs from another ----

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
        """Type of computations outside of networks, which may be in half precision."""
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
        """Return how often the network runs to code so many stages, and for a picture."""
        raise NotImplementedError

    def least_bytes(self, size: tuple[int, int]) -> int:
        """Return a number of bytes that the first stage of every image exceeds.

        Args:
            size: (H, W).
        """
        return 0

    def first_latent(
        self, shape: Sequence[int], seed: int, progress: Progress | None = None
    ) -> L:
        """Return the state before the first stage.

        Args:
            shape: of the images, ``[B, 3, H, W]``.
            seed: seed of the dither.
            progress: called after every pass of a network.
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
        """Return the state to show of a truncated stage.

        Args:
            before: the state before it.
            latent: the state after it, missing symbols being at their location.
            n_decoded: number of symbols that the bitstream held.
        """
        raise NotImplementedError

    def reconstruct(self, latent: L, method: Reconstruction, seed: int) -> Tensor:
        """Return the images of a state, levels 0..255, uint8, ``[B, 3, H, W]``."""
        raise NotImplementedError

    def bound(self, levels: Tensor) -> dict[str, Any]:
        """Return what :meth:`forward` returns in training."""
        raise NotImplementedError

    def fingerprint(self) -> Fingerprint:
        """Yield what bitstreams and pictures depend on, see :mod:`.fingerprint`."""
        raise NotImplementedError

    # ---- stages ----

    @property
    def quality(self) -> int:
        """Number of stages to send, 1 (coarsest) to ``n_stages`` (exact)."""
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
            progress: called after every pass of a network, for pictures too.

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

        In training, the likelihoods of all stages, and of z_1, multiply to the bound on
        p(x), under fresh noise. In evaluation they are those of the first ``quality``
        stages, and z_1 costs nothing.

        Args:
            x: images in [0, 1], ``[B, 3, H, W]``, rounded to 8 bits.
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
            x: images in [0, 1], ``[B, 3, H, W]``, rounded to 8 bits.
            seed: seed of the noise.
            reconstruction: how an image is made of a latent: ``"denoise"``, the network's
                estimate; ``"ancestral"``, sample what was not coded; ``"flow_based"``,
                follow the probability flow.
            progressive: return the image of every stage.

        Returns:
            ``x_hat`` and ``likelihoods`` as of :meth:`forward`; if ``progressive``,
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
            x: images in [0, 1], ``[B, 3, H, W]``, rounded to 8 bits.
            seed: seed of the dither; the decoder needs the same.

        Returns:
            ``strings[stage][image]``, bytes, and ``shape``, (H, W).

        Raises:
            ValueError: ``x`` is not that, or ``update`` was not called.
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
        """Decode the first stages of images; those of all stages are exact.

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
        """Of the images of :meth:`decompress`."""
        return torch.float32

    def generate_model_card(self, results: str | Path | None = None) -> ModelCard:
        """The card that ``save_pretrained`` and ``push_to_hub`` write.

        Args:
            results: what ``eval/evaluate.py`` wrote for this model, to be in the card.
                Those two take it as ``model_card_kwargs={"results": path}``.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is another.
        """
        data = self._hub_mixin_info.model_card_data
        return model_card(type(self).__name__, bool(self.arithmetics), data, results)

    # ---- loading ----

    @classmethod
    def from_state_dict(
        cls, state_dict: Mapping[str, Any], weights: Weights = "ema", **kwargs: Any
    ) -> Self:
        """A model from its state dict, or from a dict that holds one.

        Args:
            state_dict: either, see :func:`.state_dict_of`.
            weights: where there are several, ``"ema"``, the average over training
                (fewer bits), or ``"raw"``, the last.
            kwargs: arguments of the class, such as ``quality``.

        Raises:
            ValueError: it is neither, of another class, or damaged.
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
        """A model from a file, ready to code.

        It is on the CPU, whatever device and type PyTorch takes by default.

        Args:
            path: a file with what :meth:`.ProgressiveModel.from_state_dict` takes, as
                PyTorch, safetensors or NumPy write it, or a folder that
                ``save_pretrained`` wrote.
            weights: as in :meth:`.ProgressiveModel.from_state_dict`.
            kwargs: likewise.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no checkpoint of this class.
        """
        checkpoint = read_checkpoint(Path(path))
        try:
            net = cls.from_state_dict(checkpoint, weights, **kwargs)
            net.update()
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return net.eval()


# ---- arguments ----


def check_images(x: Tensor, device: torch.device) -> Tensor:
    """Levels 0..255, int16, of images in [0, 1] on a device.

    Raises:
        ValueError: they are no such images.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x)
        raise ValueError(f"expected images as a tensor of floats, got {kind}")
    if x.dim() != 4 or x.shape[1] != 3 or 0 in x.shape:
        hint = ""
        if x.dim() == 4 and x.shape[1] == 1:
            hint = "; a grayscale image can be passed as x.expand(-1, 3, -1, -1)"
        raise ValueError(f"expected RGB images [B, 3, H, W], got {list(x.shape)}{hint}")
    if x.device != device:
        raise ValueError(
            f"expected images on the model's device, {device}, got them on {x.device}: "
            "move one of them with .to()"
        )
    if not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(
            "expected images with values in [0, 1], got values from "
            f"{float(x.min()):g} to {float(x.max()):g}"
        )
    return image_to_levels(x)


def check_reconstruction(reconstruction: str) -> None:
    """Raise a ValueError if there is no such way."""
    if reconstruction not in get_args(Reconstruction):
        raise ValueError(
            f"reconstruction must be one of {get_args(Reconstruction)}, got "
            f"{reconstruction!r}"
        )


def check_shape(shape: Sequence[int]) -> tuple[int, int]:
    """(H, W) of an image.

    Raises:
        ValueError: it is none, or too large.
    """
    try:
        H, W = (int(side) for side in shape)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected shape (H, W), got {shape!r}") from error
    if H < 1 or W < 1 or H * W > MAX_PIXELS:
        raise ValueError(f"expected a shape of 1 to {MAX_PIXELS} pixels, got {H} x {W}")
    return H, W
