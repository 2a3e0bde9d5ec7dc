"""Priors of the latent stages, by the name that a configuration gives them."""

from .context import ContextConditional
from .uniform_noise import UniformNoiseConditional

__all__ = ["LATENT_PRIORS"]

LATENT_PRIORS: dict[str, type[UniformNoiseConditional]] = {
    "uniform": UniformNoiseConditional,
    "context": ContextConditional,
}
