"""Fitting all context priors of a UQDM: those of its latents, and that of its pixels.

These follow after all latent stages but the last. :mod:`.context` says how the first are
fitted, :mod:`.pixels` how the second is.
"""

import argparse
import json
import math

from pathlib import Path
from typing import Any

import torch

from ..families.uqdm.context_files import Contexts, read_contexts, save_contexts
from ..families.uqdm.context_network import LatentContextNetwork
from ..families.uqdm.interval_pixels import PLANES, coefficients
from ..families.uqdm.model import UQDM
from ..families.uqdm.pixel_network import PixelNetwork
from ..quantization.lattice import LATTICE
from ..zoo import RECIPES, contexts_hint
from .checkpoints import check_output
from .context import ContextLoss, collect, fit, read_crops
from .pixels import PixelLoss, fit_pixels

__all__ = ["fit_contexts"]


def fit_contexts(args: argparse.Namespace) -> None:
    """Fit contexts as :mod:`compressai_uqdm.train_context` is told to, and write them.

    Raises:
        SystemExit: with a message, where something is missing or cannot be.
    """
    try:
        if args.output.is_dir():
            raise ValueError(f"expected a file to write, got the folder {args.output}")
        check_output(args.output.parent)
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
        network = initial.latents[i] if initial else LatentContextNetwork()
        context = ContextLoss(network, prior)
        # what little the first stage holds is soon learned by heart
        steps = args.steps // 4 if i == 0 else args.steps
        bpp = fit(context, data, steps, args.batch_size, args.learning_rate, stage)
        latents.append(network)
        log[stage] = {"without": before.item(), "training": bpp}
        print(f"{stage}: {before:.4f} -> {bpp[-1]:.4f} bits per pixel", flush=True)
    torch.manual_seed(args.seed)
    pixel_network = initial.pixels if initial else PixelNetwork(PLANES)
    pixels = PixelLoss(pixel_network, coefficients(net.noise_schedule.steps()[:sent]))
    if not initial:
        pixels.start(pixel_data.chosen(torch.arange(min(60, len(crops)))))
    steps, batch = args.pixel_steps, args.pixel_batch_size
    bpp = fit_pixels(pixels, pixel_data, steps, batch, args.pixel_learning_rate)
    log["pixels"] = {"training": bpp}
    print(f"pixels: {bpp[-1]:.4f} bits per pixel", flush=True)
    for context_network in (*latents, pixel_network):
        context_network.check()
    try:
        save_contexts(args.output, Contexts(latents, pixel_network))
        args.output.with_suffix(".json").write_text(json.dumps(log, indent=1) + "\n")
    except OSError as error:
        raise SystemExit(f"{error}") from error


def _load(model: str) -> UQDM:
    if Path(model).exists():
        return UQDM.from_checkpoint(model)
    if model not in RECIPES:
        raise ValueError(
            f"{model} is neither a checkpoint nor one of {', '.join(RECIPES)}"
            f"{contexts_hint(model)}"
        )
    net = RECIPES[model].load()
    if not isinstance(net, UQDM):
        raise ValueError(f"{model} has no latents that can be coded")
    return net
