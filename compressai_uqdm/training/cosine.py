"""Training of the priors in the cosine basis, a stage after another, then of the pixels.

A stage learns on top of those before it, which are frozen by then: their only part in it
is which coefficients they sent, and in which cells these lie. The loss is the bits of all
of its coefficients, sent or not. Its threshold varies, so that a file may choose it.
"""

import contextlib
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

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..atomic import write_atomically
from ..basis import BLOCK, to_cosines
from ..datasets import Photographs
from ..entropy_models.latents.cosine import CosineConditional
from ..models import CosineConfig, CosineUQDM
from .bar import StepBar
from .batches import example_key
from .checkpoints import find_checkpoint, save_checkpoint
from .config import Settings, changeable
from .cosine_pixels import FloatWindows, pixel_crops
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
        initial: weights to start from; each stage from the one of the nearest width.
        widths: of the stages' cells, in levels.
        thresholds: of the stages, see :class:`CosineConfig`.
        hidden: width of the state of a block.
        steps: for each stage, and for the pixels.
        batch_size: crops in a step.
        crop_size: side of crops, in pixels.
        min_factor: smallest factor that photographs are box-averaged by.
        max_factor: largest one.
        learning_rate: of Adam, for a stage that starts from nothing.
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
    widths: tuple[int, ...] = CosineConfig.widths
    thresholds: tuple[float, ...] = CosineConfig.thresholds
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
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "thresholds", tuple(self.thresholds))
        CosineConfig(self.widths, self.thresholds, self.hidden)  # raises
        if self.output.suffix != ".npz":
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
    """Crops, uint8, ``[n, 3, H, W]``, some with grain or another contrast."""
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
    return torch.from_numpy(np.rint(x).clip(0, 255).astype(np.uint8))


def _detail(crops: np.ndarray) -> np.ndarray:
    """Mean size of the two gradients, in levels per pixel, ``[n]``."""
    levels = crops.astype(np.int16)
    differences = (np.diff(levels, axis=axis) for axis in (2, 3))
    return sum(np.abs(d).mean((1, 2, 3), dtype=np.float64) for d in differences)


def _spread(photographs: list[np.ndarray], size: int, seed: int) -> Tensor:
    """Standard deviations of coefficients, ``[192]``; of means, what is news."""
    crops = draw_crops(photographs, SPREAD_CROPS, size, np.random.default_rng(seed))
    deviation = to_cosines(crops).std((0, 2, 3)).clamp(min=0.1)  # grey ones have no colour
    deviation[:3] *= MEAN_SHARE
    return deviation.float()


# ---- the model ----


@torch.no_grad()
def _copy(trained: CosineConditional, prior: CosineConditional) -> None:
    """Start a stage from another. Weights are relative to the width: any will do."""
    prior.groups.load_state_dict(trained.groups.state_dict())
    prior.neighbours.copy_(trained.neighbours)
    prior.spread.copy_(trained.spread)


def _initial_model(
    config: CosineTrainingConfig, photographs: list[np.ndarray]
) -> CosineUQDM:
    torch.manual_seed(config.seed)
    net = CosineUQDM(CosineConfig(config.widths, config.thresholds, config.hidden))
    if config.initial:
        trained = CosineUQDM.from_checkpoint(config.initial)
        if trained.config.hidden != config.hidden:
            raise ValueError(
                f"--hidden must be {trained.config.hidden}, as in {config.initial}, got "
                f"{config.hidden}"
            )
        for prior in net.latent_priors:
            ratios = [abs(math.log(t.width / prior.width)) for t in trained.latent_priors]
            _copy(trained.latent_priors[int(np.argmin(ratios))], prior)
        net.pixel_prior.network.load_state_dict(trained.pixel_prior.network.state_dict())
    else:
        spread = _spread(photographs, config.crop_size, config.seed)
        for prior in net.latent_priors:
            prior.spread.copy_(spread)
    net.update()
    return net


@torch.no_grad()
def _measure(net: CosineUQDM, crops: Tensor, stages: int, seed: int) -> dict[str, float]:
    """The loss of a stage, the bits that are sent up to it, and its picture's PSNR."""
    torch.manual_seed(seed)
    loss = sent = squares = 0.0
    for levels in crops.split(TEST_BATCH):
        for p, latent in itertools.islice(net.teach(levels), stages):
            assert latent.known is not None
            bits = -p.log2()
            sent += bits[latent.known.sent].sum().item()
        loss += bits.sum().item()
        x_hat = net.reconstruct(latent, "denoise", seed)
        squares += (x_hat.double() - levels).square().sum().item()
    pixels = crops[:, 0].numel()
    mse = max(squares / crops.numel(), 1e-9)
    psnr = 10 * math.log10(255**2 / mse)
    return {"loss": loss / pixels, "bpp": sent / pixels, "psnr": psnr}


@torch.no_grad()
def _measure_pixels(
    net: CosineUQDM, windows: FloatWindows, crops: Tensor, seed: int
) -> dict[str, float]:
    """Bits per pixel of the exact end alone."""
    torch.manual_seed(seed)
    batches = crops.split(TEST_BATCH)
    bits = sum(windows(pixel_crops(net, levels)).sum().item() for levels in batches)
    return {"bpp": bits / crops[:, 0].numel()}


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
        self.photographs = read_photographs(config.photographs, "train", config)
        self.tests: Tensor | None = None
        if config.test:
            held_out = read_photographs(config.test, "test", config)
            rng = np.random.default_rng(config.seed + 1)
            self.tests = draw_crops(held_out, config.test_crops, config.crop_size, rng, 1)
        self.net = _initial_model(config, self.photographs)
        self.windows = FloatWindows()
        self.windows.from_integers(self.net.pixel_prior.network)
        self.interruption = Interruption(announce=True)
        counted = {"number of photographs, by factor": str(len(self.photographs))}
        self.identity = counted | config.identity()
        self.stage, self.step, self.seconds = 0, 0, 0.0
        self.recent: list[float] = []  # losses since the last record
        self.records: list[dict[str, Any]] = [
            {"width": width, "loss": [], "test": []} for width in [*config.widths, 1]
        ]
        config.output.parent.mkdir(parents=True, exist_ok=True)
        self._resume()

    @property
    def is_pixels(self) -> bool:
        """Whether all other stages are done."""
        return self.stage == len(self.config.widths)

    def _begin_stage(self) -> None:
        """Freeze all stages but this one, which starts from the one before it."""
        self.net.requires_grad_(False)
        if self.stage == self.net.n_stages:
            return
        if self.is_pixels:
            self.weights = list(self.windows.parameters())
        else:
            prior = self.net.latent_priors[self.stage]
            if self.stage and not self.config.initial:
                _copy(self.net.latent_priors[self.stage - 1], prior)
            self.weights = [prior.neighbours, *prior.groups.parameters()]
        for weight in self.weights:
            weight.requires_grad_(True)
        self.average = [weight.detach().clone() for weight in self.weights]
        self.optimizer = torch.optim.Adam(self.weights, betas=(0.9, 0.99), fused=True)

    def _resume(self) -> None:
        """Go on from the checkpoint beside the output, if there is one."""
        path = self.config.checkpoint
        found = find_checkpoint(path, self.identity)
        if found is None:
            self._begin_stage()
            return
        try:
            self.stage, self.step = found["stage"], found["step"]
            self.recent, self.records = found["recent"], found["records"]
            self.seconds = found["seconds"]
            self._begin_stage()
            self.net.load_state_dict(found["state_dict"])
            self.windows.load_state_dict(found["windows"])
            self.average = found["average"]
            self.optimizer.load_state_dict(found["optimizer"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
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
            while self.stage < self.net.n_stages and not self.interruption.signal:
                self._train_stage()
                self._save()
            if not self.interruption.signal:
                self.net.save_integers(self.config.output)
                self._write_log()
        return self.interruption.signal

    def _train_stage(self) -> None:
        config = self.config
        bar = StepBar(self.step, config.steps, True, "bpp")
        resumed = f", from step {self.step}" if self.step else ""
        width = self.records[self.stage]["width"]
        cells = "the pixels" if self.is_pixels else f"cells of {width}"
        bar.say(f"stage {self.stage + 1} of {self.net.n_stages}, {cells}{resumed}")
        if not self.step and not self.records[self.stage]["test"]:
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
                record = {"step": self.step, "bpp": float(np.mean(self.recent))}
                self.records[self.stage]["loss"].append(record)
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
            if self.is_pixels:
                self.net.pixel_prior.network = self.windows.to_integers()
                self.net.update(force=True)
            self.stage, self.step = self.stage + 1, 0
            self._begin_stage()

    def _make_step(self) -> float:
        """One step of the stage: its loss, in bits per pixel."""
        config = self.config
        key = example_key(config.seed, self.stage * config.steps + self.step)
        torch.manual_seed(key)
        rng = np.random.default_rng(key)
        levels = draw_crops(self.photographs, config.batch_size, config.crop_size, rng)
        levels = vary(levels, rng)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        if self.is_pixels:
            bits = self.windows(pixel_crops(self.net, levels)).sum()
        else:
            # earlier stages are frozen, later ones are not asked for
            with self._other_threshold(rng.uniform(*THRESHOLDS)):
                *_, (p, _) = itertools.islice(self.net.teach(levels), self.stage + 1)
            bits = -p.log2().sum()
        loss = bits / levels[:, 0].numel()
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.weights, CLIP_NORM)
        if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
            raise FloatingPointError(
                f"the loss or its gradient is not finite at step {self.step + 1} of stage "
                f"{self.stage + 1}: try smaller learning rates. The last checkpoint, if "
                f"any, is {config.checkpoint}"
            )
        self.optimizer.step()
        if self.is_pixels:
            self.windows.keep_sums_small()
        kept = min(AVERAGE, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for average, weight in zip(self.average, self.weights):
                average.lerp_(weight, 1 - kept)
        return loss.item()

    @contextlib.contextmanager
    def _other_threshold(self, factor: float) -> Iterator[None]:
        prior = self.net.latent_priors[self.stage]
        before, prior.threshold = prior.threshold, prior.threshold * factor
        try:
            yield
        finally:
            prior.threshold = before

    @torch.no_grad()
    def _take_average(self) -> None:
        """Exchange the weights and their average."""
        for average, weight in zip(self.average, self.weights):
            weight_now = weight.clone()
            weight.copy_(average)
            average.copy_(weight_now)

    def _rate(self) -> float:
        config = self.config
        is_warm = self.stage or config.initial
        peak = config.warm_learning_rate if is_warm else config.learning_rate
        begun = min(1, (self.step + 1) / max(config.warmup, 1))
        decayed = 0.5 + 0.5 * math.cos(math.pi * self.step / config.steps)
        return peak * begun * (decayed + LAST_RATE)

    def _test(self, bar: StepBar) -> None:
        """Measure the held-out crops."""
        if self.tests is None:
            return
        self._take_average()
        if self.is_pixels:
            values = _measure_pixels(self.net, self.windows, self.tests, self.config.seed)
        else:
            values = _measure(self.net, self.tests, self.stage + 1, self.config.seed)
        self._take_average()
        self.records[self.stage]["test"].append({"step": self.step, **values})
        if self.is_pixels:
            bar.say(f"held out, after step {self.step}: {values['bpp']:.4f} bits per pixel")
            return
        bar.say(
            f"held out, after step {self.step}: {values['bpp']:.4f} bits per pixel sent, "
            f"{values['psnr']:.2f} dB, loss {values['loss']:.4f}"
        )

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
            "windows": self.windows.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "stage": self.stage,
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
