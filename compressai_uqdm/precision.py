"""Modules that stay in single precision if their model is converted to half precision."""

from collections.abc import Callable
from typing import Self

import torch

from torch import Tensor

__all__ = ["SinglePrecision"]


class SinglePrecision:
    """Mixin for modules that ``half()`` and ``bfloat16()`` leave in single precision.

    Entropy models and noise schedules are small, and the bitstream depends on them: in half
    precision their tables and integer weights would change.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def convert(t: Tensor) -> Tensor:
            converted = fn(t)
            is_half = converted.dtype in (torch.float16, torch.bfloat16)
            return t.to(converted.device) if is_half else converted

        super()._apply(convert, recurse)  # type: ignore[misc]
        return self
