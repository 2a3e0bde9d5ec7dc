"""The run that trains a CosineUQDM: photographs, initial weights, phases, output."""

import functools
import math
import sys

from collections.abc import Callable

import numpy as np
import torch

from torch import Tensor

from ..families.dct.coefficient_prior import CoefficientPrior
from ..families.dct.model import CosineUQDM
from ..families.dct.transform import forward_dct
from .checkpoints import check_output
from .data import draw_crops, read_photographs
from .dct import DCTPhase, PicturePhase, PixelPhase, StagePhase
from .dct_settings import DCTSettings
from .phase import Phase, Schedule
from .processes import single_process
from .run import Run

__all__ = ["train"]

LAST_RATE = 0.01
"""Share of the peak that the learning rate ends at."""
STD_CROPS = 200
"""Crops that the standard deviations of coefficients are measured on."""
DC_SHARE = 0.4
"""Share of the standard deviation of DC coefficients: neighbours predict the rest."""


def train(settings: DCTSettings) -> int:
    """Train a CosineUQDM, or resume its training, and write its weights.

    Returns:
        the number of the signal that stopped it, or 0.

    Raises:
        FloatingPointError: the loss is not finite, or weights became too large.
        OSError: a file cannot be read or written.
        ValueError: photographs or weights do not fit, or there is another run's checkpoint
            beside the output.
    """
    check_output(settings.output.parent)
    accelerator = single_process()
    size, factors = settings.crop_size, settings.factors
    photographs = read_photographs(settings.photographs, "train", size, factors)
    tests: Tensor | None = None
    if settings.test:
        held_out = read_photographs(settings.test, "test", size, factors)
        rng = np.random.default_rng(settings.seed + 1)
        tests = draw_crops(held_out, settings.test_crops, size, rng, 1)
    net = _initial_model(settings, photographs)
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    facts = {"number of photographs, by factor": str(len(photographs))}
    run = Run(settings, facts, _phases(net, settings, photographs, tests), accelerator)
    stopped = run.train()
    if not stopped:
        net.save_integers(settings.output)
        size = settings.output.stat().st_size
        print(f"{settings.output}: {size:,} bytes", file=sys.stderr)
    return stopped


def _phases(
    net: CosineUQDM,
    settings: DCTSettings,
    photographs: list[np.ndarray],
    tests: Tensor | None,
) -> list[Callable[[], Phase]]:
    """Return what makes each phase: all weights of the others are frozen."""
    n_networks = len(net.latent_priors)

    def make(index: int) -> Phase:
        net.requires_grad_(False)
        is_warm = 0 < index < n_networks or settings.initial is not None
        phase: DCTPhase
        if index < n_networks:
            if index and not settings.initial:
                _copy(net.latent_priors[index - 1], net.latent_priors[index])
            phase = StagePhase(net, index)
        else:
            phase = PixelPhase(net) if index == n_networks else PicturePhase(net)
        peak = settings.warm_learning_rate if is_warm else settings.learning_rate
        phase.schedule = Schedule(peak, settings.warmup, LAST_RATE)
        phase.prepare(settings, index, photographs, tests)
        return phase

    return [functools.partial(make, index) for index in range(n_networks + 2)]


def _coefficient_std(photographs: list[np.ndarray], size: int, seed: int) -> Tensor:
    """Return standard deviations of coefficients, ``[192]``; of DC, of the residual."""
    crops = draw_crops(photographs, STD_CROPS, size, np.random.default_rng(seed))
    deviation = forward_dct(crops).std((0, 2, 3)).clamp(min=0.1)  # grey ones have no colour
    deviation[:3] *= DC_SHARE
    return deviation.float()


@torch.no_grad()
def _copy(trained: CoefficientPrior, prior: CoefficientPrior) -> None:
    """Start a network from another. Weights do not depend on the trained step."""
    prior.layers.load_state_dict(trained.layers.state_dict())
    prior.dc_predictor.copy_(trained.dc_predictor)
    prior.coefficient_std.copy_(trained.coefficient_std)


def _initial_model(settings: DCTSettings, photographs: list[np.ndarray]) -> CosineUQDM:
    torch.manual_seed(settings.seed)
    net = CosineUQDM(settings.model())
    if settings.initial:
        trained = CosineUQDM.from_checkpoint(settings.initial)
        if trained.config.hidden != settings.hidden:
            raise ValueError(
                f"--hidden must be {trained.config.hidden}, as in {settings.initial}, got "
                f"{settings.hidden}"
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
        std = _coefficient_std(photographs, settings.crop_size, settings.seed)
        for prior in net.latent_priors:
            prior.coefficient_std.copy_(std)
    net.update()
    return net
