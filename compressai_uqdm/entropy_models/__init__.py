from .coder import DamagedStringError
from .pixel import PixelConditional
from .uniform_noise import UniformNoiseConditional

__all__ = ["DamagedStringError", "PixelConditional", "UniformNoiseConditional"]
