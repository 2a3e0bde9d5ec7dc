"""Python threads that process parts of a picture in parallel.

Operations on one part are too small to gain from PyTorch's own threads. PyTorch and NumPy
release Python's lock while they compute, so several Python threads run at the same time.
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
Result = TypeVar("Result")

_MAX_THREADS = 8
"""Each thread holds a part in memory, and the sequential coding limits the gain."""

_CPU = torch.device("cpu")

_number: ContextVar[int] = ContextVar("number of threads")


@contextmanager
def single_threaded_ops() -> Iterator[None]:
    """Run each operation of this thread in one thread; keep :func:`parallel_map` parallel.

    PyTorch takes longer for an operation of a tenth of a millisecond in several threads
    than in one. Other threads of the program keep their setting.
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
    """Return :func:`single_threaded_ops` in a forked process, else a null context.

    OpenMP's threads do not exist in a forked process, and OpenMP would wait for them
    forever.
    """
    return single_threaded_ops() if _is_forked else nullcontext()


def _set_own_number(number: int) -> None:
    """Set the number of PyTorch's threads for the operations of this thread only.

    PyTorch's setter also changes the default of threads that have not computed yet. A new
    thread reads that default before, and sets it again after.
    """
    is_read, is_set = threading.Event(), threading.Event()

    def keep() -> None:
        default = torch.get_num_threads()
        is_read.set()
        is_set.wait()
        torch.set_num_threads(default)

    with _lock:
        keeper = threading.Thread(target=keep)
        keeper.start()
        is_read.wait()
        torch.get_num_threads()  # else the first use in this thread resets the number
        torch.set_num_threads(number)
        is_set.set()
        keeper.join()


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], device: torch.device = _CPU
) -> list[Result]:
    """Return the results of a function for all items, in their order.

    The number of threads is that of PyTorch in the calling thread, or its value before
    :func:`single_threaded_ops`. With one thread, the function runs in the calling thread.
    The threads record gradients if the calling thread does.

    Args:
        function: the function; its exceptions are raised in the calling thread.
        items: its arguments. No more of them are processed at once than there are threads.
        device: device of the computation; unless it is the CPU, items run one by one.
    """
    items = list(items)
    threads = min(_number.get(torch.get_num_threads()), _MAX_THREADS)
    if min(threads, len(items)) < 2 or device.type != "cpu":
        return [function(item) for item in items]
    # these are settings of a thread, unlike those of precision
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def run(item: Item) -> Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return function(item)

    return list(_pool(threads).map(run, items))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool of threads whose operations run in one thread each."""
    return ThreadPoolExecutor(threads, "parts", lambda: _set_own_number(1))


_lock = threading.Lock()
"""Held while a thread's number is set or read."""

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
