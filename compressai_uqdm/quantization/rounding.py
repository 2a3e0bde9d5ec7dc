"""Rounding to integers that encoder and decoder agree on.

Two machines compute the same number with different errors, from another order of a sum or
another instruction. Rounding to integers removes the difference, unless the number is so
near the middle between two integers that the errors decide. In double precision this
happens to one value in many millions. The encoder logs every such value and the integer
that it took, and the decoder takes the same.
"""

import numpy as np
import torch

from torch import Tensor

from ..bitstream.varint import read_varint, varint
from ..errors import DamagedStringError

__all__ = ["Rounding", "RoundingReader", "RoundingLog"]

MARGIN = 2.0**-28
"""Distance from the middle between two integers below which a number is logged.

Machines may differ by less than this. It must be below 1/4."""


class Rounding:
    """Rounding without a log: the integers depend on the machine and its settings."""

    def round(self, x: Tensor) -> Tensor:
        """Return the nearest integers, int32, same shape."""
        return x.round().to(torch.int32)

    def end(self) -> bytes:
        """End a stage, and return its log for the bitstream."""
        return b""


class RoundingLog(Rounding):
    """Rounding of the encoder: logs the numbers of a stage that are near the middle."""

    def __init__(self) -> None:
        self._count = 0  # numbers rounded in this stage so far
        self._entries: list[int] = []

    def round(self, x: Tensor) -> Tensor:
        rounded = super().round(x)
        distance = (x - rounded).abs()
        near = torch.nonzero((distance > 0.5 - MARGIN).flatten()).flatten().cpu()
        low = (x.flatten()[near.to(x.device)] - 0.5).round()
        upper = rounded.flatten()[near.to(x.device)] > low
        for place, side in zip(near.tolist(), upper.tolist()):
            self._entries.append(2 * (self._count + place) + side)
        self._count += x.numel()
        return rounded

    def end(self) -> bytes:
        """End a stage, and return its log: number of entries, then differences, varints.

        An entry is twice the number's position in the stage, plus 1 if it was rounded up.
        """
        entries, self._entries, self._count = self._entries, [], 0
        numbers = [len(entries), *np.diff(entries, prepend=0).tolist()]
        return b"".join(map(varint, numbers))


class RoundingReader(Rounding):
    """Rounding of the decoder: rounds the logged numbers of one stage as the encoder did.

    Args:
        string: bytes that begin with a log from :meth:`RoundingLog.end`.

    Attributes:
        rest: the bytes after the log.

    Raises:
        DamagedStringError: the string does not begin with a log.
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
        self._count = 0
        self.rest = string[at:]

    def round(self, x: Tensor) -> Tensor:
        rounded = super().round(x).contiguous()  # the log counts in this order
        places = (self._entries >> 1) - self._count
        is_logged = (places >= 0) & (places < x.numel())
        self._count += x.numel()
        if is_logged.any():
            at = torch.from_numpy(places[is_logged]).to(x.device)
            side = torch.from_numpy(self._entries[is_logged] & 1).to(x.device)
            low = (x.flatten()[at] - 0.5).round()
            rounded.view(-1)[at] = (low + side).to(torch.int32)
        return rounded

    def end(self) -> bytes:
        """End the stage.

        Raises:
            DamagedStringError: the log has an entry past the last number of the stage.
        """
        if len(self._entries) and self._entries[-1] >> 1 >= self._count:
            raise DamagedStringError("a listed value lies outside of the picture")
        return b""
