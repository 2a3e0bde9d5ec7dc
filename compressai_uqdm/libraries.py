"""Imports PyTorch and CompressAI, without the modules that coding does not use.

CompressAI and PyTorch import modules that coding a picture does not use and that take three
seconds: PyTorch Geometric, torchvision, ``scipy.stats``, ``torch.export``, and CompressAI's
data sets and transforms. While this module imports the two libraries, those imports bind
stand-ins, which import the module on first use. Only imports by CompressAI and PyTorch, in
this thread, get stand-ins, and ``sys.modules`` never holds one. All other code imports the
real modules.

Modules of this package that use PyTorch or CompressAI import this module first.
"""

import builtins
import importlib
import os
import sys
import threading

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__all__: list[str] = []

UNUSED = {
    "torch": ["torch.export"],
    "compressai": ["compressai.datasets", "compressai.transforms"],
    "compressai.registry.transforms": [
        "torch_geometric.transforms",
        "torchvision.transforms",
    ],
    "compressai.entropy_models.entropy_models": ["scipy.stats"],
}
"""Importing modules, each with the modules that it imports and coding does not use."""


class StandIn(ModuleType):
    """A module that imports the real module, or its package, on first use.

    Args:
        name: full name of the module.
        unused: full names of submodules that get stand-ins too.
    """

    def __init__(self, name: str, unused: Collection[str]):
        super().__init__(name)
        self._unused = unused

    def __getattr__(self, name: str) -> Any:
        child = f"{self.__name__}.{name}"
        if child in self._unused and child not in sys.modules:
            return StandIn(child, self._unused)
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def stand_ins(unused: Mapping[str, Collection[str]]) -> Iterator[None]:
    """Bind stand-ins for unused modules in the imports of this thread.

    Args:
        unused: importing modules, each with the full names of the modules to replace.
            Modules that are imported already are not replaced.
    """
    import_, thread = builtins.__import__, threading.get_ident()

    def bind(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if threading.get_ident() == thread and globals and not level:
            names = unused.get(globals.get("__name__", ""), ())
            missing = [module for module in names if module not in sys.modules]
            if name in missing and not fromlist:
                return StandIn(name.partition(".")[0], missing)
            for child in fromlist or ():
                if f"{name}.{child}" in missing:
                    # Python does not import a submodule whose name is already set
                    setattr(sys.modules[name], child, StandIn(f"{name}.{child}", missing))
        return import_(name, globals, locals, fromlist, level)

    # Python omits code with this file name from tracebacks and locations of warnings
    bind.__code__ = bind.__code__.replace(co_filename="<frozen importlib._bootstrap>")
    builtins.__import__ = bind
    try:
        yield
    finally:
        thread = 0  # disables the hook, in case other code has wrapped it meanwhile
        if builtins.__import__ is bind:
            builtins.__import__ = import_


def import_on_access(
    module: ModuleType, names: Collection[str], import_: Callable[[str], Any]
) -> None:
    """Delete names from a module, and import their values on first access.

    Args:
        module: the module.
        names: names whose values are stand-ins or incomplete.
        import_: returns the complete value of a name.
    """
    before = vars(module).get("__getattr__")

    def get(name: str) -> Any:
        if name in names:
            return import_(name)
        if before is None:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        return before(name)

    setattr(module, "__getattr__", get)  # noqa: B010
    for name in names:
        delattr(module, name)


def _import_unused(package: ModuleType) -> None:
    """Replace the stand-ins in a package by imports on first access."""
    names = {name for name, value in vars(package).items() if type(value) is StandIn}
    import_on_access(
        package, names, lambda name: importlib.import_module(f"{package.__name__}.{name}")
    )


def _complete_registries() -> None:
    """Fill CompressAI's registries of data sets and transforms on first access."""
    registry = importlib.import_module("compressai.registry")
    values = {name: getattr(registry, name) for name in ("DATASETS", "TRANSFORMS")}

    def fill(name: str) -> Any:
        transforms: dict[str, Any] = {}
        for library in ("torchvision.transforms", "torch_geometric.transforms"):
            names = vars(importlib.import_module(library))
            transforms |= {k: v for k, v in names.items() if k[0].isupper()}
        for module in ("compressai.datasets", "compressai.transforms"):
            importlib.import_module(module)  # they register themselves
        values["TRANSFORMS"].update(transforms | values["TRANSFORMS"])
        vars(registry).update(values)
        return values[name]

    import_on_access(registry, values, fill)


def _import_libraries() -> None:
    if "compressai" in sys.modules:
        importlib.import_module("compressai.zoo")
        return
    with _threads_that_sleep(), stand_ins(UNUSED):
        importlib.import_module("compressai.zoo")
    _import_unused(sys.modules["torch"])
    _import_unused(sys.modules["compressai"])
    _complete_registries()


@contextmanager
def _threads_that_sleep() -> Iterator[None]:
    """Let OpenMP's threads sleep while they wait, if PyTorch is imported in this context.

    By default they spin. If other programs use the processor too, the spinning threads take
    its time from the thread that they wait for: a training step took thirty times as long.
    OpenMP reads the environment once, when PyTorch loads it.
    """
    if "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        yield
    finally:
        os.environ.pop("OMP_WAIT_POLICY", None)


_import_libraries()
