"""The libraries of a network, imported as fast as they can be.

They are more than half of what a command takes for a photograph.
"""

import functools
import gc
import importlib
import importlib.util
import sys

from types import ModuleType
from typing import Any

__all__ = ["import_late", "import_libraries"]


@functools.cache
def import_libraries() -> None:
    """Import PyTorch and CompressAI."""
    import_late("scipy.stats")  # CompressAI imports it: a second, and for nothing here
    # what is imported stays: to look for garbage among it, now or at the end, is in vain
    gc.disable()
    try:
        importlib.import_module("compressai.zoo")
    finally:
        gc.enable()
    gc.freeze()


def import_late(name: str) -> None:
    """Have a submodule imported when something in it is first asked for.

    ``importlib.util.LazyLoader`` would import it as soon as anything looks at it:
    PyTorch does, at the file of every module that there is.

    Args:
        name: its full name. It may be imported already, or missing in its package.
    """
    if name in sys.modules or not (spec := importlib.util.find_spec(name)):
        return
    module = _Late(name)
    module.__spec__, module.__file__ = spec, spec.origin
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    setattr(sys.modules[parent], child, module)


class _Late(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)
