"""Python threads for parts of a picture.

Operations on a part are too small for PyTorch's own threads to bring anything; but while
they compute, they let other threads of Python run, and so do NumPy's.
"""

import functools
import os
import threading

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

__all__ = ["in_threads", "undivided"]

Item = TypeVar("Item")
Found = TypeVar("Found")

_MOST = 8
"""Threads at most: each holds a part in memory, and what is coded in turn takes longer."""

_CPU = torch.device("cpu")

_number: ContextVar[int] = ContextVar("number of threads")


@contextmanager
def undivided() -> Iterator[None]:
    """Do not divide operations among threads, but have as many for :func:`in_threads`.

    Divided, operations of a tenth of a millisecond take longer than in one thread.
    """
    number = torch.get_num_threads()
    if number == 1:
        yield
        return
    token = _number.set(number)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(number)
        _number.reset(token)


def in_threads(
    function: Callable[[Item], Found], items: Iterable[Item], device: torch.device = _CPU
) -> list[Found]:
    """What a function gives for each item, in their order.

    It runs in as many threads as PyTorch has in the caller's, see also :func:`undivided`;
    with one, in that itself.
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
    all_there = threading.Barrier(threads + 1)

    def start() -> None:
        torch.get_num_threads()  # a thread's number is set at its first use, to the last
        torch.set_num_threads(1)
        all_there.wait()

    pool = ThreadPoolExecutor(threads, "parts", start)
    before = torch.get_num_threads()
    for _ in range(threads):
        pool.submit(int)  # a thread starts where none is idle
    all_there.wait()
    torch.set_num_threads(before)  # for threads to come: they take what was set last
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads are not forked
