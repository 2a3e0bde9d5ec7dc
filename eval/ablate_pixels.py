"""What the parts of the context prior of pixels are worth.

    python eval/ablate_pixels.py uqdm-tiny photographs/ held-out/ patches.npy \
      --json eval/results/ablation_pixels.json

Every variant is fitted anew, from nothing, with the same few steps on the same crops, and
measured on crops of other photographs and on patches, in bits per pixel of the last stage.
Latents and their noise are those that the codec sends, the same for all variants. So few
steps do not end at what a long fit gives: compare them with each other alone.
"""

import argparse
import json
import sys

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch

from ablate_context import as_learned, run_phase
from compressai.zoo import image_models
from torch import Tensor

from compressai_uqdm.entropy_models.coding_order import CODING_ORDER
from compressai_uqdm.families.uqdm.context_pixels import POSITION_BITS, LevelInterval
from compressai_uqdm.families.uqdm.interval_pixels import (
    PLANES,
    IntervalPixels,
    coefficients,
    positions,
)
from compressai_uqdm.families.uqdm.model import UQDM
from compressai_uqdm.families.uqdm.pixel_network import PixelNetwork, channel_of
from compressai_uqdm.levels import image_to_levels
from compressai_uqdm.training.data import read_crops
from compressai_uqdm.training.pixels import (
    PixelContextPhase,
    PixelData,
    PixelInputs,
    PixelLoss,
    pixel_data,
)

STAGES = 3
FITTED_FROM = 60  # crops that the linear paths start from


class Pictures(NamedTuple):
    """What the codec knows of some pictures before their pixels."""

    data: PixelData
    noise: Tensor  # of their last latents, in [-1/2, 1/2), [n, 3, H, W]
    known: list[LevelInterval]


@torch.no_grad()
def known_of(net: UQDM, pictures: Tensor) -> Pictures:
    """Code pictures, uint8 ``[n, 3, H, W]``, each with a dither of its own."""
    steps = net.noise_schedule.steps()[:STAGES]
    rows, prior = coefficients(steps), IntervalPixels()
    prior.update(steps)
    data, noise, known = [], [], []
    for seed, picture in enumerate(pictures.split(1)):
        levels = image_to_levels(picture / 255)
        latent = net.first_latent(levels.shape, seed)
        for _ in range(STAGES):
            _, latent = net.estimate_stage(latent, levels, seed)
        sent = latent.sent
        assert sent
        data.append(pixel_data(levels, sent, rows))
        known.append(prior.intervals(sent))
        v = positions(rows[-1], sent.points[-1], sent.points[-2])
        away = torch.from_numpy(v / (1 << POSITION_BITS)) - levels
        noise.append((away / PixelLoss(PixelNetwork(PLANES), rows).noise_width).float())
    return Pictures(PixelData(*map(torch.cat, zip(*data))), torch.cat(noise), known)


# ---- variants ----


class Anywhere(PixelLoss):
    """Sees the interval, and may not rely on it."""

    def inputs(self, data: PixelData, noise: Tensor) -> PixelInputs:
        inputs = super().inputs(data, noise)
        x, low, high, middle = inputs.pixels
        low, high = torch.full_like(low, -0.5), torch.full_like(high, 255.5)
        return inputs._replace(pixels=(x, low, high, middle))


class WithoutNetworksWord(PixelLoss):
    """Does not see what the denoiser said."""

    def inputs(self, data: PixelData, noise: Tensor) -> PixelInputs:
        inputs = super().inputs(data, noise)
        planes = inputs.planes.clone()
        planes[:, : 2 * len(CODING_ORDER)] = 0
        return inputs._replace(planes=planes)


class LastIntervals(PixelLoss):
    """Knows the intervals of the last stages only."""

    stages = 1

    def __init__(self, network: PixelNetwork, rows: np.ndarray):
        super().__init__(network, rows)
        self.half_lengths = self.half_lengths[-self.stages :]

    def inputs(self, data: PixelData, noise: Tensor) -> PixelInputs:
        before = data.before[:, data.before.shape[1] + 1 - self.stages :]
        return super().inputs(data._replace(before=before), noise)


class LastTwoIntervals(LastIntervals):
    stages = 2


def seeing(levels: Sequence[Sequence[int]]) -> Callable[..., PixelLoss]:
    """A loss under which each group sees the levels of those groups, and no others."""

    def make(network: PixelNetwork, rows: np.ndarray) -> PixelLoss:
        loss = PixelLoss(network, rows)
        known = torch.zeros(len(CODING_ORDER), len(CODING_ORDER), dtype=torch.bool)
        for g, before in enumerate(levels):
            known[g, [channel_of(b) for b in before]] = True
        loss.decoded = known
        return loss

    return make


def hidden(n: int) -> AbstractContextManager[object]:
    """Networks have so many hidden channels in every group."""
    return patch("compressai_uqdm.families.uqdm.pixel_network.HIDDEN", n)


ALL = range(len(CODING_ORDER))
VARIANTS: dict[str, tuple[Callable[..., PixelLoss], AbstractContextManager[object]]] = {
    "as it is": (PixelLoss, nullcontext()),
    "without context": (seeing([[] for _ in ALL]), nullcontext()),
    "4 groups: phases": (seeing([range(g // 3 * 3) for g in ALL]), nullcontext()),
    "any level, no interval": (Anywhere, nullcontext()),
    "interval of stage 3": (LastIntervals, nullcontext()),
    "intervals of stages 2 and 3": (LastTwoIntervals, nullcontext()),
    "without the denoiser's word": (WithoutNetworksWord, nullcontext()),
    "16 hidden channels": (PixelLoss, hidden(16)),
    "48 hidden channels": (PixelLoss, hidden(48)),
}
TO_INTEGERS = ("as it is",)
IN_INTEGERS = {
    "in integers": as_learned(),
    "in integers, refitted to each picture": nullcontext(),
}


def fit(network: PixelLoss, data: PixelData, steps: int) -> None:
    """Fit a network."""
    networks = torch.nn.ModuleList([network])
    run_phase(
        lambda given: PixelContextPhase(network, data, given, networks), pixel_steps=steps
    )


@torch.no_grad()
def bits_of(loss: PixelLoss, pictures: Pictures) -> float:
    """Bits per pixel in floats."""
    n = len(pictures.noise)
    bits = [
        loss(pictures.data.chosen(torch.tensor([i])), pictures.noise[i : i + 1]).sum()
        for i in range(n)
    ]
    return float(sum(bits)) / pictures.noise[:, 0].numel()


def integer_bits(network: PixelNetwork, net: UQDM, pictures: Pictures) -> float:
    """Bits per pixel with the integers and tables of the codec."""
    prior = IntervalPixels(network)
    prior.update(net.noise_schedule.steps()[:STAGES])
    levels = pictures.data.levels.numpy()
    likelihoods = [prior.likelihoods(x, known) for x, known in zip(levels, pictures.known)]
    return -float(np.log2(likelihoods).sum()) / pictures.noise[:, 0].numel()


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", choices=[m for m in image_models if m.startswith("uqdm")])
    parser.add_argument("photographs", type=Path, help="folder to fit on")
    parser.add_argument("held_out", type=Path, help="folder of others to measure on")
    parser.add_argument("patches", type=Path, help=".npy of [n, 64, 64, 3] to measure on")
    parser.add_argument("--crops", type=int, default=400)
    parser.add_argument("--held-out-crops", type=int, default=96)
    parser.add_argument("--max-factor", type=int, default=5, help="largest box average")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--json", type=Path, help="file to write the results to")
    args = parser.parse_args(argv)

    net = image_models[args.model](1, pretrained=True)
    rows = coefficients(net.noise_schedule.steps()[:STAGES])
    crops = read_crops(args.photographs, args.crops, args.max_factor, seed=2)
    train = known_of(net, crops)
    others = read_crops(args.held_out, args.held_out_crops, args.max_factor, seed=3)
    patches = torch.from_numpy(np.load(args.patches)).permute(0, 3, 1, 2).contiguous()
    measured = {"held out": known_of(net, others), "patches": known_of(net, patches)}

    table: dict[str, dict[str, float]] = {}
    for name in args.only:
        make, setting = VARIANTS[name]
        torch.manual_seed(0)
        with setting:
            loss = make(PixelNetwork(PLANES), rows)
            loss.start(train.data.chosen(torch.arange(min(FITTED_FROM, len(crops)))))
            fit(loss, train.data, args.steps)
            table[name] = {k: bits_of(loss, p) for k, p in measured.items()}
        if name in TO_INTEGERS:
            for row, how in IN_INTEGERS.items():
                with how:
                    table[f"{name}, {row}"] = {
                        k: integer_bits(loss.network, net, p) for k, p in measured.items()
                    }
        first = next(iter(table.values()))
        for row in [r for r in table if r.startswith(name)]:
            shown = (f"{table[row][k]:7.4f} {table[row][k] - first[k]:+.4f}" for k in first)
            print(f"{row:64}", *shown, flush=True)
        if args.json:
            data = {"model": args.model, "steps": args.steps, "crops": args.crops}
            data |= {"bpp of the last stage": table}
            args.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
