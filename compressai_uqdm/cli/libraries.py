"""The libraries of a network, imported as a program can that ends soon."""

import functools
import gc
import importlib

__all__ = ["import_libraries"]


@functools.cache
def import_libraries() -> None:
    """Import :mod:`..libraries`, and leave them out of every garbage collection."""
    gc.disable()
    try:
        importlib.import_module("compressai_uqdm.libraries")
    finally:
        gc.enable()
    gc.freeze()
