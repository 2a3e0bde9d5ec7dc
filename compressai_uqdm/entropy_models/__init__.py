"""Entropy models in the style of CompressAI's, and what their context models share."""

# First: when CompressAI's zoo is imported it imports us, and must find us whole.
from .. import libraries  # noqa: F401  isort: skip

from .uniform_noise import UniformNoiseConditional

__all__ = ["UniformNoiseConditional"]
