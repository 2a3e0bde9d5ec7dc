"""Entropy models in the style of CompressAI's: integer tables and what priors share."""

# First: CompressAI's zoo imports this package, and must not find it half imported.
from .. import libraries  # noqa: F401  isort: skip

from .uniform_noise import UniformNoiseConditional

__all__ = ["UniformNoiseConditional"]
