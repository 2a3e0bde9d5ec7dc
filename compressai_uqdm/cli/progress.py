"""Progress bars, and durations in words."""

import time

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from ..progress import Progress
from .terminal import name_of

__all__ = ["Bars", "Show", "bar", "duration"]

Show: TypeAlias = Callable[[], AbstractContextManager[Progress]]
"""Shows the progress of work on one input, from when it is entered."""


def duration(seconds: float) -> str:
    """A time in words, in the two largest units: ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"


@contextmanager
def bar(description: str) -> Iterator[Any]:
    """A bar from 0 to 1 on a terminal, which goes when it is left."""
    from tqdm import tqdm

    with tqdm(
        total=1,
        desc=description,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        disable=None,
        leave=False,
    ) as shown:
        yield shown


class Bars:
    """A bar for each input in turn, which also tells what time is left of all.

    Args:
        weights: of the inputs, such as their pixels.
        shown: whether there are any.
    """

    def __init__(self, weights: Sequence[float], shown: bool):
        self.weights, self.shown = weights, shown
        self.start: float | None = None

    @contextmanager
    def of(self, i: int, source: Path) -> Iterator[Progress]:
        """The bar of input i."""
        if not self.shown:
            yield lambda share: None
            return
        many = len(self.weights) > 1
        if self.start is None:
            self.start = time.monotonic()
        place = f" ({i + 1} of {len(self.weights)})" if many else ""
        with bar(name_of(source) + place) as shown:

            def show(share: float) -> None:
                if many:
                    shown.set_postfix_str(f"all: {self._left(i, share)}", refresh=False)
                shown.update(share - shown.n)

            yield show
            show(1)  # fewer passes may have been enough
            shown.refresh()

    def _left(self, i: int, share: float) -> str:
        assert self.start is not None
        done = sum(self.weights[:i]) + share * self.weights[i]
        if not done:
            return "?"
        left = (time.monotonic() - self.start) * (sum(self.weights) / done - 1)
        return f"{duration(left)} left"
