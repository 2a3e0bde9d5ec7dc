from .coder import DamagedStringError
from .context import ContextConditional
from .pixel import PixelConditional
from .uniform_noise import UniformNoiseConditional

__all__ = [
    "ContextConditional",
    "DamagedStringError",
    "PixelConditional",
    "UniformNoiseConditional",
]
