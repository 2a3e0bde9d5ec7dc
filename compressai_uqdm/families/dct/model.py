"""CosineUQDM: universal quantization by nested stages, in a cosine basis."""

import functools
import json

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
import torch.nn as nn

from compressai.registry import register_model
from torch import Tensor

from ...atomic import write_atomically
from ...checks import check_count
from ...fingerprint import Fingerprint, prefixed
from ...integer.arithmetic import row_chunks
from ...levels import levels_to_image
from ...models.base import ProgressiveModel, Reconstruction
from ...models.checkpoint import (
    Weights,
    check_family,
    load_weights,
    loading,
    state_dict_of,
    undrawn,
)
from ...models.coders import Coder
from ...progress import Progress
from ...quantization.dither import dither
from ...quantization.lattice import least_bytes
from ...quantization.nested import MAX_RATIO, NestedGrid, finest_cells, nest
from ...settings import exact_floats, uncompiled
from ...threads import parallel_map, single_threaded_ops
from .block_order import BlockOrder
from .coefficient_prior import CoefficientPosterior, CosineConditional
from .picture_filter import PictureNetwork
from .pixel_prior import VARIANCE_BITS, CosinePixels, Moments, PixelPosterior
from .transform import (
    BLOCK,
    COEFFICIENT_BITS,
    POSITION_BITS,
    forward_dct,
    inverse_dct,
    n_blocks,
    spread_variances,
)

__all__ = ["CosineConfig", "CosineLatent", "CosineUQDM"]

_AT_ONCE = 1 << 10  # blocks whose pixels are computed at once, to bound memory


@dataclass(frozen=True)
class CosineConfig:
    """Configuration of a :class:`CosineUQDM`.

    Args:
        widths: of the cells of each stage, in levels; each is a multiple of the next.
        thresholds: standard deviations, in widths, of the coefficients that each stage
            leaves for later.
        units: widths that networks count in. A stage has the network whose unit is nearest
            to its own width, by ratio, and may share it with others.
        hidden: width of the state of a block.

    Raises:
        ValueError: a value that no such model can have.
    """

    widths: tuple[int, ...] = (192, 64, 32, 16, 8)
    thresholds: tuple[float, ...] = (0.3, 0.3, 0.3, 0.35, 0.42)
    units: tuple[int, ...] = (192, 48, 8)
    hidden: int = 96

    def __post_init__(self) -> None:
        for name in ("widths", "thresholds", "units"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_count(self, "hidden")
        pairs = zip(self.widths, self.widths[1:])
        sound = all(0 < b < a <= MAX_RATIO * b and a % b == 0 for a, b in pairs)
        if not self.widths or self.widths[0] < 1 or not sound:
            raise ValueError(
                "widths must be positive integers, each a multiple of the next, of at most "
                f"{MAX_RATIO} times, got {self.widths}"
            )
        if not self.units or min(self.units) < 1:
            raise ValueError(f"units must be positive integers, got {self.units}")
        sound = all(0.02 <= threshold <= 4 for threshold in self.thresholds)
        if len(self.thresholds) != len(self.widths) or not sound:
            raise ValueError(
                "thresholds must be as many as widths, each in 0.02..4, got "
                f"{self.thresholds}"
            )

    @property
    def networks(self) -> tuple[int, ...]:
        """Units of the networks that there are, those of the first stages first."""
        return tuple(dict.fromkeys(map(self._unit, self.widths)))

    def network(self, stage: int) -> int:
        """The place among :attr:`networks` of that of a stage, which is counted from 0."""
        return self.networks.index(self._unit(self.widths[stage]))

    def stages(self, network: int) -> list[int]:
        """The stages, counted from 0, that have a network."""
        return [i for i in range(len(self.widths)) if self.network(i) == network]

    def _unit(self, width: int) -> int:
        return min(self.units, key=lambda unit: max(unit, width) / min(unit, width))

    def to_tensor(self) -> Tensor:
        """The configuration as bytes of JSON, uint8, to travel in a state dict."""
        text = json.dumps({"cosine": asdict(self)}, sort_keys=True)
        return torch.from_numpy(np.array(bytearray(text.encode())))

    @classmethod
    def from_tensor(cls, data: Tensor) -> "CosineConfig":
        """Inverse of :meth:`to_tensor`.

        Raises:
            ValueError: it is no such configuration.
        """
        try:
            values = json.loads(bytes(data.tolist()).decode())["cosine"]
            if unknown := sorted(set(values) - {f.name for f in fields(cls)}):
                raise ValueError(f"unknown keys {unknown}")
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not the configuration of a CosineUQDM: {error}") from error


@dataclass
class CosineLatent:
    """Images of which some stages are known.

    Attributes:
        size: (H, W).
        board: their blocks, of which what is known has a row each.
        grids: cells of every stage that is still to come, on the CPU; empty until the first
            stage needs them.
        stages: number of stages that are known.
        known: what the last of them says of the coefficients.
        finest: cells of the finest grid that hold them, where the images are there.
        levels: the pixels, once they are known.
        progress: is told of every stage's network.
    """

    size: tuple[int, int]
    board: BlockOrder
    grids: list[NestedGrid]
    stages: int = 0
    known: CoefficientPosterior | None = None
    finest: Tensor | None = None
    levels: Tensor | None = None
    progress: Progress | None = None


@register_model("uqdm-cosine")
class CosineUQDM(ProgressiveModel[CosineLatent]):
    r"""Progressive coding by universal quantization in a cosine basis.

    .. code-block:: none

              levels of pixels
                   │ 8x8 cosines of three colours: 192 coefficients a block
            ┌──────▼──────┐  in cells of width Delta_1   ┌────┐
        1   │   nested    ├─────────────────────────────►│ CP │ coded, but for those that
            │  universal  │                              └────┘ are predicted to be small
            │             │  which of the ratio parts    ┌────┐
        2.. │ quantization├─────────────────────────────►│ CP │ of what is known, and
            └──────┬──────┘  of width Delta_2, ...       └────┘ cells of what is not
                   │ fixed-point inverse                 ┌────┐
        T+1        └────────────────────────────────────►│ PP │ pixels: now exact
                                                         └────┘

        CP = cosine prior: 48 groups of coefficients, each told by those before it
        PP = pixel prior: 12 groups of pixels, each told by those before it

    What is seen of a stage is the inverse transform, improved by a network of its own.

    Universal quantization costs about as much as the signal is wide in units of its noise,
    linearly, so it pays to have it in few coordinates; and noise whose schedule differs
    by frequency makes a diffusion of its own (Hoogeboom and Salimans, "Blurring Diffusion
    Models", ICLR 2023). Networks are in integers: strings decode on every machine.

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
        priors = [CosineConditional(unit, config.hidden) for unit in config.networks]
        self.latent_priors = cast(Sequence[CosineConditional], nn.ModuleList(priors))
        self.pixel_prior = CosinePixels()
        pictures = [PictureNetwork() for _ in config.widths]
        self.pictures = cast(Sequence[PictureNetwork], nn.ModuleList(pictures))
        self.quality = self.n_stages if quality is None else quality

    # ---- stages ----

    @property
    def n_stages(self) -> int:
        """T + 1: the stages of coefficients and the pixels."""
        return len(self.config.widths) + 1

    def _prior(self, stage: int) -> CosineConditional:
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
        """Always: all that a decoder computes are integers."""
        return True

    def is_guarded(self, stages: int) -> bool:
        return False

    def passes(self, stages: int, picture: bool = False) -> int:
        return min(stages, len(self.config.widths))

    @single_threaded_ops()
    @exact_floats()
    def first_latent(
        self, shape: Sequence[int], seed: int, progress: Progress | None = None
    ) -> CosineLatent:
        B, _, H, W = shape
        board = BlockOrder(B, n_blocks(H), n_blocks(W))
        return CosineLatent((H, W), board, [], progress=progress)

    def least_bytes(self, size: tuple[int, int]) -> int:
        # the first coefficient of half of the blocks, if the model codes it
        if not self._prior(0).codes_first(self.config.widths[0], self.config.thresholds[0]):
            return 0
        H, W = size
        return least_bytes(n_blocks(H) * n_blocks(W) // 2)

    def blend_partial_stage(
        self, before: CosineLatent, latent: CosineLatent, n_decoded: int
    ) -> CosineLatent:
        return latent

    @single_threaded_ops()
    @exact_floats()
    def code_stage(self, latent: CosineLatent, coder: Coder) -> CosineLatent:
        """One stage on: the cells of the image, the prior, the symbols."""
        stages = latent.stages + 1
        if stages == self.n_stages:
            return self._code_pixels(latent, coder)
        prior = self._prior(latent.stages)
        threshold = self.config.thresholds[latent.stages]
        draw = functools.partial(draw_grids, self.config.widths, latent.board, coder.seed)

        def grid() -> NestedGrid:
            latent.grids = latent.grids or draw()
            return latent.grids[0]

        finest = latent.finest
        if finest is None and coder.levels is not None:
            grid()
            finest = self._finest(coder.levels, latent)
        # a damaged stream ends within the first coefficient of all blocks, before the grids
        # of the others take memory
        first = latent.grids[0] if latent.grids else draw(1)[0]
        known = prior.code(
            coder.symbols, latent.board, first, grid, threshold, latent.known, finest
        )
        later = latent.grids[1:]
        cells = torch.where(known.sent, known.cells, 0)
        coder.end_stage(stages, latent.board.planes(cells).numpy())
        if latent.progress:
            latent.progress(1.0)
        if not later:  # no cells are to come
            finest = None
        return replace(latent, stages=stages, grids=later, known=known, finest=finest)

    def _code_pixels(self, latent: CosineLatent, coder: Coder) -> CosineLatent:
        """The last stage: the pixels, exact."""
        found = []
        for b, guess in enumerate(self.guesses(latent)):
            image = None if coder.levels is None else coder.levels[b].cpu().numpy()
            found.append(self.pixel_prior.code(coder.symbols, guess, image))
        levels = np.stack(found)
        coder.end_stage(self.n_stages, levels)
        pixels = torch.from_numpy(levels).to(self.device)
        # without what they follow from: memory
        return replace(latent, grids=[], stages=self.n_stages, known=None, levels=pixels)

    def _finest(self, levels: Tensor, latent: CosineLatent) -> Tensor:
        """Cells of the finest grid that hold the coefficients of images, int16."""
        grid = latent.grids[-1]
        found = torch.empty(grid.shape, dtype=torch.int16, device="cpu")

        def fill(rows: slice) -> None:
            x = forward_dct(levels[:, :, BLOCK * rows.start : BLOCK * rows.stop])
            x = x.permute(0, 2, 3, 1).flatten(0, 2)
            places = latent.board.rows(slice(None), rows)
            u = grid.dither[places].to(x.device)
            found[places] = finest_cells(x, grid.width, u).short().cpu()

        parallel_map(fill, _bands(latent.size), levels.device)
        return found

    def guesses(self, latent: CosineLatent) -> Iterator[PixelPosterior]:
        """What coefficients tell of the pixels of each image, once there are any."""
        known, size = latent.known, latent.size
        assert known is not None
        for b in range(latent.board.shape[0]):
            moments = functools.partial(self._moments, known, b, size)
            yield PixelPosterior.of(size, _bands(size), moments)

    @staticmethod
    def _moments(
        known: CoefficientPosterior, b: int, size: tuple[int, int], rows: slice
    ) -> Moments:
        """Those of some rows of blocks of image b."""
        width = known.grid.width
        shift = 9 - COEFFICIENT_BITS  # means are in 1/512 of the width
        means, variances = known.moments(b, rows)
        here = min(BLOCK * rows.stop, size[0]) - BLOCK * rows.start, size[1]
        positions = inverse_dct(means * width + (1 << shift - 1) >> shift, here)
        variances *= width**2
        variances >>= 20 - VARIANCE_BITS
        return Moments(positions, spread_variances(variances, here), variances)

    @single_threaded_ops()
    @exact_floats()
    def reconstruct(
        self, latent: CosineLatent, method: Reconstruction, seed: int
    ) -> Tensor:
        """Levels 0..255 of images, ``[B, 3, H, W]``.

        Raises:
            ValueError: the method is not ``"denoise"``: there is no other here.
        """
        if method not in self.reconstructions:
            raise ValueError(
                f'reconstruction must be "denoise", got {method!r}: nothing is sampled in '
                "the cosine basis, every coefficient stands at its mean"
            )
        if latent.levels is not None:
            return latent.levels
        if latent.known is None:
            grey = (latent.board.shape[0], 3, *latent.size)
            return torch.full(grey, 128, dtype=torch.uint8, device=self.device)
        # a stage that ends early looks more like the one before
        is_cut = latent.known.missing is not None
        network, found = self.pictures[max(latent.stages - 1 - is_cut, 0)], []
        for guess in self.guesses(latent):
            positions = network(guess) + (1 << (POSITION_BITS - 1)) >> POSITION_BITS
            found.append(positions.clip(0, 255).astype(np.uint8))
        return torch.from_numpy(np.stack(found)).to(self.device)

    # ---- training ----

    def training_likelihoods(
        self, levels: Tensor, thresholds: Sequence[float] | None = None
    ) -> Iterator[tuple[Tensor, CosineLatent]]:
        """Stage by stage, with noise from PyTorch's generator, what there is to learn.

        Args:
            levels: images, 0..255, ``[B, 3, H, W]``.
            thresholds: of the stages, by default the model's.

        Yields:
            likelihoods of all coefficients, sent or not, float64, ``[B, 192, h, w]``, with
            gradients, and what is known then.
        """
        for prior in self.latent_priors:
            if not prior.has_tables:  # pictures need them; they do not depend on weights
                prior.update()
        if thresholds is None:
            thresholds = self.config.thresholds
        x = forward_dct(levels)
        board = BlockOrder(*x[:, 0].shape)
        words = [
            torch.randint(-(1 << 15), 1 << 15, x.shape, device=x.device).short()
            for _ in self.config.widths
        ]
        grids = nest(self.config.widths, map(board.matrix, words))
        finest = finest_cells(board.matrix(x), grids[-1].width, grids[-1].dither)
        H, W = levels.shape[2:]
        latent = CosineLatent((H, W), board, grids)
        for stage, (grid, threshold) in enumerate(zip(grids, thresholds)):
            p, known = self._prior(stage).training_likelihoods(
                board, grid, threshold, latent.known, grid.cells(finest)
            )
            latent = replace(latent, stages=stage + 1, known=known)
            yield board.planes(p), latent

    @uncompiled
    def bound(self, levels: Tensor) -> dict[str, Any]:
        """Bits of all stages' coefficients, sent or not, and the image after ``quality``.

        The priors of the pixels are trained apart.
        """
        likelihoods, x_hat = {}, levels_to_image(levels, torch.float32)
        for p, latent in self.training_likelihoods(levels):
            likelihoods[f"stage_{latent.stages}"] = p
            if latent.stages == self.quality:
                shown = self.reconstruct(latent, "denoise", 0)
                x_hat = levels_to_image(shown, torch.float32)
        return {"x_hat": x_hat, "likelihoods": likelihoods}

    # ---- CompressAI ----

    @single_threaded_ops()
    @loading()
    def update(self, force: bool = False) -> bool:
        """Build the integer tables that ``compress`` needs.

        Args:
            force: build them anew where they exist.

        Returns:
            whether any were built.

        Raises:
            ValueError: weights are so large that a sum could be rounded.
        """
        for network in self.pictures:
            network.check()
        priors = [*self.latent_priors, self.pixel_prior]
        return any([prior.update(force) for prior in priors])

    def aux_loss(self) -> Tensor:
        """0: the tables' spans are fixed."""
        priors = [*self.latent_priors, self.pixel_prior]
        return torch.stack([prior.loss() for prior in priors]).sum()

    def fingerprint(self) -> Fingerprint:
        yield "widths", np.array(self.config.widths)
        for unit, prior in zip(self.config.networks, self.latent_priors):
            yield from prefixed(f"network {unit}", prior.fingerprint())
        pairs = zip(self.config.widths, self.config.thresholds)
        for stage, (width, threshold) in enumerate(pairs):
            found = self._prior(stage).stage_parts(width, threshold)
            yield from prefixed(f"stage {stage + 1}", found)
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
        # tables and the spans of scales may be missing: they follow
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
            for name, array in prior.arrays():
                arrays[f"latent_priors.{i}.{name}"] = array
        for name, weight in self.state_dict().items():
            if name.startswith(("pixel_prior.network.", "pictures.")):
                arrays[name] = weight.cpu().numpy()
        with write_atomically(Path(path)) as file:
            np.savez_compressed(file, **arrays)


def draw_grids(
    widths: Sequence[int], board: BlockOrder, seed: int, n: int = 192
) -> list[NestedGrid]:
    """The grids of all stages, the same for encoder and decoder, and for every image.

    Args:
        widths: of the stages' cells, each a multiple of the next.
        board: the blocks, whose coefficients are the rows of a matrix, ``[B h w, 192]``.
        seed: seed of the picture.
        n: number of coefficients; the grids of the first few are drawn without the others.
    """
    B, h, w = board.shape
    words = (dither(seed, stage, (n, h, w)) for stage in range(len(widths)))
    return nest(widths, (board.matrix(word.expand(B, -1, -1, -1)) for word in words))


def _bands(size: tuple[int, int]) -> Iterator[slice]:
    """Rows of blocks to compute at once, to bound memory."""
    height, width = size
    return row_chunks(n_blocks(height), n_blocks(width), _AT_ONCE)


def _is_weight(name: str) -> bool:
    is_network = ".groups." in name or ".network." in name or ".conv_" in name
    return is_network or name.endswith((".spread", ".neighbours"))
