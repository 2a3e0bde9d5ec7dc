"""One input of a command: what a task is, and what it reports."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .progress import Show

__all__ = ["Report", "Task", "WithoutNetwork"]

if TYPE_CHECKING:
    pass


@dataclass
class Report:
    """What there is to tell of an input.

    Args:
        text: for standard output.
        notes: lines for standard error.
        failed: whether the input is not what it should be.
    """

    text: str = ""
    notes: list[str] = field(default_factory=list)
    failed: bool = False


class Task(Protocol):
    """What is done with one input."""

    def __call__(self, source: Path, target: Path | None, show: Show) -> Report:
        """Do it."""
        ...

    def pixels(self, source: Path) -> int:
        """Size of the picture, for a network to work on, or 0 if it is not known."""
        ...

    def pixel_seconds(self, source: Path, is_long: Callable[[float], bool]) -> float:
        """About how long a pixel takes, measured again where it would be long."""
        ...

    def speedup_hints(self) -> list[str]:
        """Options that would take less time."""
        ...


@dataclass(frozen=True)
class WithoutNetwork:
    """What is done at once."""

    def pixels(self, source: Path) -> int:
        return 0

    def pixel_seconds(self, source: Path, is_long: Callable[[float], bool]) -> float:
        return 0.0

    def speedup_hints(self) -> list[str]:
        return []
