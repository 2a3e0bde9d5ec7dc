"""The denoisers and priors of a UQDM, by their names in a configuration."""

from ...entropy_models.uniform_noise import UniformNoiseConditional
from .context_prior import ContextConditional
from .denoiser import DenoiserConfig
from .interval_pixels import IntervalPixels
from .pixel_prior import PixelPrior
from .softmax_pixels import PixelConditional
from .unet import UNetConfig

__all__ = ["DENOISERS", "LATENT_PRIORS", "PIXEL_PRIORS"]

DENOISERS: dict[str, type[DenoiserConfig]] = {
    config.family: config for config in (UNetConfig,)
}
"""Configuration classes of denoisers, by family."""

LATENT_PRIORS: dict[str, type[UniformNoiseConditional]] = {
    "uniform": UniformNoiseConditional,
    "context": ContextConditional,
}
"""Priors of the latent stages: ``"uniform"``, as published, and ``"context"``."""

PIXEL_PRIORS: dict[str, type[PixelPrior]] = {
    "softmax": PixelConditional,
    "context": IntervalPixels,
}
"""Priors of the pixels: ``"softmax"``, as published, and ``"context"``."""
