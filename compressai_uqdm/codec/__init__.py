"""From images to strings and back: what models do with the symbols of their stages."""

# First: when CompressAI's zoo is imported it imports us, and must find us whole.
from .. import libraries  # noqa: F401  isort: skip
