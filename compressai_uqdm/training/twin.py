"""Networks of integers as they are fitted: in floats, rounded to them in the end."""

import copy

from typing import Generic, TypeVar

import torch
import torch.nn as nn

from torch import Tensor

from ..integer.arithmetic import HIDDEN_BITS, HIDDEN_MAX, IntegerNetwork

__all__ = ["FloatTwin", "activated", "rounded"]

N = TypeVar("N", bound=IntegerNetwork)


class FloatTwin(nn.Module, Generic[N]):
    """A network of integers before rounding.

    It computes as the integers will: weights and activations are rounded, gradients pass,
    and weights are kept so small that no sum of integers is inexact.

    Args:
        blank: the network of integers, not trained.

    Attributes:
        w: a parameter for each of its buffers, zero at first.
    """

    def __init__(self, blank: N):
        super().__init__()
        # no submodule of this one: it has nothing to train or to move
        self.__dict__["blank"] = blank
        self.blank: N
        self.w = nn.ParameterDict(
            {name: torch.zeros(b.shape) for name, b in blank.named_buffers()}
        )

    def weight(self, name: str) -> Tensor:
        """A parameter, rounded."""
        return rounded(self.w[name], self.blank.fractional_bits(name))

    def used(self, name: str) -> Tensor:
        """A parameter as the network takes it, before rounding."""
        return self.w[name]

    @torch.no_grad()
    def to_integers(self) -> N:
        """The network that the codec uses."""
        network = copy.deepcopy(self.blank)
        for name, buffer in network.named_buffers():
            unit = 2.0 ** network.fractional_bits(name)
            exact = (self.used(name).double() * unit).round()
            buffer.copy_(exact + network.rounding_offset(name))
        network.check()
        return network

    @torch.no_grad()
    def from_integers(self, network: N) -> None:
        """Inverse of :meth:`to_integers`, to go on from."""
        for name, buffer in network.named_buffers():
            unit = 2.0 ** network.fractional_bits(name)
            self.w[name].copy_((buffer.double() - network.rounding_offset(name)) / unit)


def rounded(t: Tensor, bits: int) -> Tensor:
    """Rounded to so many fractional bits; gradients pass."""
    unit = 2.0**bits
    return t + ((t * unit).round() / unit - t).detach()


def activated(sums: Tensor) -> Tensor:
    """Hidden activations of sums."""
    return rounded(sums.clamp(0, HIDDEN_MAX / (1 << HIDDEN_BITS)), HIDDEN_BITS)
