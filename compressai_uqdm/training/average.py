"""The average of weights over training (EMA), which is what a run is used with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn as nn

from torch import Tensor

__all__ = ["WeightAverage", "ema_decay"]


def ema_decay(n: int, largest: float) -> float:
    """Return the decay of the average at its n-th update: it starts quick."""
    return min(largest, (1 + n) / (10 + n))


class WeightAverage:
    """The exponential moving average of weights.

    Args:
        weights: what is averaged.
        decay: largest share of the average that an update keeps.

    Attributes:
        tensors: the average of each weight; before the first update, the weight.
        n_updates: number of updates.
    """

    def __init__(self, weights: Sequence[nn.Parameter], decay: float):
        self.weights, self.decay = list(weights), decay
        self.tensors = [weight.detach().clone() for weight in self.weights]
        self.n_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        # the first update replaces the initial weights
        decay = ema_decay(self.n_updates, self.decay) if self.n_updates else 0.0
        weights = [weight.detach() for weight in self.weights]
        torch._foreach_lerp_(self.tensors, weights, 1 - decay)
        self.n_updates += 1

    @torch.no_grad()
    def exchange(self) -> None:
        """Exchange the weights and their average."""
        for average, weight in zip(self.tensors, self.weights):
            now = weight.clone()
            weight.copy_(average)
            average.copy_(now)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the place of the weights for some time."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def state_dict_of(self, module: nn.Module) -> dict[str, Tensor]:
        """Return a module's state dict with the average in the place of its weights."""
        average = {id(w): average for w, average in zip(self.weights, self.tensors)}
        found = module.state_dict()
        for name, parameter in module.named_parameters():
            if id(parameter) in average:
                found[name] = average[id(parameter)]
        return found

    def load(self, tensors: Sequence[Tensor], n_updates: int) -> None:
        """Restore the average from a checkpoint.

        Raises:
            ValueError: it is of other weights.
        """
        shapes = [tensor.shape for tensor in tensors]
        if shapes != [tensor.shape for tensor in self.tensors]:
            raise ValueError("the average of weights has other shapes than the weights")
        for average, tensor in zip(self.tensors, tensors):
            average.copy_(tensor)
        self.n_updates = n_updates
