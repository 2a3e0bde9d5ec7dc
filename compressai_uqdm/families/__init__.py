"""Families of models: ``uqdm``, as published, and ``dct``, our own."""

# First: CompressAI's zoo imports this package, and must not find it half imported.
from .. import libraries  # noqa: F401  isort: skip
