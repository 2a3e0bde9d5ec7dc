"""Fit the context priors of a UQDM whose weights stay as they are.

    python -m compressai_uqdm.train_context uqdm-tiny photographs/ context.npz

:mod:`.training.context` says how those of latents are fitted, :mod:`.training.pixels`
how that of the pixels is. These follow after all latent stages but the last.
"""

import argparse
import json
import math
import sys

from pathlib import Path
from typing import Any

import torch

from .entropy_models.contexts import Contexts, read_contexts, save_contexts
from .entropy_models.lattice import LATTICE
from .entropy_models.pixels.interval import coefficients
from .models import UQDM
from .training.context import FloatContext, collect, fit, read_crops
from .training.pixels import FloatPixels, fit_pixels
from .zoo import RECIPES


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m compressai_uqdm.train_context",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("model", help="model of the zoo, or the path of a checkpoint")
    parser.add_argument("photographs", type=Path, help="folder of photographs")
    parser.add_argument("output", type=Path, help="file to write, .npz")
    parser.add_argument("--initial", type=Path, help="contexts to go on from")
    parser.add_argument("--crops", type=int, default=600)
    parser.add_argument("--max-factor", type=int, default=5, help="largest box average")
    parser.add_argument("--steps", type=int, default=1000, help="for each latent stage")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--pixel-steps", type=int, default=4000, help="for the pixels")
    parser.add_argument("--pixel-batch-size", type=int, default=4)
    parser.add_argument("--pixel-learning-rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def _load(model: str) -> UQDM:
    if Path(model).exists():
        return UQDM.from_checkpoint(model)
    if model not in RECIPES:
        raise ValueError(f"{model} is neither a checkpoint nor one of {', '.join(RECIPES)}")
    net = RECIPES[model].load()
    if not isinstance(net, UQDM):
        raise ValueError(f"{model} has no latents that can be coded")
    return net


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    try:
        net = _load(args.model)
        sent = net.config.n_timesteps - 1
        if sent < 1:
            raise ValueError(f"{args.model} has one latent stage, and no context can help")
        if args.steps < 4 or args.pixel_steps < 1:
            raise ValueError(
                "expected --steps of 4 or more, a quarter of them for the first stage, and "
                f"--pixel-steps of 1 or more, got {args.steps} and {args.pixel_steps}"
            )
        initial = read_contexts(args.initial) if args.initial else None
        if initial and len(initial.latents) != sent:
            raise ValueError(
                f"{args.initial} is of {len(initial.latents)} latent stages, {args.model} "
                f"needs {sent}"
            )
        crops = read_crops(args.photographs, args.crops, args.max_factor, args.seed)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{error}") from error
    latents, log = [], dict[str, dict[str, Any]]()
    log["arguments"] = {k: str(v) for k, v in vars(args).items()}
    stages, pixel_data = collect(net, crops, sent)
    for i, (prior, data) in enumerate(zip(net.latent_priors, stages)):
        stage = f"stage {i + 1}"
        log_p = prior.log_likelihood(data.residuals / LATTICE, data.scales)
        before = log_p.sum() / (-math.log(2) * crops[:, 0].numel())
        torch.manual_seed(args.seed)
        context = FloatContext(prior)
        if initial:
            context.from_integers(initial.latents[i])
        # what little the first stage holds is soon learned by heart
        steps = args.steps // 4 if i == 0 else args.steps
        bpp = fit(context, data, steps, args.batch_size, args.learning_rate, stage)
        latents.append(context.to_integers())
        log[stage] = {"without": before.item(), "training": bpp}
        print(f"{stage}: {before:.4f} -> {bpp[-1]:.4f} bits per pixel", flush=True)
    torch.manual_seed(args.seed)
    pixels = FloatPixels(coefficients(net.noise_schedule.steps()[:sent]))
    if initial:
        pixels.from_integers(initial.pixels)
    else:
        pixels.start(pixel_data.chosen(torch.arange(min(60, len(crops)))))
    steps, batch = args.pixel_steps, args.pixel_batch_size
    bpp = fit_pixels(pixels, pixel_data, steps, batch, args.pixel_learning_rate)
    log["pixels"] = {"training": bpp}
    print(f"pixels: {bpp[-1]:.4f} bits per pixel", flush=True)
    save_contexts(args.output, Contexts(latents, pixels.to_integers()))
    args.output.with_suffix(".json").write_text(json.dumps(log, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
