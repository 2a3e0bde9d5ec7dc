"""Universal quantization: dither, lattice, nested cells, and rounding."""

# First: when CompressAI's zoo is imported it imports us, and must find us whole.
from .. import libraries  # noqa: F401  isort: skip
