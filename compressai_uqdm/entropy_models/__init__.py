# First: when CompressAI's zoo is imported it imports us, and must find us whole.
from .. import libraries  # noqa: F401  isort: skip

from .latents.context import ContextConditional
from .latents.gaussian_noise import GaussianNoiseConditional
from .latents.uniform_noise import UniformNoiseConditional
from .pixels.softmax import PixelConditional

__all__ = [
    "ContextConditional",
    "GaussianNoiseConditional",
    "PixelConditional",
    "UniformNoiseConditional",
]
