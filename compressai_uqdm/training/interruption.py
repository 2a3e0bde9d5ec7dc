"""Ctrl-C and SIGTERM, kept until a step is done."""

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
    """While it is entered, a first SIGINT or SIGTERM is only noted.

    A second Ctrl-C is a ``KeyboardInterrupt`` as ever, for those who cannot wait. Outside
    of the main thread, where Python allows no handlers, nothing is noted.

    Args:
        announce: tell the terminal that the signal has come.

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
                self._before[kind] = signal.signal(kind, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def _note(self, kind: int, frame: FrameType | None) -> None:
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
    """In a process that reads images: the one that trains ends it when it is done."""
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)


@contextmanager
def stopped_at_once(how_to_go_on: str) -> Iterator[None]:
    """Where Ctrl-C ends a command with a line, not with a traceback.

    What takes seconds to import belongs inside, too.

    Raises:
        SystemExit: with 128 and the signal's number, as of a program that does not
            handle it.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f"stopped at once: {how_to_go_on}", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
