"""CosineUQDM: progressive coding of DCT coefficients by nested universal quantization."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
import torch.nn as nn

from compressai.registry import register_model
from torch import Tensor

from ...atomic import write_atomically
from ...fingerprint import Fingerprint, prefixed
from ...integer.network import IntegerNetwork
from ...levels import levels_to_image
from ...models.arguments import Reconstruction
from ...models.base import ProgressiveModel
from ...models.checkpoint import (
    Weights,
    check_family,
    load_weights,
    loading,
    state_dict_of,
    undrawn,
)
from ...models.coding import PictureCoder, StageEstimator
from ...progress import Progress
from ...quantization.dither import dither
from ...quantization.lattice import min_bytes
from ...quantization.nested import NestedGrid, finest_cells, nested_grids
from ...settings import exact_floats, uncompiled
from ...threads import parallel_map, single_threaded_ops
from .block_order import BlockOrder
from .coefficient_posterior import CoefficientPosterior
from .coefficient_prior import CoefficientPrior
from .config import CosineConfig
from .picture_filter import PictureFilter
from .pixel_posterior import PixelPosterior, block_rows
from .pixel_prior import PixelPrior
from .transform import BLOCK, N_COEFFICIENTS, POSITION_BITS, forward_dct, n_blocks

__all__ = ["CosineLatent", "CosineUQDM"]


@dataclass
class CosineLatent:
    """Images of which some stages are coded.

    Attributes:
        size: (H, W).
        order: their blocks; matrices of coefficients have a row for each.
        grids: quantization cells of every later stage, on the CPU; empty before the first
            stage.
        stages: number of coded stages.
        posterior: of the coefficients, after the last of them.
        finest: in an encoder, cells of the finest grid that hold the coefficients.
        levels: the pixels, once they are coded.
        progress: called after every stage.
    """

    size: tuple[int, int]
    order: BlockOrder
    grids: list[NestedGrid] = field(default_factory=list)
    stages: int = 0
    posterior: CoefficientPosterior | None = None
    finest: Tensor | None = None
    levels: Tensor | None = None
    progress: Progress | None = None

    def pixel_posteriors(self) -> Iterator[PixelPosterior]:
        """Yield the posterior of the pixels of each image, once a stage is coded."""
        assert self.posterior is not None
        for b in range(self.order.shape[0]):
            yield PixelPosterior.of(self.posterior, b, self.size)


@register_model("uqdm-cosine")
class CosineUQDM(ProgressiveModel[CosineLatent]):
    r"""Progressive-to-lossless coding by universal quantization of DCT coefficients.

    .. code-block:: none

                pixels
                   │ 8x8 DCT of three colours: 192 coefficients a block
            ┌──────▼──────┐  cells of step Delta_1        ┌────┐
        1   │   nested    ├──────────────────────────────►│ CP │ significant ones only
            │  universal  │                               └────┘
            │ quantization│  refinements and new          ┌────┐
        2.. │             ├──────────────────────────────►│ CP │ coefficients
            └──────┬──────┘  of step Delta_2, ...         └────┘
                   │ posterior mean, inverse DCT          ┌────┐
        T+1        └─────────────────────────────────────►│ PP │ pixels: now exact
                                                          └────┘

        CP = coefficient prior: a context model over 48 subsets of coefficients
        PP = pixel prior: a context model over 12 subsets of pixels

    The picture of a stage is the inverse DCT of the posterior means, improved by a filter
    of its own, which is not in the coding loop.

    The rate of universal quantization grows with the width of the signal in units of its
    noise, so it pays to have the signal in few coefficients. Noise whose schedule depends
    on frequency makes a diffusion of its own (Hoogeboom and Salimans, "Blurring Diffusion
    Models", ICLR 2023). Networks compute in integers: bitstreams decode on every machine.

    Args:
        config: the model's configuration.
        quality: number of stages to code, 1 (coarsest) to T + 1 (lossless), by default
            T + 1; can be set later.
    """

    config_bytes: Tensor
    output_like: Tensor
    arithmetics = ("integer",)
    reconstructions = ("denoise",)

    def __init__(self, config: CosineConfig = CosineConfig(), quality: int | None = None):
        super().__init__()
        self.config = self._hub_mixin_config = config
        self.register_buffer("output_like", torch.empty(0, dtype=torch.float32), False)
        self.register_buffer("config_bytes", config.to_tensor().to(self.output_like.device))
        priors = [CoefficientPrior(step, config.hidden) for step in config.networks]
        self.latent_priors = cast(Sequence[CoefficientPrior], nn.ModuleList(priors))
        self.pixel_prior = PixelPrior()
        # the loss of the model does not train them
        filters = [PictureFilter().set_trained(False) for _ in config.quantization_steps]
        self.picture_filters = cast(Sequence[PictureFilter], nn.ModuleList(filters))
        self.quality = self.n_stages if quality is None else quality

    # ---- stages ----

    @single_threaded_ops()
    @exact_floats()
    def first_latent(
        self, shape: Sequence[int], seed: int, progress: Progress | None = None
    ) -> CosineLatent:
        B, _, H, W = shape
        order = BlockOrder(B, n_blocks(H), n_blocks(W))
        return CosineLatent((H, W), order, progress=progress)

    @single_threaded_ops()
    @exact_floats()
    def code_stage(self, latent: CosineLatent, coder: PictureCoder) -> CosineLatent:
        """Code one stage: quantize, run the context model, code its symbols."""
        stage = latent.stages
        if stage == len(self.config.quantization_steps):
            return self._code_pixels(latent, coder)
        step, dead_zone = (
            self.config.quantization_steps[stage],
            self.config.dead_zones[stage],
        )

        def grid(n: int) -> NestedGrid:
            if not latent.grids and n < N_COEFFICIENTS:
                return self._draw_grids(latent.order, coder.seed, n)[0]
            latent.grids = latent.grids or self._draw_grids(latent.order, coder.seed)
            return latent.grids[0]

        finest = latent.finest
        if finest is None and coder.levels is not None:
            grid(N_COEFFICIENTS)
            finest = self._quantize(coder.levels, latent)
        posterior = self._prior(stage).code(
            coder.symbols, latent.order, step, grid, dead_zone, latent.posterior, finest
        )
        cells = torch.where(posterior.coded, posterior.cells, 0)
        coder.end_stage(latent.order.planes(cells).numpy())
        if latent.progress:
            latent.progress(1.0)
        later = latent.grids[1:]
        return replace(
            latent,
            stages=stage + 1,
            grids=later,
            posterior=posterior,
            finest=finest if later else None,
        )

    def _code_pixels(self, latent: CosineLatent, coder: PictureCoder) -> CosineLatent:
        """Code the last stage, the pixels."""
        found = []
        for b, posterior in enumerate(latent.pixel_posteriors()):
            image = None if coder.levels is None else coder.levels[b].cpu().numpy()
            found.append(self.pixel_prior.code(coder.symbols, posterior, image))
        levels = np.stack(found)
        coder.end_stage(levels)
        pixels = torch.from_numpy(levels).to(self.device)
        # without the posterior: memory
        return replace(latent, stages=self.n_stages, posterior=None, levels=pixels)

    def estimate_stage(
        self, latent: CosineLatent, levels: Tensor, seed: int
    ) -> tuple[Tensor, CosineLatent]:
        """Estimate one stage, as of :meth:`.ProgressiveModel.estimate_stage`.

        The likelihoods are the stage's probability spread evenly over all values of the
        batch, for a value's own includes side information of its subset.
        """
        estimator = StageEstimator(levels, seed)
        latent = self.code_stage(latent, estimator)
        return estimator.likelihoods().to(levels.device), latent

    def _quantize(self, levels: Tensor, latent: CosineLatent) -> Tensor:
        """Return the cells of the finest grid that hold the coefficients, int16."""
        grid = latent.grids[-1]
        found = torch.empty(grid.shape, dtype=torch.int16, device="cpu")

        def fill(rows: slice) -> None:
            x = forward_dct(levels[:, :, BLOCK * rows.start : BLOCK * rows.stop])
            x = x.permute(0, 2, 3, 1).flatten(0, 2)
            places = latent.order.rows(slice(None), rows)
            u = grid.dither[places].to(x.device)
            found[places] = finest_cells(x, grid.step, u).short().cpu()

        parallel_map(fill, block_rows(latent.size), levels.device)
        return found

    def _draw_grids(
        self, order: BlockOrder, seed: int, n: int = N_COEFFICIENTS
    ) -> list[NestedGrid]:
        return draw_grids(self.config.quantization_steps, order, seed, n)

    @single_threaded_ops()
    @exact_floats()
    def reconstruct(
        self, latent: CosineLatent, method: Reconstruction, seed: int
    ) -> Tensor:
        """Return the images of a state, levels 0..255, ``[B, 3, H, W]``.

        Raises:
            ValueError: the method is not ``"denoise"``.
        """
        if method not in self.reconstructions:
            raise ValueError(
                f'reconstruction must be "denoise", got {method!r}: a CosineUQDM shows '
                "posterior means and samples nothing"
            )
        if latent.levels is not None:
            return latent.levels
        if latent.posterior is None:
            grey = (latent.order.shape[0], 3, *latent.size)
            return torch.full(grey, 128, dtype=torch.uint8, device=self.device)
        # a truncated stage looks more like the one before
        is_cut = latent.posterior.missing is not None
        picture_filter = self.picture_filters[max(latent.stages - 1 - is_cut, 0)]
        found = []
        for posterior in latent.pixel_posteriors():
            mean = (
                picture_filter.improve(posterior) + (1 << (POSITION_BITS - 1))
                >> POSITION_BITS
            )
            found.append(mean.clip(0, 255).astype(np.uint8))
        return torch.from_numpy(np.stack(found)).to(self.device)

    # ---- training ----

    def training_likelihoods(
        self, levels: Tensor, dead_zones: Sequence[float] | None = None
    ) -> Iterator[tuple[Tensor, CosineLatent]]:
        """Yield the likelihoods of one stage after another, under fresh noise.

        Args:
            levels: images, 0..255, ``[B, 3, H, W]``.
            dead_zones: of the stages, by default the model's.

        Yields:
            likelihoods of all coefficients, coded or not, float64, ``[B, 192, h, w]``, with
            gradients, and the state after the stage.
        """
        steps = self.config.quantization_steps
        x = forward_dct(levels)
        order = BlockOrder(*x[:, 0].shape)
        words = [
            torch.randint(-(1 << 15), 1 << 15, x.shape, device=x.device).short()
            for _ in steps
        ]
        grids = nested_grids(steps, map(order.matrix, words))
        finest = finest_cells(order.matrix(x), grids[-1].step, grids[-1].dither)
        H, W = levels.shape[2:]
        latent = CosineLatent((H, W), order, grids)
        for stage, dead_zone in enumerate(dead_zones or self.config.dead_zones):
            p, posterior = self._prior(stage).training_likelihoods(
                order, grids[stage], dead_zone, latent.posterior, grids[stage].cells(finest)
            )
            latent = replace(latent, stages=stage + 1, posterior=posterior)
            yield order.planes(p), latent

    @uncompiled
    def bound(self, levels: Tensor) -> dict[str, Any]:
        """Return likelihoods of all coefficients, and the image after ``quality`` stages.

        The prior of the pixels and the picture filters are trained apart.
        """
        likelihoods, x_hat = {}, levels_to_image(levels, torch.float32)
        for p, latent in self.training_likelihoods(levels):
            likelihoods[self.stage_name(latent.stages)] = p
            if latent.stages == self.quality:
                shown = self.reconstruct(latent, "denoise", 0)
                x_hat = levels_to_image(shown, torch.float32)
        return {"x_hat": x_hat, "likelihoods": likelihoods}

    # ---- properties ----

    @property
    def n_stages(self) -> int:
        """T + 1: the stages of coefficients and the pixels."""
        return len(self.config.quantization_steps) + 1

    def _prior(self, stage: int) -> CoefficientPrior:
        return self.latent_priors[self.config.network(stage)]

    @property
    def device(self) -> torch.device:
        return self.config_bytes.device

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def output_dtype(self) -> torch.dtype:
        # bfloat16 is off by up to half a level
        dtype = self.output_like.dtype
        return torch.float32 if dtype == torch.bfloat16 else dtype

    @property
    def portable(self) -> bool:
        """Always: a decoder computes in integers."""
        return True

    def passes(self, stages: int, picture: bool = False) -> int:
        return min(stages, len(self.config.quantization_steps))

    def min_bytes(self, size: tuple[int, int]) -> int:
        # the first coefficient of half of the blocks, if the model codes it
        step, dead_zone = self.config.quantization_steps[0], self.config.dead_zones[0]
        if not self._prior(0).codes_first(step, dead_zone):
            return 0
        H, W = size
        return min_bytes(n_blocks(H) * n_blocks(W) // 2)

    def blend_partial_stage(
        self, before: CosineLatent, latent: CosineLatent, n_decoded: int
    ) -> CosineLatent:
        return latent

    # ---- weights ----

    @single_threaded_ops()
    @loading()
    def update(self, force: bool = False) -> bool:
        """Check the weights; tables follow from constants, and are not built here.

        Args:
            force: for CompressAI's programs; without effect.

        Returns:
            False, since no table is built.

        Raises:
            ValueError: weights are so large that a sum could be rounded.
        """
        for prior in self.latent_priors:
            prior.check()
        self.pixel_prior.check()
        for picture_filter in self.picture_filters:
            picture_filter.check()
        return False

    def aux_loss(self) -> Tensor:
        """Return 0: the span of the scale tables is fixed."""
        return torch.stack([prior.loss() for prior in self.latent_priors]).sum()

    def fingerprint(self) -> Fingerprint:
        config = self.config
        yield "quantization_steps", np.array(config.quantization_steps)
        for step, prior in zip(config.networks, self.latent_priors):
            yield from prefixed(f"network {step}", prior.fingerprint())
        stages = zip(config.quantization_steps, config.dead_zones, self.picture_filters)
        for stage, (step, dead_zone, picture_filter) in enumerate(stages):
            found = self._prior(stage).stage_fingerprint(step, dead_zone)
            yield from prefixed(f"stage {stage + 1}", found)
            yield from prefixed(f"picture {stage + 1}", picture_filter.fingerprint())
        yield from prefixed("pixels", self.pixel_prior.fingerprint())

    @classmethod
    @loading()
    def from_state_dict(
        cls, state_dict: Mapping[str, Any], weights: Weights = "ema", **kwargs: Any
    ) -> Self:
        state_dict = state_dict_of(state_dict, weights)
        check_family(state_dict, cls)
        config = CosineConfig.from_tensor(state_dict["config_bytes"])
        with undrawn():
            net = cls(config, **kwargs)
        # what save_integers leaves out is constant
        initial = {k: v for k, v in net.state_dict().items() if not _is_weight(k)}
        load_weights(net, {**initial, **state_dict})
        return net

    def save_integers(self, path: str | Path) -> None:
        """Write the weights as the integers that they are rounded to, compressed.

        Args:
            path: an ``.npz`` file; :meth:`from_checkpoint` reads it.
        """
        arrays = {"config_bytes": self.config_bytes.cpu().numpy()}
        for i, prior in enumerate(self.latent_priors):
            for name, array in prior.integer_arrays():
                arrays[f"latent_priors.{i}.{name}"] = array
        networks: dict[str, IntegerNetwork] = {
            "pixel_prior.network": self.pixel_prior.network
        }
        networks |= {f"picture_filters.{i}": n for i, n in enumerate(self.picture_filters)}
        for prefix, network in networks.items():
            for name, array in network.integer_arrays().items():
                arrays[f"{prefix}.{name}"] = array
        with write_atomically(Path(path)) as file:
            np.savez_compressed(file, **arrays)


def draw_grids(
    steps: Sequence[int], order: BlockOrder, seed: int, n: int = N_COEFFICIENTS
) -> list[NestedGrid]:
    """Draw the quantization cells of all stages, alike for encoder and decoder.

    Args:
        steps: quantization steps of the stages, each a multiple of the next.
        order: the blocks; images of a batch have the same cells.
        seed: seed of the picture.
        n: number of coefficients, the first of each block.
    """
    B, h, w = order.shape
    words = (dither(seed, stage, (n, h, w)) for stage in range(len(steps)))
    return nested_grids(steps, (order.matrix(word.expand(B, -1, -1, -1)) for word in words))


def _is_weight(name: str) -> bool:
    is_network = ".layers." in name or ".network." in name
    is_filter = name.startswith("picture_filters.")
    return is_network or is_filter or name.endswith((".coefficient_std", ".dc_predictor"))
