"""The order in which blocks are coded: those of one parity of a checkerboard first."""

import functools

from collections.abc import Sequence

import torch

from torch import Tensor

__all__ = ["OPPOSITE_PARITY", "SAME_PARITY", "BlockOrder"]

SAME_PARITY = ((-1, -1), (-1, 1), (0, 0), (1, -1), (1, 1))
"""Blocks of the same parity in the 3x3 around one."""
OPPOSITE_PARITY = ((-1, 0), (0, -1), (0, 1), (1, 0))
"""Blocks of the opposite parity."""

_CPU = torch.device("cpu")


class BlockOrder:
    """The blocks of images as rows of matrices, ``[B h w, C]``, even parity first.

    Within a parity they are row by row, image after image.

    Args:
        B: images.
        h: blocks in a column.
        w: blocks in a row.

    Attributes:
        shape: (B, h, w).
        parities: rows of the matrices that each parity has.
        images: for each parity, the image that a block belongs to, ``[N]``.
        same_parity: for each parity, places of the five blocks of that parity around each
            of its blocks, among those of that parity; one past the last where there is
            none, ``[N, 5]``.
        opposite_parity: for each parity, places of its four blocks around each block of
            the *other* parity, ``[N, 4]``.
    """

    def __init__(self, B: int, h: int, w: int):
        self.shape = B, h, w
        y, x = torch.arange(h, device=_CPU)[:, None], torch.arange(w, device=_CPU)
        parity = ((y + x) % 2).expand(B, h, w)
        numbers = torch.arange(B * h * w, device=_CPU).view(B, h, w)
        places = [numbers[parity == c] for c in (0, 1)]
        self._order = torch.cat(places)
        self._place = self._order.argsort().view(B, h, w)
        first = len(places[0])
        self.parities = slice(0, first), slice(first, len(self._order))
        self.images = [(numbers // max(h * w, 1)).numpy() for numbers in places]

    @functools.cached_property
    def same_parity(self) -> list[Tensor]:
        return [self._around(c, c, SAME_PARITY) for c in (0, 1)]

    @functools.cached_property
    def opposite_parity(self) -> list[Tensor]:
        return [self._around(c, 1 - c, OPPOSITE_PARITY) for c in (0, 1)]

    def _around(self, c: int, to: int, taps: Sequence[tuple[int, int]]) -> Tensor:
        """Return places of the blocks of parity c around each of the parity ``to``."""
        B, h, w = self.shape
        first, end = self.parities[c].start, self.parities[c].stop
        padded = torch.full((B, h + 2, w + 2), end - first, device=_CPU)
        here = (self._place >= first) & (self._place < end)
        padded[:, 1:-1, 1:-1][here] = self._place[here] - first
        there = here if to == c else ~here
        return torch.stack(
            [padded[:, 1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w][there] for dy, dx in taps],
            1,
        )

    def matrix(self, planes: Tensor) -> Tensor:
        """Planes ``[B, C, h, w]`` as a matrix."""
        blocks = planes.permute(0, 2, 3, 1).reshape(-1, planes.shape[1])
        return blocks.index_select(0, self._order.to(planes.device))

    def planes(self, matrix: Tensor) -> Tensor:
        """A matrix as planes."""
        place = self._place.flatten().to(matrix.device)
        blocks = matrix.index_select(0, place)
        return blocks.view(*self.shape, -1).permute(0, 3, 1, 2)

    def rows(self, b: slice | int, rows: slice) -> Tensor:
        """Rows of matrices that some rows of blocks of an image, or of some, are in."""
        return self._place[b, rows].flatten()
