"""How CompressAI comes to know our models, and Pillow our files, without being imported.

PyTorch 2.5 and later calls the entry points of the group ``torch.backends`` when it is
imported, and an error there would break that import. So this file imports next to
nothing, and only asks to be called back once ``compressai.zoo`` has been imported, or
``PIL.ImageFile``, as Pillow does when it first opens or saves a picture.
"""

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
    warnings.warn(
        f"compressai-uqdm could not add {what}: {error!r}",
        RuntimeWarning,
        stacklevel=2,
    )
