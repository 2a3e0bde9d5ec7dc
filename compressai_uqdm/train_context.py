"""Fit the context prior of a UQDM whose weights stay as they are.

    python -m compressai_uqdm.train_context uqdm-tiny photographs/ context.npz

The UQDM codes crops of the photographs, at several scales, once; the context networks
of its stages are then fitted to the residuals, in floats, and rounded to the integers
that the codec computes with.
"""

import argparse
import json
import math
import random
import sys

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .entropy_models.context import (
    HIDDEN_BITS,
    HIDDEN_MAX,
    INPUT_BITS,
    INPUT_MAX,
    LOG_SCALE_MAX,
    SHIFT_MAX,
    WEIGHT_BITS,
    ContextPrior,
    load_contexts,
    save_contexts,
    shapes,
)
from .entropy_models.dither import LATTICE, dither
from .entropy_models.groups import GROUPS
from .entropy_models.uniform_noise import logistic_log_likelihood
from .models import UQDM
from .models.diffusion import image_to_levels, levels_to_x
from .zoo import load_model

CROP = 64

# What 1 is in the fixed-point numbers of each parameter.
FIXED_POINT = {
    "conv": 2**WEIGHT_BITS,
    "conv_bias": 2 ** (INPUT_BITS + WEIGHT_BITS),
    "mix": 2**WEIGHT_BITS,
    "mix_bias": 2 ** (HIDDEN_BITS + WEIGHT_BITS),
    "head": 2**WEIGHT_BITS,
    "head_bias": 2 ** (HIDDEN_BITS + WEIGHT_BITS),
}


class StageData(NamedTuple):
    """What one stage of all crops looks like to its context."""

    residuals: Tensor  # k N - j, int16, [n, 3, 64, 64]
    scales: Tensor  # standard deviations of the prior, [n, 3, 64, 64]


class FloatContext(nn.Module):
    """The context network in floats: :class:`.ContextPrior` before rounding.

    Attributes:
        visible: the groups that each group sees; all before it.
    """

    conv: nn.Parameter
    conv_bias: nn.Parameter
    mix: nn.Parameter
    mix_bias: nn.Parameter
    head: nn.Parameter
    head_bias: nn.Parameter

    def __init__(self) -> None:
        super().__init__()
        self.visible = [range(g) for g in range(len(GROUPS))]
        for name, shape in shapes().items():
            parameter = nn.Parameter(torch.zeros(shape))
            if name in ("conv", "mix"):
                nn.init.normal_(parameter, std=math.sqrt(1 / math.prod(shape[2:])))
            setattr(self, name, parameter)
        with torch.no_grad():
            self.conv[:, -1] = 0  # the linear path starts at nothing

    def forward(self, residuals: Tensor, scales: Tensor) -> Tensor:
        """Bits of all values, ``[12]``, summed by group, each seeing those before it."""
        r = residuals.float() / LATTICE
        deviation = (scales * scales + 1 / 12).sqrt()
        limit = INPUT_MAX / (1 << INPUT_BITS)
        revealed = torch.cat([r / deviation, r / 2], 1).clamp(-limit, limit)
        log_scales = scales.log2().clamp(-limit, limit)
        bits = []
        for g, (channel, (row, column)) in enumerate(GROUPS):
            known = torch.zeros_like(revealed)
            for seen in self.visible[g]:
                at = _where(seen)
                known[at] = revealed[at]
            inputs = F.pad(torch.cat([known, log_scales], 1), (2, 2, 2, 2))
            sums = F.conv2d(
                inputs[:, :, row:, column:], self.conv[g], self.conv_bias[g], stride=2
            )
            linear, largest = sums[:, -1], HIDDEN_MAX / (1 << HIDDEN_BITS)
            h = sums[:, :-1].clamp(0, largest)
            h = (
                torch.einsum("oi,bihw->bohw", self.mix[g], h)
                + self.mix_bias[g][:, None, None]
            )
            h = h.clamp(0, largest)
            shift, change = (
                torch.einsum("i,bihw->bhw", self.head[g, o], h) + self.head_bias[g, o]
                for o in (0, 1)
            )
            where = (slice(None), channel, slice(row, None, 2), slice(column, None, 2))
            d = ((shift + linear) * deviation[where]).clamp(-SHIFT_MAX, SHIFT_MAX)
            s = scales[where] * 2 ** change.clamp(-LOG_SCALE_MAX, LOG_SCALE_MAX)
            bits.append(logistic_bits(r[where] - d, s).sum())
        return torch.stack(bits)

    @torch.no_grad()
    def to_integers(self) -> ContextPrior:
        """The network that the codec uses."""
        context = ContextPrior()
        for name, parameter in self.named_parameters():
            getattr(context, name).copy_((parameter * FIXED_POINT[name]).round())
        context.check()
        return context

    @torch.no_grad()
    def from_integers(self, context: ContextPrior) -> None:
        """Inverse of :meth:`to_integers`, to go on from."""
        for name, parameter in self.named_parameters():
            parameter.copy_(getattr(context, name) / FIXED_POINT[name])


def _where(g: int) -> tuple[slice, slice, slice, slice]:
    """Where a group's residuals stand among those of all, each there twice."""
    channel, (row, column) = GROUPS[g]
    channels = slice(channel, None, 3)
    return slice(None), channels, slice(row, None, 2), slice(column, None, 2)


def logistic_bits(v: Tensor, scale: Tensor) -> Tensor:
    """Bits of a value at v from the prior's location, under noise of width 1."""
    return -logistic_log_likelihood(v, scale) / math.log(2)


def read_crops(photographs: list[Path], count: int, scales: list[int], seed: int) -> Tensor:
    """Crops of photographs, box-averaged by whole factors: uint8, ``[n, 3, 64, 64]``.

    All factors are equally frequent. Half of the crops get another brightness, contrast
    and white point, since few photographs show few of them.
    """
    rng = random.Random(seed)
    images: dict[int, list[np.ndarray]] = {}
    for path in photographs:
        image = np.asarray(Image.open(path).convert("RGB"), np.float32)
        for scale in scales:
            h, w = (side // scale for side in image.shape[:2])
            if min(h, w) >= CROP:
                boxes = image[: h * scale, : w * scale].reshape(h, scale, w, scale, 3)
                images.setdefault(scale, []).append(boxes.mean((1, 3)))
    if not images:
        raise ValueError(f"no photograph has {CROP} x {CROP} pixels")
    crops = []
    for _ in range(count):
        image = rng.choice(images[rng.choice(list(images))])
        y = rng.randrange(image.shape[0] - CROP + 1)
        x = rng.randrange(image.shape[1] - CROP + 1)
        crop = image[y : y + CROP, x : x + CROP]
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        if rng.random() < 0.5:
            contrast, brightness = rng.uniform(0.6, 1.2), rng.uniform(20, 235)
            white = np.array([rng.uniform(0.85, 1.15) for _ in range(3)])
            crop = ((crop - crop.mean()) * contrast + brightness) * white
        crops.append(np.rint(crop).clip(0, 255).astype(np.uint8))
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def collect(net: UQDM, crops: Tensor) -> list[StageData]:
    """Code the crops, each with a dither of its own, and keep what contexts see."""
    stages: list[list[tuple[Tensor, Tensor]]] = [[] for _ in net.priors]
    for seed, crop in enumerate(tqdm(crops.split(1), "coding crops")):
        x = levels_to_x(image_to_levels(crop / 255))
        latent = net.first_latent(crop.shape[1:], seed)
        for stage, prior in zip(stages, net.priors):
            step, p = latent.step, latent.prediction
            u = dither(seed, latent.stage, tuple(crop.shape[1:]))
            y = prior.quantize_universally(step.mean(latent.z, x) / step.delta, p.means, u)
            residual = ((y - p.means) * LATTICE).round().to(torch.int16)
            index = prior.build_indexes(p.scales).long()
            stage.append((residual, prior.scale_table[index]))
            latent = latent.next(y)
    return [StageData(*(torch.cat(t) for t in zip(*stage))) for stage in stages]


def fit(
    context: FloatContext, data: StageData, steps: int, batch: int, rate: float, name: str
) -> list[float]:
    """Fit the context of one stage; its bits per pixel, a mean of every fifty steps."""
    optimizer = torch.optim.Adam(context.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    log, recent = [], []
    order = torch.randperm(len(data.residuals))
    for step in (bar := tqdm(range(steps), name)):
        if (step + 1) * batch % len(order) < batch:
            order = torch.randperm(len(data.residuals))
        at = torch.arange(step * batch, (step + 1) * batch) % len(order)
        chosen = order[at]
        bits = context(data.residuals[chosen], data.scales[chosen]).sum()
        bpp = bits / (batch * CROP * CROP)
        optimizer.zero_grad()
        bpp.backward()
        optimizer.step()
        schedule.step()
        recent.append(bpp.item())
        if len(recent) == 50 or step + 1 == steps:
            log.append(float(np.mean(recent)))
            bar.set_postfix(bpp=f"{log[-1]:.4f}")
            recent = []
    return log


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m compressai_uqdm.train_context",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("model", help="model of the zoo, or a checkpoint's path")
    parser.add_argument("photographs", type=Path, help="folder of photographs")
    parser.add_argument("output", type=Path, help="file to write, .npz")
    parser.add_argument("--initial", type=Path, help="context to go on from")
    parser.add_argument("--crops", type=int, default=600)
    parser.add_argument("--scales", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--steps", type=int, default=1000, help="for each stage")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    path = Path(args.model)
    net = (
        UQDM.from_checkpoint(path)
        if path.exists()
        else load_model(args.model, quality=1, pretrained=True)
    )
    suffixes = (".png", ".jpg", ".jpeg")
    files = sorted(f for f in args.photographs.glob("*") if f.suffix.lower() in suffixes)
    if not files:
        raise SystemExit(f"no PNG or JPEG files in {args.photographs}")
    initial = [ContextPrior() for _ in net.priors]
    if args.initial:
        load_contexts(args.initial, initial)
    crops = read_crops(files, args.crops, args.scales, args.seed)
    contexts, log = [], dict[str, dict[str, Any]]()
    log["arguments"] = {k: str(v) for k, v in vars(args).items()}
    for i, data in enumerate(collect(net, crops)):
        stage = f"stage {i + 1}"
        before = (
            logistic_bits(data.residuals / LATTICE, data.scales).sum() / crops[:, 0].numel()
        )
        torch.manual_seed(args.seed)
        context = FloatContext()
        if args.initial:
            context.from_integers(initial[i])
        # what little the first stage holds is soon learned by heart
        steps = args.steps // 4 if i == 0 else args.steps
        bpp = fit(context, data, steps, args.batch_size, args.learning_rate, stage)
        contexts.append(context.to_integers())
        log[stage] = {"without": before.item(), "training": bpp}
        print(f"{stage}: {before:.4f} -> {bpp[-1]:.4f} bits per pixel", flush=True)
    save_contexts(args.output, contexts)
    args.output.with_suffix(".json").write_text(json.dumps(log, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
