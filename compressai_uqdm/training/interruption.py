"""Ctrl-C and SIGTERM, which wait for the end of a step."""

import os
import signal
import sys
import threading
import time

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interruption", "leave_interruptions_to_the_parent", "stopped_at_once"]

ONE_PRESS_SECONDS = 1.0
"""Launchers pass on what the terminal sent already: so close together, it is one press."""


class Interruption:
    """While it is entered, a first SIGINT or SIGTERM is only recorded.

    A second Ctrl-C raises ``KeyboardInterrupt``. Outside of the main thread, where Python
    allows no handlers, nothing is recorded.

    Args:
        announce: whether to write on the terminal that a signal has come.

    Attributes:
        signal: number of the signal that came, or 0.
    """

    def __init__(self, announce: bool):
        self.announce, self.signal = announce, 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for kind in (signal.SIGINT, signal.SIGTERM):
                self._before[kind] = signal.signal(kind, self._record)
        return self

    def __exit__(self, *error: object) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def _record(self, kind: int, frame: FrameType | None) -> None:
        if self.signal:
            waited = time.monotonic() - self._since
            if kind == signal.SIGINT and waited > ONE_PRESS_SECONDS:
                raise KeyboardInterrupt
            return
        self.signal, self._since = kind, time.monotonic()
        if self.announce:
            # not print: the signal may have come in the middle of one
            os.write(2, b"\nstopping after this step; Ctrl-C again: at once\n")


def leave_interruptions_to_the_parent(worker: int) -> None:
    """Ignore signals in a process that reads images, which its parent ends."""
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)


@contextmanager
def stopped_at_once(how_to_resume: str) -> Iterator[None]:
    """End a command at Ctrl-C with a line, not with a traceback.

    Args:
        how_to_resume: how the user resumes the command, for that line.

    Imports that take seconds belong inside, too.

    Raises:
        SystemExit: with 128 and the signal's number, as of a program that does not
            handle it.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f"stopped at once: {how_to_resume}", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
