"""Neural networks in integer arithmetic, the same on every machine."""

# First: when CompressAI's zoo is imported it imports us, and must find us whole.
from .. import libraries  # noqa: F401  isort: skip
