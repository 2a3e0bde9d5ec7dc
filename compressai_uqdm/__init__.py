"""UQDM, a progressive and lossless diffusion codec, as a CompressAI plugin.

Public names load on first use: PyTorch imports this file in the middle of its own
import (see :mod:`.plugin`), when nothing that needs PyTorch can be imported yet.
"""

import importlib

from typing import TYPE_CHECKING, Any

from . import plugin

if TYPE_CHECKING:
    from .errors import DamagedFileError as DamagedFileError
    from .errors import DamagedStringError as DamagedStringError
    from .families.dct.config import CosineConfig as CosineConfig
    from .families.dct.model import CosineUQDM as CosineUQDM
    from .families.uqdm.config import UQDMConfig as UQDMConfig
    from .families.uqdm.model import UQDM as UQDM
    from .families.uqdm.vdm import VDM as VDM
    from .files.decoding import NotYetError as NotYetError
    from .files.decoding import Picture as Picture
    from .files.decoding import StreamingDecoder as StreamingDecoder
    from .files.decoding import decode as decode
    from .files.decoding import load as load
    from .files.encoding import QualityWarning as QualityWarning
    from .files.encoding import encode as encode
    from .files.encoding import save as save

__version__ = "0.2.0"

_HOMES = {
    "CosineConfig": ".families.dct.config",
    "CosineUQDM": ".families.dct.model",
    "DamagedFileError": ".errors",
    "DamagedStringError": ".errors",
    "NotYetError": ".files.decoding",
    "Picture": ".files.decoding",
    "QualityWarning": ".files.encoding",
    "StreamingDecoder": ".files.decoding",
    "UQDM": ".families.uqdm.model",
    "UQDMConfig": ".families.uqdm.config",
    "VDM": ".families.uqdm.vdm",
    "decode": ".files.decoding",
    "encode": ".files.encoding",
    "load": ".files.decoding",
    "save": ".files.encoding",
}
__all__ = [*_HOMES, "__version__"]

plugin.autoload()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
