"""Layers of integers, fake-quantized: one code for training and inference.

A layer keeps its weights in real units and rounds them to fixed-point numbers at every
use, with a straight-through gradient (quantization-aware training). What is coded follows
from the rounded integers alone.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import torch
import torch.nn as nn
import torch.nn.functional as F

from torch import Tensor

from ..precision import SinglePrecision
from .arithmetic import HIDDEN_BITS, HIDDEN_MAX, WEIGHT_BITS, rounded

__all__ = [
    "FixedPoint",
    "IntegerBias",
    "IntegerConv1x1",
    "IntegerConv2d",
    "IntegerLayer",
    "IntegerLinear",
]


class FixedPoint(NamedTuple):
    """The fixed-point numbers of a layer; by default its inputs are hidden activations."""

    input_bits: int = HIDDEN_BITS
    """Fractional bits of inputs."""

    input_max: int = HIDDEN_MAX
    """Largest magnitude of an input, as an integer."""

    weight_bits: int = WEIGHT_BITS
    """Fractional bits of weights."""

    @property
    def sum_bits(self) -> int:
        """Fractional bits of sums and biases."""
        return self.input_bits + self.weight_bits


class IntegerLayer(SinglePrecision, nn.Module):
    """Weights and a bias that are rounded to integers where they are used.

    Args:
        weight: shape of the weights, ``(out, in, ...)``, or None.
        bias: shape of the bias, ``(out,)``, or None.
        numbers: fixed-point numbers.
        subsets: number of subsets of values that have weights of their own, stacked in a
            first dimension; 0 where all share them.
        rounded_to: fractional bits that a floor leaves of the sums. The bias then holds a
            half of the last of them, so that the floor rounds to the nearest.
        mask: which weights are in use, bool, in the shape of the weights.

    Attributes:
        weight, bias: in real units, float32, zero at first; or None.
        rounding_offset: the half in the integer bias, or 0.
    """

    weight: Tensor
    bias: Tensor
    mask: Tensor | None

    def __init__(
        self,
        weight: Sequence[int] | None,
        bias: Sequence[int] | None,
        numbers: FixedPoint,
        subsets: int = 0,
        rounded_to: int | None = None,
        mask: Tensor | None = None,
    ):
        super().__init__()
        for name, shape in (("weight", weight), ("bias", bias)):
            parameter = None
            if shape is not None:
                stacked = (subsets, *shape) if subsets else shape
                parameter = nn.Parameter(torch.zeros(stacked, dtype=torch.float32))
            self.register_parameter(name, parameter)
        self.register_buffer("mask", mask, persistent=False)
        self.numbers, self.subsets = numbers, subsets
        dropped = 0 if rounded_to is None else numbers.sum_bits - rounded_to
        self.rounding_offset = 1 << dropped >> 1

    def set_trained(self, trained: bool) -> None:
        """Make the weights parameters, or buffers.

        CompressAI's optimizers take every parameter, and DistributedDataParallel waits for
        a gradient of each: weights that the loss of the model does not train are buffers.
        """
        for name in ("weight", "bias"):
            value = getattr(self, name)
            if value is None or isinstance(value, nn.Parameter) == trained:
                continue
            delattr(self, name)
            if trained:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value.detach())

    def integer_weight(self, subset: int | None = None) -> Tensor:
        """Return the weights as integers, float32, of one subset or of all."""
        weight, mask = self.weight, self.mask
        if subset is not None:
            weight, mask = weight[subset], None if mask is None else mask[subset]
        if mask is not None:
            weight = weight * mask
        return rounded(weight.float(), 2.0**self.numbers.weight_bits)

    def integer_bias(self, subset: int | None = None) -> Tensor:
        """Return the bias as integers, float32, with the rounding offset."""
        bias = self.bias if subset is None else self.bias[subset]
        found = rounded(bias.float(), 2.0**self.numbers.sum_bits)
        return found + self.rounding_offset if self.rounding_offset else found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # flat: a tensor of five dimensions takes no memory format of four
        return super()._apply(lambda t: fn(t.flatten()).view(t.shape), recurse)


class IntegerBias(IntegerLayer):
    """A bias alone: ``[N, out]`` to ``[N, out]``.

    Args:
        outputs: their number.
        bits: fractional bits of the inputs.
    """

    def __init__(self, outputs: int, bits: int):
        super().__init__(None, (outputs,), FixedPoint(bits, weight_bits=0))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.integer_bias().to(x.dtype)


class IntegerLinear(IntegerLayer):
    """Products of rows: ``[N, in]`` to ``[N, out]``."""

    def __init__(self, inputs: int, outputs: int, numbers: FixedPoint):
        super().__init__((outputs, inputs), (outputs,), numbers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.integer_bias(), x, self.integer_weight().T)


class IntegerConv1x1(IntegerLayer):
    """A 1x1 convolution: ``[B, in, h, w]`` to ``[B, out, h, w]``.

    One product of matrices is faster than PyTorch's convolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        numbers: FixedPoint = FixedPoint(),
        *,
        subsets: int = 0,
        rounded_to: int | None = None,
    ):
        super().__init__((outputs, inputs), (outputs,), numbers, subsets, rounded_to)

    def forward(self, x: Tensor, subset: int | None = None) -> Tensor:
        B, _, h, w = x.shape
        columns = x.float().transpose(0, 1).flatten(1)  # of one picture: a view
        bias, weight = self.integer_bias(subset)[:, None], self.integer_weight(subset)
        return torch.addmm(bias, weight, columns).view(-1, B, h, w).transpose(0, 1)


class IntegerConv2d(IntegerLayer):
    """A convolution without padding: ``[B, in, h, w]`` to ``[B, out, h', w']``."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        numbers: FixedPoint = FixedPoint(),
        *,
        stride: int = 1,
        bias: bool = True,
        subsets: int = 0,
        rounded_to: int | None = None,
        mask: Tensor | None = None,
    ):
        shape = outputs, inputs, kernel_size, kernel_size
        biases = (outputs,) if bias else None
        super().__init__(shape, biases, numbers, subsets, rounded_to, mask)
        self.stride = stride

    def forward(self, x: Tensor, subset: int | None = None) -> Tensor:
        bias = None if self.bias is None else self.integer_bias(subset)
        return F.conv2d(x.float(), self.integer_weight(subset), bias, self.stride)
