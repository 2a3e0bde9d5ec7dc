"""Worker processes of a command: what they do, and how they end."""

import multiprocessing
import os
import signal
import sys
import threading

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_objects
from pathlib import Path
from types import FrameType
from typing import Any

from ..progress import Progress
from .progress import Show
from .task import Report, Task
from .terminal import STANDARD, Failure, format_error

__all__ = [
    "Outcome",
    "attempt",
    "measure",
    "measure_there",
    "start_worker",
    "starts_processes",
    "work_there",
]


@dataclass(frozen=True)
class Outcome:
    """What came of an input."""

    report: Report
    failed: bool = False


def attempt(task: Task, source: Path, target: Path | None, show: Show) -> Outcome:
    try:
        return Outcome(task(source, target, show))
    except Failure:
        raise
    except Exception as error:  # Pillow's and PyTorch's are of many kinds
        if isinstance(error, BrokenPipeError) and target == STANDARD:
            raise  # whoever reads it has enough
        return Outcome(Report(notes=[format_error(error, source)]), failed=True)


def measure(
    task: Task, source: Path, is_long: Callable[[float], bool]
) -> tuple[float, list[str]]:
    """Seconds for a pixel, and what would take less."""
    try:
        return task.pixel_seconds(source, is_long), task.speedup_hints()
    except Failure:
        raise
    except Exception:  # the work will tell
        return 0.0, []


# ---- processes of ours ----

_task: Task
_shares: Any
_at_work = False


@contextmanager
def starts_processes() -> Iterator[None]:
    """What is started here takes no notice of Ctrl-C: its parent does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def start_worker(task: Task, shares: Any) -> None:
    global _task, _shares
    _task, _shares = task, shares
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")


def _stop(kind: int, frame: FrameType | None) -> None:
    if _at_work:
        raise SystemExit  # with nothing half-written
    # at once: what it has half read from a queue, others would take for a message
    os._exit(128 + kind)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for_objects([parent.sentinel])
    os._exit(1)


def work_there(i: int, source: Path, target: Path | None) -> Outcome:
    @contextmanager
    def show() -> Iterator[Progress]:
        yield lambda share: _shares.__setitem__(i, share)

    global _at_work
    try:
        _at_work = True
        outcome = attempt(_task, source, target, show)
        _shares[i] = 1
        return outcome
    except SystemExit:
        os._exit(128 + signal.SIGTERM)
    finally:
        _at_work = False


def measure_there(source: Path, long_pixel: float) -> tuple[float, list[str]]:
    return measure(_task, source, lambda seconds: seconds >= long_pixel)
