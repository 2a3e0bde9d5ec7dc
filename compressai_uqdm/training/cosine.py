"""Training of a CosineUQDM: its networks one after another, then pixels, then pictures.

A network learns the stages that have it on top of those before them, which are frozen by
then: their only part in it is which coefficients they sent, and in which cells these lie.
The loss is the bits of all coefficients of its stages, sent or not. Thresholds vary, so
that others do as well.
"""

import itertools
import json
import logging
import math
import time

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..atomic import write_atomically
from ..datasets import Photographs
from ..families.dct.coefficient_prior import CoefficientPrior
from ..families.dct.config import CosineConfig
from ..families.dct.model import CosineUQDM
from ..families.dct.transform import BLOCK, forward_dct
from .bar import StepBar
from .batches import example_key
from .checkpoints import check_output, find_checkpoint, save_checkpoint
from .config import Settings, changeable
from .cosine_pixels import crops_of, filtered, pixel_bits, pixel_crops
from .interruption import Interruption

__all__ = ["CosineRun", "CosineTrainingConfig", "draw_crops", "read_photographs"]

CLIP_NORM = 1.0
LAST_RATE = 0.01
"""What the learning rate ends at, of its peak."""
CANDIDATES = 4
"""Crops that are drawn for every one that is kept."""
LEAST_DETAIL = 0.3
"""Weight of a flat crop, as a gradient in levels per pixel."""
SPREAD_CROPS = 200
MEAN_SHARE = 0.4
"""Of the spread of blocks' means: their neighbours tell most of it."""
TEST_BATCH = 8
AVERAGE = 0.998
"""Of weights, from step to step: that average is what is kept."""
THRESHOLDS = (0.65, 1.3)
"""Span of the factors that a stage's threshold is drawn with."""
GRAIN = (0.3, 3.0)
CONTRAST = (0.75, 1.35)
VARIED = 0.35
"""What crops are varied by, in levels and as a factor, and how many: box-averaged
photographs have less grain and softer edges than others."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CosineTrainingConfig(Settings):
    """A run of the trainer of a :class:`CosineUQDM`.

    Args:
        photographs: folder of photographs.
        output: file to write the weights to, ``.npz``; beside it go a log and a checkpoint.
        test: folder of held-out photographs.
        initial: weights to start from; each network from the one of the nearest unit.
        quantization_steps: of the stages, in levels.
        dead_zones: of the stages, see :class:`.CosineConfig`.
        trained_steps: of the networks, likewise.
        hidden: width of the state of a block.
        steps: for each network, for the pixels, and for pictures.
        batch_size: crops in a step.
        crop_size: side of crops, in pixels.
        min_factor: smallest factor that photographs are box-averaged by.
        max_factor: largest one.
        learning_rate: of Adam, for a network that starts from nothing.
        warm_learning_rate: for one that starts from weights.
        warmup: steps until that rate is reached.
        seed: of everything random.
        log_every: steps that a record is the mean of.
        test_every: steps between measurements on held-out photographs.
        test_crops: how many crops of these are measured.
        checkpoint_every: steps between checkpoints.
        checkpoint_minutes: minutes after which there is a checkpoint in any case.

    Raises:
        ValueError: a value is out of range.
    """

    photographs: Path = field(metadata={"changeable": True})
    output: Path = field(metadata={"changeable": True})
    test: Path | None = changeable(None)
    initial: Path | None = None
    quantization_steps: tuple[int, ...] = CosineConfig.quantization_steps
    dead_zones: tuple[float, ...] = CosineConfig.dead_zones
    trained_steps: tuple[int, ...] = CosineConfig.trained_steps
    hidden: int = CosineConfig.hidden
    steps: int = 1000
    batch_size: int = 8
    crop_size: int = 128
    min_factor: int = 2
    max_factor: int = 4
    learning_rate: float = 2e-3
    warm_learning_rate: float = 1e-3
    warmup: int = 60
    seed: int = 0
    log_every: int = 50
    test_every: int = changeable(250)
    test_crops: int = changeable(32)
    checkpoint_every: int = changeable(250)
    checkpoint_minutes: float = changeable(10.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("quantization_steps", "dead_zones", "trained_steps"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self.model()  # raises
        if self.output.suffix != ".npz" or self.output.is_dir():
            raise ValueError(f"output must be a file .npz, got {self.output}")
        if self.crop_size % BLOCK:
            raise ValueError(
                f"--crop-size must be a multiple of {BLOCK}, got {self.crop_size}"
            )
        if self.min_factor > self.max_factor:
            raise ValueError(
                f"--min-factor must be at most --max-factor, {self.max_factor}, got "
                f"{self.min_factor}"
            )

    def model(self) -> CosineConfig:
        """The configuration of what is trained."""
        return CosineConfig(
            self.quantization_steps, self.dead_zones, self.trained_steps, self.hidden
        )

    @property
    def checkpoint(self) -> Path:
        return self.output.with_suffix(".checkpoint.pt")

    @property
    def log(self) -> Path:
        return self.output.with_suffix(".json")


# ---- photographs ----


def read_photographs(
    folder: Path, split: str, config: CosineTrainingConfig
) -> list[np.ndarray]:
    """Photographs box-averaged by every factor that leaves a crop, ``[3, H, W]``, uint8.

    They stay in memory: 1.3 bytes for a pixel of a photograph, with the factors 2, 3, 4.

    Args:
        folder: where they are, flat, or in folders ``train`` and ``test``.
        split: which of these.
        config: its factors and size of crops.

    Raises:
        ValueError: there is no photograph that is large enough.
    """
    if not folder.is_dir():
        raise ValueError(f"expected a folder of photographs, there is no folder {folder}")
    side = config.crop_size * config.min_factor
    files = Photographs(folder, split=split, size=side).files
    averaged = []
    for file in tqdm(files, f"reading {folder}", leave=False, dynamic_ncols=True):
        try:
            with Image.open(file) as image:
                photograph = image.convert("RGB")
        except Exception as error:  # Pillow's plugins fail in many ways
            log.warning("left out %s: it is damaged (%s)", file, error)
            continue
        for factor in range(config.min_factor, config.max_factor + 1):
            if min(photograph.size) >= config.crop_size * factor:
                levels = np.asarray(photograph.reduce(factor))
                averaged.append(np.ascontiguousarray(levels.transpose(2, 0, 1)))
    if not averaged:
        raise ValueError(f"none of the {len(files)} images in {folder} can be read")
    return averaged


def draw_crops(
    photographs: list[np.ndarray],
    count: int,
    size: int,
    rng: np.random.Generator,
    candidates: int = CANDIDATES,
) -> Tensor:
    """Crops, some turned or flipped: uint8, ``[count, 3, size, size]``.

    Args:
        photographs: ``[3, H, W]``; larger ones come more often, by the root of their area.
        count: how many.
        size: their side.
        rng: where they come from.
        candidates: drawn for each that is kept; those with more detail rather stay.
    """
    weights = np.sqrt([photograph[0].size for photograph in photographs])
    chosen = rng.choice(len(photographs), count * candidates, p=weights / weights.sum())
    crops = np.empty((len(chosen), 3, size, size), np.uint8)
    for crop, i in zip(crops, chosen):
        y, x = (rng.integers(n - size + 1) for n in photographs[i].shape[1:])
        cut = photographs[i][:, y : y + size, x : x + size]
        cut = cut[:, :, ::-1] if rng.random() < 0.5 else cut
        crop[:] = cut.transpose(0, 2, 1) if rng.random() < 0.5 else cut
    if candidates > 1:
        detail = _detail(crops) + LEAST_DETAIL
        kept = rng.choice(len(crops), count, replace=False, p=detail / detail.sum())
        crops = crops[kept]
    return torch.from_numpy(crops)


def vary(crops: Tensor, rng: np.random.Generator) -> Tensor:
    """Crops, uint8, ``[n, 3, H, W]``, some varied: contrast, grain, half as fine colours.

    Most cameras and JPEG files keep colours at half the resolution.
    """
    x, n = crops.numpy().astype(np.float32), (len(crops), 1, 1, 1)
    contrast = np.where(rng.random(n) < VARIED, rng.uniform(*CONTRAST, n), 1)
    mean = x.mean((1, 2, 3), keepdims=True)
    x = (x - mean) * contrast + mean
    # three quarters of the grain's energy are the same in all colours
    grey, colours = rng.normal(size=x[:, :1].shape), rng.normal(size=x.shape)
    grain = math.sqrt(0.75) * grey + math.sqrt(0.25) * colours
    blurred = (
        grain + np.roll(grain, 1, 2) + np.roll(grain, 1, 3) + np.roll(grain, (1, 1), (2, 3))
    )
    grain = np.where(rng.random(n) < 0.4, blurred / 2, grain)
    x += grain * np.where(rng.random(n) < VARIED, rng.uniform(*GRAIN, n), 0)
    halved = _with_halved_colours(torch.from_numpy(x)).numpy()
    x = np.where(rng.random(n) < VARIED, halved, x)
    return torch.from_numpy(np.rint(x).clip(0, 255).astype(np.uint8))


def _with_halved_colours(x: Tensor) -> Tensor:
    """Images, ``[n, 3, H, W]``, of even sides, with colours of half the resolution."""
    weights = x.new_tensor([0.299, 0.587, 0.114])[:, None, None]  # ITU-R BT.601
    brightness = (weights * x).sum(1, keepdim=True)
    colours = F.interpolate(
        F.avg_pool2d(x - brightness, 2), scale_factor=2.0, mode="bilinear"
    )
    return brightness + colours - (weights * colours).sum(1, keepdim=True)


def _detail(crops: np.ndarray) -> np.ndarray:
    """Mean size of the two gradients, in levels per pixel, ``[n]``."""
    levels = crops.astype(np.int16)
    differences = (np.diff(levels, axis=axis) for axis in (2, 3))
    return sum(np.abs(d).mean((1, 2, 3), dtype=np.float64) for d in differences)


def _spread(photographs: list[np.ndarray], size: int, seed: int) -> Tensor:
    """Standard deviations of coefficients, ``[192]``; of means, what is news."""
    crops = draw_crops(photographs, SPREAD_CROPS, size, np.random.default_rng(seed))
    deviation = forward_dct(crops).std((0, 2, 3)).clamp(min=0.1)  # grey ones have no colour
    deviation[:3] *= MEAN_SHARE
    return deviation.float()


# ---- the model ----


@torch.no_grad()
def _copy(trained: CoefficientPrior, prior: CoefficientPrior) -> None:
    """Start a network from another. Weights are relative to the unit: any will do."""
    prior.layers.load_state_dict(trained.layers.state_dict())
    prior.dc_predictor.copy_(trained.dc_predictor)
    prior.coefficient_std.copy_(trained.coefficient_std)


def _initial_model(
    config: CosineTrainingConfig, photographs: list[np.ndarray]
) -> CosineUQDM:
    torch.manual_seed(config.seed)
    net = CosineUQDM(config.model())
    if config.initial:
        trained = CosineUQDM.from_checkpoint(config.initial)
        if trained.config.hidden != config.hidden:
            raise ValueError(
                f"--hidden must be {trained.config.hidden}, as in {config.initial}, got "
                f"{config.hidden}"
            )
        for prior in net.latent_priors:
            ratios = [
                abs(math.log(t.trained_step / prior.trained_step))
                for t in trained.latent_priors
            ]
            _copy(trained.latent_priors[int(np.argmin(ratios))], prior)
        net.pixel_prior.network.load_state_dict(trained.pixel_prior.network.state_dict())
        if trained.config.quantization_steps == net.config.quantization_steps:
            net.picture_filters.load_state_dict(trained.picture_filters.state_dict())  # type: ignore[attr-defined]
    else:
        spread = _spread(photographs, config.crop_size, config.seed)
        for prior in net.latent_priors:
            prior.coefficient_std.copy_(spread)
    net.update()
    return net


# ---- what is trained, one after another ----


class Phase:
    """A part of a model that is trained while all others stay as they are.

    Attributes:
        title: what it is.
        weights: what is trained.
        unit: what its loss is in.
    """

    title: str
    weights: list[nn.Parameter]
    unit = "bpp"

    def loss(self, levels: Tensor, rng: np.random.Generator) -> Tensor:
        """The loss of crops, uint8, ``[n, 3, H, W]``; noise is PyTorch's."""
        raise NotImplementedError

    def after_step(self) -> None:
        """What keeps the weights within bounds."""

    def measure(self, crops: Tensor) -> dict[str, float]:
        """What held-out crops say."""
        raise NotImplementedError

    def finish(self) -> None:
        """Put what was learned into the model."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the model."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""


class StagePhase(Phase):
    """The stages of coefficients that share a network.

    Args:
        net: the model.
        network: its place among those of the model.
    """

    def __init__(self, net: CosineUQDM, network: int):
        self.net, self.prior = net, net.latent_priors[network]
        self.stages = net.config.stages(network)
        self.title = _title(net.config, network)
        self.weights = [self.prior.dc_predictor, *self.prior.layers.parameters()]

    def loss(self, levels: Tensor, rng: np.random.Generator) -> Tensor:
        thresholds = list(self.net.config.dead_zones)
        for stage in self.stages:
            thresholds[stage] *= rng.uniform(*THRESHOLDS)
        taught = self.net.training_likelihoods(levels, thresholds)
        # later stages are not asked for
        bits = [-p.log2().sum() for p, _ in itertools.islice(taught, self.stages[-1] + 1)]
        return torch.stack([bits[i] for i in self.stages]).sum() / levels[:, 0].numel()

    def measure(self, crops: Tensor) -> dict[str, float]:
        """The loss, the bits that are sent up to the last stage, and its picture's PSNR."""
        loss = sent = squares = 0.0
        for levels in crops.split(TEST_BATCH):
            taught = itertools.islice(
                self.net.training_likelihoods(levels), self.stages[-1] + 1
            )
            for stage, (p, latent) in enumerate(taught):
                assert latent.posterior is not None
                bits = -p.log2()
                sent += bits[latent.order.planes(latent.posterior.coded)].sum().item()
                loss += bits.sum().item() * (stage in self.stages)
            x_hat = self.net.reconstruct(latent, "denoise", 0)
            squares += (x_hat.double() - levels).square().sum().item()
        pixels = crops[:, 0].numel()
        psnr = _psnr(squares / crops.numel())
        return {"loss": loss / pixels, "bpp": sent / pixels, "psnr": psnr}


class PixelPhase(Phase):
    """The prior of the pixels, after all stages."""

    title = "the pixels"

    def __init__(self, net: CosineUQDM):
        self.net = net
        self.network = net.pixel_prior.network.set_trained(True)
        self.weights = list(self.network.parameters())

    def loss(self, levels: Tensor, rng: np.random.Generator) -> Tensor:
        bits = pixel_bits(self.network, pixel_crops(self.net, levels)).sum()
        return bits / levels[:, 0].numel()

    def after_step(self) -> None:
        self.network.keep_sums_small()

    def measure(self, crops: Tensor) -> dict[str, float]:
        """Bits of the exact end alone."""
        batches = crops.split(TEST_BATCH)
        bits = sum(
            pixel_bits(self.network, pixel_crops(self.net, b)).sum().item() for b in batches
        )
        return {"bpp": bits / crops[:, 0].numel()}

    def finish(self) -> None:
        self.network.set_trained(False).check()


class PicturePhase(Phase):
    """The networks of the pictures of all stages."""

    title, unit = "pictures", "of the error"

    def __init__(self, net: CosineUQDM):
        self.net, self.networks = net, net.picture_filters
        for network in self.networks:
            if network.is_identity:  # one of zeros would not learn
                network.reset_parameters()
            network.set_trained(True)
        self.weights = [w for network in self.networks for w in network.parameters()]

    def _errors(self, levels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Squared errors of every stage's picture, before and after."""
        x = levels.float()
        for network, (_, latent) in zip(
            self.networks, self.net.training_likelihoods(levels)
        ):
            crops = crops_of(self.net, latent, levels)
            found = filtered(network, crops)
            yield (crops.positions - x).square().sum(), (found - x).square().sum()

    def loss(self, levels: Tensor, rng: np.random.Generator) -> Tensor:
        shares = [after / before for before, after in self._errors(levels)]
        return torch.stack(shares).mean()

    def after_step(self) -> None:
        for network in self.networks:
            network.keep_sums_small()

    def measure(self, crops: Tensor) -> dict[str, float]:
        """PSNR of every stage's picture, and what it gained, in dB."""
        squares = np.zeros((len(self.networks), 2))
        for levels in crops.split(TEST_BATCH):
            squares += [[e.item() for e in errors] for errors in self._errors(levels)]
        psnr = [[_psnr(mse) for mse in stage] for stage in squares / crops.numel()]
        found = {f"psnr {i}": after for i, (_, after) in enumerate(psnr, 1)}
        gains = {f"gain {i}": after - before for i, (before, after) in enumerate(psnr, 1)}
        return found | gains

    def finish(self) -> None:
        for network in self.networks:
            network.set_trained(False).check()


def _title(config: CosineConfig, network: int) -> str:
    widths = [str(config.quantization_steps[stage]) for stage in config.stages(network)]
    return "cells of " + " and ".join(widths)


def _psnr(mse: float) -> float:
    return 10 * math.log10(255**2 / max(mse, 1e-9))


# ---- the run ----


class CosineRun:
    """A run, new or where it was left.

    Args:
        config: what it is.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: photographs or weights do not fit, or there is another run's checkpoint
            beside the output.
    """

    def __init__(self, config: CosineTrainingConfig):
        self.config = config
        check_output(config.output.parent)
        self.photographs = read_photographs(config.photographs, "train", config)
        self.tests: Tensor | None = None
        if config.test:
            held_out = read_photographs(config.test, "test", config)
            rng = np.random.default_rng(config.seed + 1)
            self.tests = draw_crops(held_out, config.test_crops, config.crop_size, rng, 1)
        self.net = _initial_model(config, self.photographs)
        networks = range(len(self.net.config.networks))
        self.titles = [_title(self.net.config, network) for network in networks]
        self.titles += ["pixels", "pictures"]
        self.interruption = Interruption(announce=True)
        counted = {"number of photographs, by factor": str(len(self.photographs))}
        self.identity = counted | config.identity()
        self.phase, self.step, self.seconds = 0, 0, 0.0
        self.recent: list[float] = []  # losses since the last record
        self.records: list[dict[str, Any]] = [
            {"of": title, "loss": [], "test": []} for title in self.titles
        ]
        config.output.parent.mkdir(parents=True, exist_ok=True)
        self._resume()

    def _begin(self) -> None:
        """Freeze all but this phase's weights; a network starts from the one before."""
        self.net.requires_grad_(False)
        torch.manual_seed(self.config.seed)  # networks that start from nothing are drawn
        n_networks = len(self.net.latent_priors)
        if self.phase < n_networks:
            if self.phase and not self.config.initial:
                priors = self.net.latent_priors
                _copy(priors[self.phase - 1], priors[self.phase])
            self.part: Phase = StagePhase(self.net, self.phase)
        elif self.phase == n_networks:
            self.part = PixelPhase(self.net)
        elif self.phase == n_networks + 1:
            self.part = PicturePhase(self.net)
        else:
            return
        for weight in self.part.weights:
            weight.requires_grad_(True)
        self.average = [weight.detach().clone() for weight in self.part.weights]
        self.optimizer = torch.optim.Adam(self.part.weights, betas=(0.9, 0.99), fused=True)

    def _resume(self) -> None:
        """Go on from the checkpoint beside the output, if there is one."""
        path = self.config.checkpoint
        found = find_checkpoint(path, self.identity)
        if found is None:
            self._begin()
            return
        try:
            self.phase, self.step = int(found["phase"]), int(found["step"])
            self.recent, self.records = found["recent"], found["records"]
            self.seconds = found["seconds"]
            self._begin()
            self.net.load_state_dict(found["state_dict"])
            self.part.load_state(found["part"])
            self.average = found["average"]
            self.optimizer.load_state_dict(found["optimizer"])
        except (
            *(AttributeError, IndexError, KeyError),
            *(RuntimeError, TypeError, ValueError),
        ) as error:
            raise ValueError(
                f"cannot go on from {path}: it is none of this trainer's ({error!r}). Give "
                "another output"
            ) from error

    def train(self) -> int:
        """Train all stages, or until SIGINT (Ctrl-C) or SIGTERM comes, and a step is done.

        Returns:
            the number of the signal, or 0 at the end of the run.

        Raises:
            FloatingPointError: the loss is not finite, or weights became too large.
            KeyboardInterrupt: at a second Ctrl-C, at once.
        """
        with self.interruption:
            while self.phase < len(self.titles) and not self.interruption.signal:
                self._train_phase()
                self._save()
            if not self.interruption.signal:
                self.net.save_integers(self.config.output)
                self._write_log()
        return self.interruption.signal

    def _train_phase(self) -> None:
        config, record = self.config, self.records[self.phase]
        bar = StepBar(self.step, config.steps, True, self.part.unit)
        resumed = f", from step {self.step}" if self.step else ""
        bar.say(f"{self.phase + 1} of {len(self.titles)}: {self.part.title}{resumed}")
        if not self.step and not record["test"]:
            self._test(bar)
        saved = time.monotonic()
        while self.step < config.steps and not self.interruption.signal:
            since = time.perf_counter()
            self.recent.append(self._make_step())
            self.step += 1
            seconds = time.perf_counter() - since
            self.seconds += seconds
            bar.update(self.recent[-1], seconds)
            is_last = self.step == config.steps
            if self.step % config.log_every == 0 or is_last:
                mean = {"step": self.step, "loss": float(np.mean(self.recent))}
                record["loss"].append(mean)
                self.recent = []
            if self.step % config.test_every == 0 or is_last:
                self._test(bar)
            due = time.monotonic() - saved > 60 * config.checkpoint_minutes
            if not is_last and (due or self.step % config.checkpoint_every == 0):
                self._save()
                saved = time.monotonic()
        bar.close()
        if self.step == config.steps:
            self._take_average()
            self.part.finish()
            self.phase, self.step = self.phase + 1, 0
            self._begin()

    def _make_step(self) -> float:
        """One step: its loss."""
        config = self.config
        key = example_key(config.seed, self.phase * config.steps + self.step)
        torch.manual_seed(key)
        rng = np.random.default_rng(key)
        levels = draw_crops(self.photographs, config.batch_size, config.crop_size, rng)
        levels = vary(levels, rng)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        loss = self.part.loss(levels, rng)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.part.weights, CLIP_NORM)
        if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
            raise FloatingPointError(
                f"the loss or its gradient is not finite at step {self.step + 1} of "
                f"{self.part.title}: try smaller learning rates. The last checkpoint, if "
                f"any, is {config.checkpoint}"
            )
        self.optimizer.step()
        self.part.after_step()
        kept = min(AVERAGE, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for average, weight in zip(self.average, self.part.weights):
                average.lerp_(weight, 1 - kept)
        return loss.item()

    @torch.no_grad()
    def _take_average(self) -> None:
        """Exchange the weights and their average."""
        for average, weight in zip(self.average, self.part.weights):
            weight_now = weight.clone()
            weight.copy_(average)
            average.copy_(weight_now)

    def _rate(self) -> float:
        config = self.config
        is_warm = 0 < self.phase < len(self.net.latent_priors) or config.initial
        peak = config.warm_learning_rate if is_warm else config.learning_rate
        begun = min(1, (self.step + 1) / max(config.warmup, 1))
        decayed = 0.5 + 0.5 * math.cos(math.pi * self.step / config.steps)
        return peak * begun * (decayed + LAST_RATE)

    def _test(self, bar: StepBar) -> None:
        """Measure the held-out crops."""
        if self.tests is None:
            return
        self._take_average()
        torch.manual_seed(self.config.seed)
        with torch.no_grad():
            values = self.part.measure(self.tests)
        self._take_average()
        self.records[self.phase]["test"].append({"step": self.step, **values})
        words = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        bar.say(f"held out, after step {self.step}: {words}")

    def _save(self) -> None:
        """Write a checkpoint and the log, unless weights can no longer be integers."""
        try:
            for prior in self.net.latent_priors:
                for _, _, group in prior.steps():
                    group.check()
        except ValueError as error:
            raise FloatingPointError(
                f"{error}: try smaller learning rates. The last checkpoint, if any, is "
                f"{self.config.checkpoint}"
            ) from error
        checkpoint = {
            "state_dict": self.net.state_dict(),
            "part": self.part.state(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "phase": self.phase,
            "step": self.step,
            "seconds": self.seconds,
            "recent": self.recent,
            "records": self.records,
        }
        save_checkpoint(self.config.checkpoint, checkpoint, self.identity)
        self._write_log()

    def _write_log(self) -> None:
        """Write what was measured, in bits per pixel and dB."""
        text = {
            "arguments": {name: str(v) for name, v in asdict(self.config).items()},
            "seconds": round(self.seconds, 1),
            "stages": self.records,
        }
        with write_atomically(self.config.log) as file:
            file.write((json.dumps(text, indent=1) + "\n").encode())
