"""Registration with CompressAI and Pillow, without an import by the user.

``import torch`` calls the entry point of the group ``torch.backends``. That imports this
package (``compressai_uqdm_autoload.py``), and the package calls :func:`autoload`. An error
there would break ``import torch``, so this module imports very little. It registers two
hooks: one runs after ``compressai.zoo`` is imported, the other after ``PIL.ImageFile``,
which Pillow imports when it first opens or saves a picture. If anything fails, the program
gets a warning and continues.
"""

import contextlib
import importlib
import warnings

from types import ModuleType

__all__ = ["autoload"]


def autoload() -> None:
    """Register models with CompressAI and files with Pillow, now or after their import."""
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
    with contextlib.suppress(Exception):  # a program may turn warnings into errors
        warnings.warn(message, RuntimeWarning, stacklevel=2)
