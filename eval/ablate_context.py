"""What the parts of the context prior are worth, stage by stage.

    python eval/ablate_context.py uqdm-tiny photographs/ patches.npy --json ablation.json

Fits contexts anew, few steps each, and gives the bits of the latent stages of the
patches beside those without a context: the linear path alone, 6 groups (halves of the
checkerboard by colour), 12 groups, and the last with the codec's tables.
"""

import argparse
import json
import math
import sys
import tempfile

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from accelerate import Accelerator
from compressai.zoo import image_models

from compressai_uqdm.bitstream.symbols import RateEstimator
from compressai_uqdm.entropy_models.coding_order import CODING_ORDER, subset
from compressai_uqdm.entropy_models.uniform_noise import UniformNoiseConditional
from compressai_uqdm.families.uqdm.context_network import LatentContextNetwork
from compressai_uqdm.families.uqdm.context_prior import ContextConditional
from compressai_uqdm.quantization.lattice import LATTICE
from compressai_uqdm.training.context import (
    ContextLoss,
    ContextPhase,
    StageData,
    collect,
)
from compressai_uqdm.training.data import read_crops
from compressai_uqdm.training.phase import Phase
from compressai_uqdm.training.run import Run
from compressai_uqdm.training.settings import ContextSettings


def whole(prior: UniformNoiseConditional) -> ContextLoss:
    return ContextLoss(LatentContextNetwork(), prior)


def linear(prior: UniformNoiseConditional) -> ContextLoss:
    context = whole(prior)
    for layer in (context.network.mix, context.network.head):
        layer.weight.data.zero_()
        layer.weight.register_hook(torch.zeros_like)
    return context


def six_groups(prior: UniformNoiseConditional) -> ContextLoss:
    context = whole(prior)
    six = [3 * (g // 6) + g % 3 for g in range(len(CODING_ORDER))]
    context.visible = [[s for s in range(12) if six[s] < six[g]] for g in range(12)]
    return context


def as_learned() -> AbstractContextManager[object]:
    """The last layer is not refitted to pictures."""
    module = "compressai_uqdm.entropy_models.head_adaptation"
    return patch(
        f"{module}.adapt_head", lambda hidden, *_: np.zeros((2, len(hidden) + 1), int)
    )


def run_phase(make: Callable[[ContextSettings], Phase], **settings: Any) -> None:
    """Run one phase of training, with its files in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        given = ContextSettings("", Path(), Path(folder) / "context.npz", **settings)
        Run(given, {}, [lambda: make(given)], Accelerator()).train()


def fit(context: ContextLoss, data: StageData, steps: int, name: str) -> None:
    """Fit a context network."""
    networks = torch.nn.ModuleList([context])
    run_phase(lambda given: ContextPhase(name, context, data, given, steps, networks))


def bits_of(prior: UniformNoiseConditional, v: torch.Tensor, scales: torch.Tensor) -> float:
    return prior.log_likelihood(v, scales).sum().item() / -math.log(2)


def integer_bits(
    context: ContextLoss, data: StageData, conditional: ContextConditional
) -> float:
    """Bits with the codec's shifts and table entries."""
    conditional.context = context.network
    indexes = conditional.build_indexes(data.scales).numpy()
    bits = 0.0
    for residual, index in zip(data.residuals.numpy().astype(np.int32), indexes):
        correction = conditional.context_model(index)
        for g in range(len(CODING_ORDER)):
            r = subset(residual, g)
            with as_learned():
                d, i = correction.entropy_parameters(RateEstimator(), g, r)
            v = torch.from_numpy((r - d) / LATTICE)
            scales = conditional.scale_table[torch.from_numpy(i).long()]
            bits += bits_of(conditional, v, scales)
            correction.on_decoded(g, r)
    return bits


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", choices=[m for m in image_models if m.startswith("uqdm")])
    parser.add_argument("photographs", type=Path, help="folder to fit on")
    parser.add_argument("patches", type=Path, help=".npy of [n, 64, 64, 3] to measure on")
    parser.add_argument("--crops", type=int, default=240)
    parser.add_argument("--max-factor", type=int, default=5, help="largest box average")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    args = parser.parse_args(argv)

    net = image_models[args.model](1, pretrained=True)
    crops = read_crops(args.photographs, args.crops, args.max_factor, seed=2)
    T = net.config.n_timesteps
    fitted, _ = collect(net, crops, T)
    patches = torch.from_numpy(np.load(args.patches)).permute(0, 3, 1, 2).contiguous()
    measured, _ = collect(net, patches, T)
    pixels = patches[:, 0].numel()

    variants = {"linear only": linear, "6 groups": six_groups, "12 groups": whole}
    table: dict[str, list[float]] = {
        name: [] for name in ["none", *variants, "12, integers"]
    }
    for stage, (prior, train, test) in enumerate(zip(net.latent_priors, fitted, measured)):
        none = bits_of(prior, test.residuals / LATTICE, test.scales)
        table["none"].append(none / pixels)
        for name, make in variants.items():
            torch.manual_seed(0)
            context = make(prior)
            fit(context, train, args.steps, f"stage {stage + 1}, {name}")
            with torch.no_grad():
                bits = [context(r[None], s[None]).sum() for r, s in zip(*test)]
            table[name].append(sum(bits).item() / pixels)
        conditional = ContextConditional(prior.prior_type)
        conditional.quantiles = prior.quantiles
        conditional.update()
        integers = integer_bits(context, test, conditional)
        table["12, integers"].append(integers / pixels)
    for name, bpp in table.items():
        against = 100 * (
            np.array([*bpp, sum(bpp)]) / [*table["none"], sum(table["none"])] - 1
        )
        print(f"{name:14}", *(f"{b:8.4f}" for b in bpp), *(f"{a:7.2f}%" for a in against))
    if args.json:
        data = {"steps": args.steps, "crops": args.crops, "bpp of stage": table}
        args.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
