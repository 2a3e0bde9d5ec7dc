"""Priors of the last stage, by the name that a configuration gives them."""

from .base import PixelPrior
from .interval import IntervalPixels
from .softmax import PixelConditional

__all__ = ["PIXEL_PRIORS"]

PIXEL_PRIORS: dict[str, type[PixelPrior]] = {
    "softmax": PixelConditional,
    "context": IntervalPixels,
}
