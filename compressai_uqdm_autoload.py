"""What PyTorch calls on its own import: it lets CompressAI and Pillow find the package.

An error in an entry point of the group ``torch.backends`` breaks ``import torch``, and so
every program that uses PyTorch. This file therefore stands outside the package and needs
nothing of it: where the package is damaged, or only half of it is installed, the import of
PyTorch gets a warning.
"""

import contextlib
import importlib
import warnings

__all__ = ["autoload"]


def autoload() -> None:
    """Import :mod:`compressai_uqdm`, which registers itself; warn if that fails."""
    try:
        importlib.import_module("compressai_uqdm")
    except Exception as error:
        message = (
            f"compressai-uqdm is damaged or only partly installed ({error!r}), so "
            "CompressAI and Pillow do not know its models and files; reinstall it, or "
            'remove it with "pip uninstall compressai-uqdm"'
        )
        with contextlib.suppress(Exception):  # warnings may be errors, or have no stream
            warnings.warn(message, RuntimeWarning, stacklevel=2)
