"""Families of models: UQDM as published, and DCT, our own."""

# First: when CompressAI's zoo is imported it imports us, and must find us whole.
from .. import libraries  # noqa: F401  isort: skip
