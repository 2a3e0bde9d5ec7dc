"""The progress bar of a run."""

import sys

from datetime import datetime, timedelta

from tqdm import tqdm

__all__ = ["StepBar", "duration"]

SMOOTHING = 0.05
"""Weight of a step's loss in the average that the bar shows."""


class StepBar:
    """A progress bar of steps with the loss. Once, early, it estimates the end of the run.

    Args:
        step: first step.
        steps: last step.
        shown: whether this process shows the bar.
        unit: unit of the loss: "bpd", bits per dimension, or "bpp", bits per pixel.
    """

    def __init__(self, step: int, steps: int, shown: bool, unit: str = "bpd"):
        self.bar = tqdm(
            initial=step,
            total=steps,
            unit="step",
            disable=not shown,
            dynamic_ncols=True,
            smoothing=SMOOTHING,
        )
        self.shown, self.unit = shown, unit
        self._loss: float | None = None
        self._n_steps, self._seconds, self._estimated = 0, 0.0, False

    def update(self, loss: float, seconds: float) -> None:
        """Show a step, its loss, and how many seconds it took."""
        before = loss if self._loss is None else self._loss
        self._loss = before + SMOOTHING * (loss - before)
        self.bar.set_postfix({self.unit: f"{self._loss:.4f}"}, refresh=False)
        self.bar.update()
        self._estimate(seconds)

    def _estimate(self, seconds: float) -> None:
        self._n_steps += 1
        if self._n_steps == 1:  # warms up
            self.bar.refresh()  # so that there is a loss, however long the next one takes
            return
        self._seconds += seconds
        timed = self._n_steps - 1
        if self._estimated or (timed < 10 and self._seconds < 15):
            return
        self._estimated = True
        each, left = self._seconds / timed, self.bar.total - self.bar.n
        if left > 0 and self.shown:
            end = datetime.now() + timedelta(seconds=each * left)
            self.write(
                f"{each:.2g} s a step: the other {left:,} take {duration(each * left)}, "
                f"until {end:%Y-%m-%d %H:%M}, and tests come on top"
            )

    def write(self, text: str) -> None:
        """Write a line above the bar, on standard error."""
        if self.shown:
            self.bar.write(text, file=sys.stderr)

    def close(self) -> None:
        self.bar.close()


def duration(seconds: float) -> str:
    """Return a time in words, in the two largest units: ``3 h 20 min``."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    days, minutes = divmod(minutes, 24 * 60)
    hours, minutes = divmod(minutes, 60)
    if days:
        return f"{days:,} days {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
