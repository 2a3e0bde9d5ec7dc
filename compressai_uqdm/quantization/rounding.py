"""Rounding that two machines agree on.

Two machines compute the same number with different rounding errors: another order of a
sum, another instruction. Rounded to an integer it becomes the same on both, but where it
lies so near to the middle between two integers that the errors decide. In double
precision that is rare, one value in many millions, so the encoder tells of every such
value which integer it took.
"""

import numpy as np
import torch

from torch import Tensor

from ..bitstream.varint import read_varint, varint
from ..errors import DamagedStringError

__all__ = ["Guard", "ReadGuard", "WrittenGuard"]

MARGIN = 2.0**-28
"""Distance from the middle between two integers below which a number is listed.

Numbers may differ by as much between machines; it must be below 1/4."""


class Guard:
    """Rounding as it comes: the integers are those of this machine and its settings."""

    def round(self, x: Tensor) -> Tensor:
        """Round to the nearest integers, int32, of the same shape."""
        return x.round().to(torch.int32)

    def end(self) -> bytes:
        """What the decoder must know of a stage whose numbers were all rounded."""
        return b""


class WrittenGuard(Guard):
    """The encoder's: lists the numbers of a stage that are near the middle."""

    def __init__(self) -> None:
        self._seen = 0
        self._entries: list[int] = []

    def round(self, x: Tensor) -> Tensor:
        rounded = super().round(x)
        distance = (x - rounded).abs()
        near = torch.nonzero((distance > 0.5 - MARGIN).flatten()).flatten().cpu()
        low = (x.flatten()[near.to(x.device)] - 0.5).round()
        upper = rounded.flatten()[near.to(x.device)] > low
        for place, side in zip(near.tolist(), upper.tolist()):
            self._entries.append(2 * (self._seen + place) + side)
        self._seen += x.numel()
        return rounded

    def end(self) -> bytes:
        """The list, and start the next: its length, and differences, as varints."""
        entries, self._entries, self._seen = self._entries, [], 0
        numbers = [len(entries), *np.diff(entries, prepend=0).tolist()]
        return b"".join(map(varint, numbers))


class ReadGuard(Guard):
    """The decoder's, of one stage.

    Args:
        string: begins with the list.

    Attributes:
        rest: what follows the list.

    Raises:
        DamagedStringError: it does not.
    """

    def __init__(self, string: bytes):
        count, at = read_varint(string, 0)
        if count > len(string):
            raise DamagedStringError(f"a list of {count} values in {len(string)} bytes")
        entries = []
        for _ in range(count):
            difference, at = read_varint(string, at)
            entries.append(difference)
        self._entries = np.cumsum(entries, dtype=np.int64)
        self._seen = 0
        self.rest = string[at:]

    def round(self, x: Tensor) -> Tensor:
        rounded = super().round(x).contiguous()  # in the order of the list
        places = (self._entries >> 1) - self._seen
        here = (places >= 0) & (places < x.numel())
        self._seen += x.numel()
        if here.any():
            at = torch.from_numpy(places[here]).to(x.device)
            side = torch.from_numpy(self._entries[here] & 1).to(x.device)
            low = (x.flatten()[at] - 0.5).round()
            rounded.view(-1)[at] = (low + side).to(torch.int32)
        return rounded

    def end(self) -> bytes:
        if len(self._entries) and self._entries[-1] >> 1 >= self._seen:
            raise DamagedStringError("a listed value lies outside of the picture")
        return b""
