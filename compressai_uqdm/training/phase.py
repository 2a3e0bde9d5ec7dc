"""A phase of a run: what is trained, and how. The trainers differ in their phases alone."""

import math

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch.nn as nn

from torch import Tensor

from .average import WeightAverage

__all__ = ["Phase", "Schedule"]


class Schedule(NamedTuple):
    """The learning rate of each step of a phase."""

    peak: float
    warmup: int  # steps in which it grows to the peak
    last: float | None = None  # its share of the peak after a half cosine; None: no decay

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, counted from 0, of so many."""
        rate = self.peak * min(1, (step + 1) / max(self.warmup, 1))
        if self.last is None:
            return rate
        return rate * (0.5 + 0.5 * math.cos(math.pi * step / steps) + self.last)


class Phase:
    """A part of a model that is trained while all others stay as they are.

    Attributes:
        title: what is trained.
        unit: unit of the loss.
        weights: the trainable weights, those of the optimizer.
        averaged: the weights whose average is kept, by default the same.
        steps: number of steps.
        schedule: learning rate of each step.
        betas: of Adam.
        decay: largest decay of the average of weights.
        batch_size: images per step, over all processes.
        modules: what the accelerator synchronises gradients of.
        has_tests: whether :meth:`measure` measures anything.
        is_tested_first: whether it does so before the first step.
        is_extendable: whether a finished run can be resumed with more steps.
    """

    title: str
    unit = "bpp"
    weights: list[nn.Parameter]
    steps: int
    schedule: Schedule
    betas = (0.9, 0.99)
    decay: float
    batch_size: int
    modules: tuple[nn.Module, ...] = ()
    has_tests = False
    is_tested_first = True
    is_extendable = False

    @property
    def averaged(self) -> list[nn.Parameter]:
        return self.weights

    def batches(self, steps: range) -> Iterator[Any]:
        """Yield what :meth:`losses` takes, for each step, in as many parts as it has.

        Before it yields, it seeds PyTorch's generator by the seed and the step.
        """
        raise NotImplementedError

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Return the loss, by the name ``loss``, and other values to record."""
        raise NotImplementedError

    def auxiliary_loss(self) -> Tensor | float:
        """Return what is added to the loss and not recorded."""
        return 0.0

    def after_step(self) -> None:
        """Do what follows a step of the optimizer."""

    def measure(
        self, average: WeightAverage, stopped: Callable[[], bool]
    ) -> dict[str, float] | None:
        """Measure the model.

        Args:
            average: average of the weights.
            stopped: returns whether a signal came; all processes call it together.

        Returns:
            what is measured, by name; None if it was stopped.
        """
        raise NotImplementedError

    def finish(self) -> None:
        """Put the trained weights, which are their average now, into the model."""

    def state_dict(self, average: WeightAverage) -> dict[str, Any]:
        """Return what a checkpoint must hold of the model.

        Raises:
            ValueError: the weights are too large to be used.
        """
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        raise NotImplementedError
