"""PyTorch and CompressAI, imported quickly: importing this module imports both.

CompressAI and PyTorch import modules that coding a picture does not use and that take
three seconds: PyTorch Geometric, torchvision, ``scipy.stats``, ``torch.export`` and, of
CompressAI itself, data sets and transforms. Here these statements bind stand-ins instead,
which import the module when something in it is used. Only statements in CompressAI and
PyTorch, in this thread, get stand-ins, and ``sys.modules`` never holds one: all other code
imports the modules themselves.

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
"""Importing modules, each with what it imports and coding does not use."""


class StandIn(ModuleType):
    """Takes the place of a module, or of a package of one, and imports it when it is used.

    Args:
        name: full name of the module.
        unused: full names of the modules below it that get stand-ins too.
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
    """Bind stand-ins where this thread's imports would import what is not used.

    Args:
        unused: importing modules, each with the full names of what it imports and gets
            stand-ins for. It gets the module itself where that is imported already.
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
            late = [module for module in names if module not in sys.modules]
            if name in late and not fromlist:
                return StandIn(name.partition(".")[0], late)
            for child in fromlist or ():
                if f"{name}.{child}" in late:
                    # the import that follows leaves alone what has a value
                    setattr(sys.modules[name], child, StandIn(f"{name}.{child}", late))
        return import_(name, globals, locals, fromlist, level)

    builtins.__import__ = bind
    try:
        yield
    finally:
        thread = 0  # where others have replaced it meanwhile, it changes nothing any more
        if builtins.__import__ is bind:
            builtins.__import__ = import_


def import_on_access(
    module: ModuleType, names: Collection[str], import_: Callable[[str], Any]
) -> None:
    """Take names out of a module until they are asked for.

    Args:
        module: the module.
        names: those of its names that have stand-ins, or values that are not complete.
        import_: returns the value of a name.
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
    """Have the stand-ins in a package imported by who asks for them."""
    names = {name for name, value in vars(package).items() if type(value) is StandIn}
    import_on_access(
        package, names, lambda name: importlib.import_module(f"{package.__name__}.{name}")
    )


def _complete_registries() -> None:
    """Have CompressAI's registries of data sets and transforms filled on access."""
    registry = importlib.import_module("compressai.registry")
    values = {name: getattr(registry, name) for name in ("DATASETS", "TRANSFORMS")}

    def fill(name: str) -> Any:
        known: dict[str, Any] = {}
        for library in ("torchvision.transforms", "torch_geometric.transforms"):
            found = vars(importlib.import_module(library))
            known |= {k: v for k, v in found.items() if k[0].isupper()}
        for module in ("compressai.datasets", "compressai.transforms"):
            importlib.import_module(module)  # they register themselves
        values["TRANSFORMS"].update(known | values["TRANSFORMS"])
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
    """Have PyTorch's threads, if it is imported meanwhile, sleep while they wait.

    By default they spin, and where other programs use the processor too, they take its time
    from the thread that they wait for: a step of training took thirty times as long. Their
    library reads the environment once, when it is loaded.
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
