"""Fit the context prior of a UQDM whose weights stay as they are.

    python -m compressai_uqdm.train_context uqdm-tiny photographs/ context.npz

:mod:`.training.context` says how.
"""

import argparse
import json
import math
import sys

from pathlib import Path
from typing import Any

import torch

from .entropy_models.latents.context import ContextPrior, read_contexts, save_contexts
from .entropy_models.lattice import LATTICE
from .models import UQDM
from .training.context import FloatContext, collect, fit, read_crops
from .zoo import RECIPES


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
        initial: list[ContextPrior] = []
        if args.initial:
            initial = read_contexts(args.initial, len(net.latent_priors))
        crops = read_crops(args.photographs, args.crops, args.max_factor, args.seed)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{error}") from error
    contexts, log = [], dict[str, dict[str, Any]]()
    log["arguments"] = {k: str(v) for k, v in vars(args).items()}
    for i, (prior, data) in enumerate(zip(net.latent_priors, collect(net, crops))):
        stage = f"stage {i + 1}"
        log_p = prior.log_likelihood(data.residuals / LATTICE, data.scales)
        before = log_p.sum() / (-math.log(2) * crops[:, 0].numel())
        torch.manual_seed(args.seed)
        context = FloatContext(prior)
        if initial:
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
