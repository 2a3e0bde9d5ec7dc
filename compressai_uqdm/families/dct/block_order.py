"""The checkerboard order of blocks: the even parity is coded first, then the odd."""

import functools

from collections.abc import Sequence

import torch

from torch import Tensor

__all__ = ["OPPOSITE_PARITY", "SAME_PARITY", "BlockOrder"]

SAME_PARITY = ((-1, -1), (-1, 1), (0, 0), (1, -1), (1, 1))
"""Offsets (row, column) to the blocks of the same parity in the 3x3 neighbourhood."""
OPPOSITE_PARITY = ((-1, 0), (0, -1), (0, 1), (1, 0))
"""Offsets (row, column) to the blocks of the opposite parity."""

_CPU = torch.device("cpu")


class BlockOrder:
    """Maps the blocks of images to rows of a matrix, ``[B h w, C]``, even parity first.

    Within a parity the blocks are ordered by image, then in raster order.

    Args:
        B: number of images.
        h: number of rows of blocks.
        w: number of blocks in a row.

    Attributes:
        shape: (B, h, w).
        parities: for each parity, its rows of the matrix.
        images: for each parity, the image of each of its N blocks, ``[N]``.
        same_parity: for each parity and each of its blocks, the five blocks of
            :data:`SAME_PARITY` around it, ``[N, 5]``. Blocks are numbered within the
            parity; N stands for a block outside the image.
        opposite_parity: for each parity and each block of the *other* parity, the four
            blocks of :data:`OPPOSITE_PARITY` around it, numbered in the same way,
            ``[N of the other, 4]``.
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
        """Return numbers of the blocks of parity c around each block of parity ``to``."""
        B, h, w = self.shape
        first, end = self.parities[c].start, self.parities[c].stop
        padded = torch.full((B, h + 2, w + 2), end - first, device=_CPU)
        is_c = (self._place >= first) & (self._place < end)
        padded[:, 1:-1, 1:-1][is_c] = self._place[is_c] - first
        is_to = is_c if to == c else ~is_c
        return torch.stack(
            [padded[:, 1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w][is_to] for dy, dx in taps],
            1,
        )

    def matrix(self, planes: Tensor) -> Tensor:
        """Return planes ``[B, C, h, w]`` as a matrix ``[B h w, C]``."""
        blocks = planes.permute(0, 2, 3, 1).reshape(-1, planes.shape[1])
        return blocks.index_select(0, self._order.to(planes.device))

    def planes(self, matrix: Tensor) -> Tensor:
        """Return a matrix ``[B h w, C]`` as planes ``[B, C, h, w]``."""
        place = self._place.flatten().to(matrix.device)
        blocks = matrix.index_select(0, place)
        return blocks.view(*self.shape, -1).permute(0, 3, 1, 2)

    def rows(self, b: slice | int, rows: slice) -> Tensor:
        """Return the matrix rows of some rows of blocks.

        Args:
            b: the image or images.
            rows: rows of blocks.
        """
        return self._place[b, rows].flatten()
