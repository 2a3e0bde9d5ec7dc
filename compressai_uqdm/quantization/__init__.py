"""Universal quantization: dither, lattice, nested grids, and rounding."""

# First: CompressAI's zoo imports this package, and must not find it half imported.
from .. import libraries  # noqa: F401  isort: skip
