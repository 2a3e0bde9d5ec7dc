"""Telling how far long work has come."""

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Passes", "Progress"]

Progress: TypeAlias = Callable[[float], object]
"""Called with the share of some work that is done, ever more, 1 at its end."""


class Passes:
    """The share done of work that is passes of a network.

    It is the progress of each pass in turn.

    Args:
        progress: told the share of all.
        expected: the number of passes; where fewer were enough, :meth:`end` says so.
    """

    def __init__(self, progress: Progress | None, expected: int):
        self.progress = progress or (lambda share: None)
        self.expected, self.done = max(expected, 1), 0

    def __call__(self, share: float) -> None:
        self.progress(min((self.done + share) / self.expected, 1.0))
        self.done += share >= 1

    def end(self) -> None:
        """All is done."""
        self.progress(1.0)
