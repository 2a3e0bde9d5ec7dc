"""Python threads for parts of a picture.

Operations on a part are too small for PyTorch's own threads to bring anything; but while
they compute, they let other threads of Python run, and so do NumPy's.
"""

import functools
import os
import threading

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TypeVar

import torch

__all__ = ["parallel_map", "single_threaded_ops", "single_threaded_if_forked"]

Item = TypeVar("Item")
Found = TypeVar("Found")

_MOST = 8
"""Threads at most: each holds a part in memory, and what is coded in turn takes longer."""

_CPU = torch.device("cpu")

_number: ContextVar[int] = ContextVar("number of threads")


@contextmanager
def single_threaded_ops() -> Iterator[None]:
    """Do not divide operations among threads, but have as many for :func:`parallel_map`.

    Divided, operations of a tenth of a millisecond take longer than in one thread. Other
    threads of the program keep the number that they have.
    """
    with _lock:
        number = torch.get_num_threads()
    if number == 1:
        yield
        return
    token = _number.set(number)
    _set_own_number(1)
    try:
        yield
    finally:
        _set_own_number(number)
        _number.reset(token)


def single_threaded_if_forked() -> AbstractContextManager[None]:
    """As :func:`single_threaded_ops` in a process that was forked, and nothing elsewhere.

    The threads that operations are divided among are not forked, and OpenMP would wait for
    them forever.
    """
    return single_threaded_ops() if _is_forked else nullcontext()


def _set_own_number(number: int) -> None:
    """Set the number of threads that operations of this thread are divided among.

    PyTorch's function sets at once what threads start with that have computed nothing yet.
    A new thread finds that number, and sets it again.
    """
    known, is_set = threading.Event(), threading.Event()

    def keep() -> None:
        found = torch.get_num_threads()
        known.set()
        is_set.wait()
        torch.set_num_threads(found)

    with _lock:
        keeper = threading.Thread(target=keep)
        keeper.start()
        known.wait()
        torch.get_num_threads()  # the first use of a thread would undo what was set before
        torch.set_num_threads(number)
        is_set.set()
        keeper.join()


def parallel_map(
    function: Callable[[Item], Found], items: Iterable[Item], device: torch.device = _CPU
) -> list[Found]:
    """What a function gives for each item, in their order.

    It runs in as many threads as PyTorch has in the caller's thread, see also
    :func:`single_threaded_ops`; with one, in that itself.
    Gradients are kept or not as there.

    Args:
        function: what to do; where it raises for an item, this raises the same.
        items: the parts. No more are computed at once than there are threads.
        device: where it computes; one by one, unless that is the CPU.
    """
    items = list(items)
    threads = min(_number.get(torch.get_num_threads()), _MOST)
    if min(threads, len(items)) < 2 or device.type != "cpu":
        return [function(item) for item in items]
    # settings of a thread, unlike those of precision
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def run(item: Item) -> Found:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return function(item)

    return list(_pool(threads).map(run, items))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work, and leave operations undivided."""
    return ThreadPoolExecutor(threads, "parts", lambda: _set_own_number(1))


_lock = threading.Lock()
"""Held where a thread's number is set, or may be found for the first time."""

_is_forked = False


def _after_fork() -> None:
    global _is_forked
    _is_forked = True
    _pool.cache_clear()  # threads are not forked
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork
    )
