"""The libraries of a network, imported as fast as they can be.

They are more than half of what a command takes for a photograph.
"""

import functools
import gc
import importlib
import importlib.util
import sys

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["import_libraries", "imported_late"]

UNUSED = (
    "compressai.datasets",
    "compressai.transforms",
    "scipy.stats",
    "torch.export",
    "torch_geometric",
    "torch_geometric.transforms",
    "torchvision",
    "torchvision.transforms",
)
"""What CompressAI and PyTorch import, and a command does not use."""


@functools.cache
def import_libraries() -> None:
    """Import PyTorch and CompressAI.

    CompressAI's registry of transforms is then without those of torchvision and of
    PyTorch Geometric, which it would list.
    """
    # what is imported stays: to look for garbage among it, now or at the end, is in vain
    gc.disable()
    try:
        with imported_late(*UNUSED):
            importlib.import_module("compressai.zoo")
    finally:
        gc.enable()
    gc.freeze()


@contextmanager
def imported_late(*names: str) -> Iterator[None]:
    """Have what is imported meanwhile get others in place of these modules.

    They import the modules once anything in them is asked for. Whoever imports a module
    afterwards gets the module itself.

    Args:
        names: full names. What is imported already, or not installed, stays as it is.
    """
    found = {name: importlib.util.find_spec(name.partition(".")[0]) for name in names}
    late = {name: _Late(name) for name in names if name not in sys.modules and found[name]}
    sys.modules.update(late)
    _bind(late)
    try:
        yield
    finally:
        _withdraw()


def _withdraw() -> None:
    late = {name: module for name, module in sys.modules.items() if type(module) is _Late}
    _bind(late)
    for name in late:
        del sys.modules[name]


def _bind(modules: Mapping[str, ModuleType]) -> None:
    """Bind them to their names in their packages, as their import would."""
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], child, module)


class _Late(ModuleType):
    """In place of a module.

    ``importlib.util.LazyLoader`` would import it as soon as anything looks at it: PyTorch
    does, at the file of every module that there is.
    """

    def __init__(self, name: str):
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # for who asks whether it is there

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            if name == "__file__":
                raise AttributeError(name)
            _withdraw()  # all: modules are not to get others for their own parts
        return getattr(importlib.import_module(self.__name__), name)
