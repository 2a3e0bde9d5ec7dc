"""Independence of coding from the numeric settings of the process.

A program can set how PyTorch and NumPy compute: the precision of matrix products, the type
inside ``torch.autocast``, the reaction to underflow. Encoders and decoders compute the same
integers under all settings, and restore them afterwards. PyTorch's default type and device
need no care here, because all code of this package names both when it creates a tensor.
"""

import functools
import os
import threading

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

from .threads import single_threaded_if_forked

__all__ = ["exact_floats", "uncompiled"]

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def exact_floats() -> Iterator[None]:
    """Compute in the types of the tensors, whatever the settings of process and thread.

    Several threads may be inside at once. The settings of the process are restored when the
    last of them leaves.
    """
    _enter()
    try:
        with (
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
            np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"),
            single_threaded_if_forked(),
        ):
            yield
    finally:
        _leave()


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function, excluded from ``torch.compile`` where a caller is compiled.

    The compiler replaces NumPy by its own implementation, which is incomplete.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return run


# ---- settings of the process ----

_lock = threading.Lock()
_inside: Counter[int] = Counter()
"""How many times each thread has entered :func:`exact_floats`."""
_restore: list[Callable[[], None]] = []
"""Restores the settings that the first thread changed."""


def _enter() -> None:
    with _lock:
        if not _inside:
            _restore.append(_set_single_precision())
        _inside[threading.get_ident()] += 1


def _leave() -> None:
    with _lock:
        thread = threading.get_ident()
        _inside[thread] -= 1
        if not _inside[thread]:
            del _inside[thread]
        if not _inside:
            _restore.pop()()


def _after_fork() -> None:
    """Remove the threads that a forked process does not have."""
    current = threading.get_ident()
    for thread in set(_inside) - {current}:
        del _inside[thread]
    if _restore and not _inside:
        _restore.pop()()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork
    )


def _set_single_precision() -> Callable[[], None]:
    """Set matrix products and convolutions to full single precision.

    Returns:
        a function that restores the settings from before.
    """
    mkldnn: Any = torch.backends.mkldnn
    cuda: Any = torch.backends.cuda
    kinds: list[tuple[Any, Any]] = [(cuda.matmul, torch.backends)]
    kinds += [(getattr(mkldnn, name, None), mkldnn) for name in ("conv", "matmul")]
    before = []
    for kind, parent in kinds:
        if hasattr(kind, "fp32_precision"):
            precision = kind.fp32_precision
            # an unset precision reads as its parent's, and must be restored as unset
            inherits = precision == getattr(parent, "fp32_precision", None)
            before.append((kind, "none" if inherits else precision))
    older = _older_precision()
    if older != "highest":  # cuBLAS raises an error if the two settings disagree
        torch.set_float32_matmul_precision("highest")
    for kind, _ in before:
        kind.fp32_precision = "ieee"

    def restore() -> None:
        if older != "highest":
            torch.set_float32_matmul_precision(older)
        for kind, precision in before:
            kind.fp32_precision = precision

    return restore


def _older_precision() -> str:
    """Return the value of ``torch.set_float32_matmul_precision``.

    PyTorch raises an error if the newer settings were used; the value is then "highest".
    """
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "highest"
