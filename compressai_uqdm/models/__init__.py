"""Code that all models share: stages, CompressAI's interface, checkpoints and cards."""

# First: CompressAI's zoo imports this package, and must not find it half imported.
from .. import libraries  # noqa: F401  isort: skip
