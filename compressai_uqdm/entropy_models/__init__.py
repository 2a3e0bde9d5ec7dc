# CompressAI first: when its zoo is imported it imports us, and must find us whole.
import compressai.zoo  # noqa: F401  isort: skip

from .coder import DamagedStringError
from .context import ContextConditional
from .gaussian_noise import GaussianNoiseConditional
from .pixel import PixelConditional
from .uniform_noise import UniformNoiseConditional

__all__ = [
    "ContextConditional",
    "DamagedStringError",
    "GaussianNoiseConditional",
    "PixelConditional",
    "UniformNoiseConditional",
]
