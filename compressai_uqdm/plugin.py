"""Registration with CompressAI and Pillow, without an import by the user.

PyTorch's own import calls the entry point of the group ``torch.backends``, which imports
the package (``compressai_uqdm_autoload.py``), and the package calls :func:`autoload`. An
error there would break ``import torch``, so this module imports next to nothing. It asks
to be called back once ``compressai.zoo`` has been imported, or ``PIL.ImageFile``, as Pillow
does when it first opens or saves a picture. Whatever fails, the importing program gets a
warning and goes on.
"""

import contextlib
import importlib
import warnings

from types import ModuleType

__all__ = ["autoload"]


def autoload() -> None:
    """Register models with CompressAI, files with Pillow, now or once they are imported."""
    try:
        from wrapt import register_post_import_hook

        register_post_import_hook(_register_models, "compressai.zoo")
        register_post_import_hook(_register_files, "PIL.ImageFile")
    except Exception as error:
        _warn("its models to CompressAI's zoo and its files to Pillow", error)


def _register_models(compressai_zoo: ModuleType) -> None:
    try:
        importlib.import_module(".zoo", __package__)
    except Exception as error:
        _warn("its models to CompressAI's zoo", error)


def _register_files(image_file: ModuleType) -> None:
    try:
        importlib.import_module(".pillow", __package__)
    except Exception as error:
        _warn("its files to Pillow", error)


def _warn(what: str, error: Exception) -> None:
    message = (
        f"compressai-uqdm could not add {what}: {error!r}; reinstall it, or remove it with "
        '"pip uninstall compressai-uqdm"'
    )
    with contextlib.suppress(Exception):  # warnings may be errors, or have no stream
        warnings.warn(message, RuntimeWarning, stacklevel=2)
