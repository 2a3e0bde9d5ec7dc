"""Modules that half precision leaves alone."""

from collections.abc import Callable
from typing import Self

import torch

from torch import Tensor

__all__ = ["SinglePrecision"]


class SinglePrecision:
    """Mixed into a module that ``half()`` and ``bfloat16()`` leave in single precision.

    Entropy models and noise schedules are small, and everything that is coded follows from
    them: their tables, and the integers that weights stand for, would be others.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def convert(t: Tensor) -> Tensor:
            found = fn(t)
            is_half = found.dtype in (torch.float16, torch.bfloat16)
            return t.to(found.device) if is_half else found

        super()._apply(convert, recurse)  # type: ignore[misc]
        return self
