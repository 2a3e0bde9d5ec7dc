"""Settings of the process, on which what is coded must not depend.

Programs choose how PyTorch and NumPy compute: with how many bits matrices are multiplied,
in which type inside of ``torch.autocast``, what a number too small for its type raises.
Encoders and decoders compute the same integers under all of these choices, and leave them
as they were. Types and devices that PyTorch takes by default are no matter for this module:
whatever creates a tensor names both.
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
    """Compute in the type that tensors have, whatever the process or the thread is set to.

    Several threads may be inside at once. The settings of the process are restored when
    the last of them leaves.
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
    """Have a function run as it is where ``torch.compile`` compiles what calls it.

    The compiler computes in its own way what NumPy does, and does not know all of it.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return run


# ---- what is set for the whole process ----

_lock = threading.Lock()
_inside: Counter[int] = Counter()
"""How many times each thread is inside of :func:`exact_floats`."""
_restore: list[Callable[[], None]] = []
"""Restores what the first of them changed."""


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
    """Forget the threads that a child process does not have."""
    here = threading.get_ident()
    for thread in set(_inside) - {here}:
        del _inside[thread]
    if _restore and not _inside:
        _restore.pop()()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork
    )


def _set_single_precision() -> Callable[[], None]:
    """Have products of matrices computed in single precision.

    Returns:
        a function that restores what was set before.
    """
    mkldnn: Any = torch.backends.mkldnn
    cuda: Any = torch.backends.cuda
    kinds: list[tuple[Any, Any]] = [(cuda.matmul, torch.backends)]
    kinds += [(getattr(mkldnn, name, None), mkldnn) for name in ("conv", "matmul")]
    before = []
    for kind, of_all in kinds:
        if hasattr(kind, "fp32_precision"):
            precision = kind.fp32_precision
            # one that was not set is read as that of all, and must go on following it
            follows = precision == getattr(of_all, "fp32_precision", None)
            before.append((kind, "none" if follows else precision))
    older = _older_precision()
    if older != "highest":  # cuBLAS refuses to work where the two disagree
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
    """What ``torch.set_float32_matmul_precision`` set.

    PyTorch does not tell where the newer settings were used; then it is "highest".
    """
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "highest"
