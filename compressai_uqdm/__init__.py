"""UQDM, a progressive and lossless diffusion codec, as a CompressAI plugin.

Public names load on first use: PyTorch imports this file in the middle of its own
import (see :mod:`.plugin`), when nothing that needs PyTorch can be imported yet.
"""

import importlib

from typing import TYPE_CHECKING, Any

from . import plugin

if TYPE_CHECKING:
    from .container import DamagedFileError as DamagedFileError
    from .files import NotYetError as NotYetError
    from .files import Picture as Picture
    from .files import StreamingDecoder as StreamingDecoder
    from .files import decode as decode
    from .files import encode as encode
    from .files import load as load
    from .files import save as save
    from .models import UQDM as UQDM
    from .models import VDM as VDM
    from .models import ContextUQDM as ContextUQDM
    from .models import UQDMConfig as UQDMConfig
    from .varint import DamagedStringError as DamagedStringError

__version__ = "0.1.0"

_HOMES = {
    "ContextUQDM": ".models",
    "DamagedFileError": ".container",
    "DamagedStringError": ".varint",
    "NotYetError": ".files",
    "Picture": ".files",
    "StreamingDecoder": ".files",
    "UQDM": ".models",
    "UQDMConfig": ".models",
    "VDM": ".models",
    "decode": ".files",
    "encode": ".files",
    "load": ".files",
    "save": ".files",
}
__all__ = [*_HOMES, "__version__"]

plugin.autoload()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
