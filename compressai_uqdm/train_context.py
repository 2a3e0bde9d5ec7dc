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

from torch import Tensor
from tqdm import tqdm

from .datasets import Photographs
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
from .entropy_models.uniform_noise import UniformNoiseConditional
from .models import UQDM
from .models.diffusion import image_to_levels, levels_to_x
from .models.windows import WINDOW
from .zoo import ARCHITECTURES, load_model

CROP = WINDOW

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

    Args:
        prior: the stage's prior, whose location and scale it corrects.

    Attributes:
        visible: the groups that each group sees; all before it.
    """

    conv: nn.Parameter
    conv_bias: nn.Parameter
    mix: nn.Parameter
    mix_bias: nn.Parameter
    head: nn.Parameter
    head_bias: nn.Parameter

    def __init__(self, prior: UniformNoiseConditional) -> None:
        super().__init__()
        self.log_likelihood = prior.log_likelihood
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
            bits.append(self.log_likelihood(r[where] - d, s).sum() / -math.log(2))
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


def read_crops(photographs: Path, count: int, max_factor: int, seed: int) -> Tensor:
    """Crops of a folder's photographs: uint8, ``[n, 3, 64, 64]``."""
    images = Photographs(photographs, max_factor=max_factor, vary_colours=True)
    rng = random.Random(seed)
    draws = [(rng.randrange(len(images)), rng.randrange(2**31)) for _ in range(count)]
    return images.batch(*zip(*draws))


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
    parser.add_argument("model", help="model of the zoo, or the path of a checkpoint")
    parser.add_argument("photographs", type=Path, help="folder of photographs")
    parser.add_argument("output", type=Path, help="file to write, .npz")
    parser.add_argument("--initial", type=Path, help="context to go on from")
    parser.add_argument("--crops", type=int, default=600)
    parser.add_argument("--max-factor", type=int, default=5, help="largest box average")
    parser.add_argument("--steps", type=int, default=1000, help="for each stage")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def _load(model: str) -> UQDM:
    if Path(model).exists():
        return UQDM.from_checkpoint(model)
    if model not in ARCHITECTURES:
        raise ValueError(
            f"{model} is neither a checkpoint nor one of {', '.join(ARCHITECTURES)}"
        )
    return load_model(model, quality=1, pretrained=True)


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    try:
        net = _load(args.model)
        initial = [ContextPrior() for _ in net.priors]
        if args.initial:
            load_contexts(args.initial, initial)
        crops = read_crops(args.photographs, args.crops, args.max_factor, args.seed)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{error}") from error
    contexts, log = [], dict[str, dict[str, Any]]()
    log["arguments"] = {k: str(v) for k, v in vars(args).items()}
    for i, (prior, data) in enumerate(zip(net.priors, collect(net, crops))):
        stage = f"stage {i + 1}"
        log_p = prior.log_likelihood(data.residuals / LATTICE, data.scales)
        before = log_p.sum() / (-math.log(2) * crops[:, 0].numel())
        torch.manual_seed(args.seed)
        context = FloatContext(prior)
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
