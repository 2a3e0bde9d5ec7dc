"""Training of all context models of a UQDM: those of its latents, and that of its pixels.

The pixels follow after all latent stages but the last. :mod:`.context` has the phase of a
latent stage, :mod:`.pixels` the phase of the pixels.
"""

import functools
import sys
import zlib

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
import torch.nn as nn

from torch import Tensor

from ..families.uqdm.context_files import Contexts, read_contexts, save_contexts
from ..families.uqdm.context_network import LatentContextNetwork
from ..families.uqdm.interval_pixels import PLANES, coefficients
from ..families.uqdm.model import UQDM
from ..families.uqdm.pixel_network import PixelNetwork
from ..zoo import RECIPES, contexts_hint
from .checkpoints import check_output
from .context import ContextLoss, ContextPhase, StageData, collect
from .data import read_crops
from .phase import Phase
from .pixels import PixelContextPhase, PixelData, PixelLoss
from .processes import single_process
from .run import Run
from .settings import ContextSettings

__all__ = ["train"]

START_CROPS = 60
"""Crops that the linear paths of the pixels' network start from."""


def train(settings: ContextSettings) -> int:
    """Train the context models of a UQDM, or resume it, and write them.

    Returns:
        the number of the signal that stopped it, or 0.

    Raises:
        FloatingPointError: the loss is not finite.
        OSError: a file cannot be read or written.
        ValueError: the model, the photographs or the initial context models do not fit, or
            there is another run's checkpoint beside the output.
    """
    check_output(settings.output.parent)
    accelerator = single_process()
    net = _load(settings.model)
    sent = net.config.n_timesteps - 1
    if sent < 1:
        raise ValueError(f"{settings.model} has one latent stage, and no context can help")
    initial = read_contexts(settings.initial) if settings.initial else None
    if initial and len(initial.latents) != sent:
        raise ValueError(
            f"{settings.initial} is of {len(initial.latents)} latent stages, "
            f"{settings.model} needs {sent}"
        )
    crops = read_crops(
        settings.photographs, settings.crops, settings.max_factor, settings.seed
    )
    stages, pixel_data = collect(net, crops, sent)
    latents, pixels = _networks(net, settings, initial, pixel_data)
    phases = _phases(latents, pixels, stages, pixel_data, settings)
    facts = {"crops": _checksum([crops]), "model": _checksum(net.state_dict().values())}
    stopped = Run(settings, facts, phases, accelerator).train()
    if not stopped:
        contexts = Contexts([loss.network for loss in latents], pixels.network)
        for network in (*contexts.latents, contexts.pixels):
            network.check()
        save_contexts(settings.output, contexts)
        size = settings.output.stat().st_size
        print(f"{settings.output}: {size:,} bytes", file=sys.stderr)
    return stopped


def _checksum(tensors: Iterable[Tensor]) -> str:
    checksum = 0
    for tensor in tensors:
        checksum = zlib.crc32(tensor.detach().cpu().numpy().tobytes(), checksum)
    return f"{checksum:08x}"


def _networks(
    net: UQDM, settings: ContextSettings, initial: Contexts | None, pixel_data: PixelData
) -> tuple[list[ContextLoss], PixelLoss]:
    """Return the losses of the networks to start from: latent stages, and pixels."""
    latents = []
    sent = net.config.n_timesteps - 1
    for i in range(sent):
        torch.manual_seed(settings.seed)
        network = initial.latents[i] if initial else LatentContextNetwork()
        latents.append(ContextLoss(network.set_trained(True), net.latent_priors[i]))
    torch.manual_seed(settings.seed)
    pixel_network = initial.pixels if initial else PixelNetwork(PLANES)
    rows = coefficients(net.noise_schedule.steps()[:sent])
    pixels = PixelLoss(pixel_network.set_trained(True), rows)
    if not initial:
        n = min(START_CROPS, len(pixel_data.levels))
        pixels.start(pixel_data.chosen(torch.arange(n)))
    return latents, pixels


def _phases(
    latents: list[ContextLoss],
    pixels: PixelLoss,
    stages: list[StageData],
    pixel_data: PixelData,
    settings: ContextSettings,
) -> Sequence[Callable[[], Phase]]:
    """Return what makes each phase: a latent stage, or the pixels."""
    networks = nn.ModuleList([*latents, pixels])
    phases: list[Callable[[], Phase]] = []
    for i, (network, data) in enumerate(zip(latents, stages)):
        # the first stage carries little information: more steps would overfit
        steps = settings.steps if i else settings.steps // 4
        title = f"stage {i + 1}"
        phases.append(
            functools.partial(ContextPhase, title, network, data, settings, steps, networks)
        )
    phases.append(
        functools.partial(PixelContextPhase, pixels, pixel_data, settings, networks)
    )
    return phases


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
