"""How CompressAI comes to know our models without anything being imported.

PyTorch 2.5 and later calls the entry points of the group ``torch.backends`` when it is
imported, and an error there would break that import. So this file imports next to
nothing, and only asks to be called back once ``compressai.zoo`` has been imported.
"""

import importlib
import warnings

from types import ModuleType

__all__ = ["autoload"]


def autoload() -> None:
    """Register our models in CompressAI's zoo, now or once it is imported."""
    try:
        from wrapt import register_post_import_hook

        register_post_import_hook(_register, "compressai.zoo")
    except Exception as error:
        _warn(error)


def _register(compressai_zoo: ModuleType) -> None:
    try:
        importlib.import_module(".zoo", __package__)
    except Exception as error:
        _warn(error)


def _warn(error: Exception) -> None:
    warnings.warn(
        f"compressai-uqdm could not add its models to CompressAI's zoo: {error!r}",
        RuntimeWarning,
        stacklevel=2,
    )
