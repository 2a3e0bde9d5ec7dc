"""``python -m compressai_uqdm``, the same as ``uqdm``."""

from .cli import run

run()
