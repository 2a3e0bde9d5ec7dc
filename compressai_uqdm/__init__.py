"""UQDM, a progressive and lossless diffusion codec, as a CompressAI plugin.

Public names load on first use: PyTorch imports this file in the middle of its own
import (see :mod:`.plugin`), when nothing that needs PyTorch can be imported yet.
"""

import importlib

from typing import TYPE_CHECKING, Any

from . import plugin

if TYPE_CHECKING:
    from .entropy_models import DamagedStringError as DamagedStringError
    from .models import UQDM as UQDM
    from .models import VDM as VDM
    from .models import ContextUQDM as ContextUQDM
    from .models import UQDMConfig as UQDMConfig

__version__ = "0.1.0"

_HOMES = {
    "ContextUQDM": ".models",
    "DamagedStringError": ".entropy_models",
    "UQDM": ".models",
    "UQDMConfig": ".models",
    "VDM": ".models",
}
__all__ = ["ContextUQDM", "DamagedStringError", "UQDM", "UQDMConfig", "VDM", "__version__"]

plugin.autoload()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
