"""The cosine basis: orthonormal, of blocks of 8x8 pixels and of their three colours.

Noise of a given size is the same distortion in this basis as in pixels, but a photograph
stands in few of its coordinates. 192 coefficients a block: the 3-point cosine transform of
red, green and blue, times the 8x8 one (Ahmed, Natarajan, Rao 1974) of their planes.

Channels are in coding order: by bands of rising frequency, and in each by colour.
"""

import numpy as np
import torch

from torch import Tensor

__all__ = [
    "BLOCK",
    "N_COEFFICIENTS",
    "N_COLOURS",
    "COEFFICIENT_BITS",
    "SUBBANDS",
    "POSITION_BITS",
    "inverse_dct",
    "n_blocks",
    "spread_variances",
    "forward_dct",
]

BLOCK = 8
"""Side of a block, in pixels."""

N_COLOURS, N_COEFFICIENTS = 3, 192
"""Colours, and coefficients of a block."""

_BANDS = ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 6), (7, 8), (9, 14))
"""First and last sum of the two frequencies."""


def _cosines(n: int) -> np.ndarray:
    k, i = np.arange(n)[:, None], np.arange(n)
    matrix = np.cos(np.pi * (i + 0.5) * k / n) * np.sqrt(2 / n)
    matrix[0] /= np.sqrt(2)
    return matrix


def _groups() -> list[list[int]]:
    frequency = np.add.outer(np.arange(BLOCK), np.arange(BLOCK)).reshape(-1)
    return [
        [64 * colour + k for k in np.flatnonzero((low <= frequency) & (frequency <= high))]
        for low, high in _BANDS
        for colour in range(3)
    ]


_ORDER = np.concatenate(_groups())
_PLACE = np.argsort(_ORDER)

SUBBANDS = tuple(
    slice(int(end) - len(group), int(end))
    for group, end in zip(_groups(), np.cumsum([len(group) for group in _groups()]))
)
"""Channels of every group, in coding order: band by band, three colours in each."""

COEFFICIENT_BITS = 6
"""Fractional bits of coefficients that become pixels."""

POSITION_BITS = 16
"""Fractional bits of the positions of pixels."""

_BASIS_BITS = 14
_INNER_BITS = 12
_COLOUR = np.rint(_cosines(3) * (1 << _BASIS_BITS))
_PLANE = np.rint(_cosines(BLOCK) * (1 << _BASIS_BITS))
_COLOUR_SQUARED = np.rint(_cosines(3) ** 2 * (1 << _BASIS_BITS))
_PLANE_SQUARED = np.rint(_cosines(BLOCK) ** 2 * (1 << _BASIS_BITS))


def n_blocks(size: int) -> int:
    """Blocks that cover so many pixels."""
    return -(-size // BLOCK)


def forward_dct(levels: Tensor) -> Tensor:
    """Coefficients of images.

    Args:
        levels: 0..255, ``[B, 3, H, W]``; sides that are no multiple of 8 are extended by
            their last row and column.

    Returns:
        float64, ``[B, 192, ceil(H / 8), ceil(W / 8)]``, in units of levels.
    """
    B, _, H, W = levels.shape
    h, w = n_blocks(H), n_blocks(W)
    rows = torch.arange(h * BLOCK, device=levels.device).clamp(max=H - 1)
    columns = torch.arange(w * BLOCK, device=levels.device).clamp(max=W - 1)
    x = levels[:, :, rows][:, :, :, columns].double() - 127.5
    colour, plane = (torch.from_numpy(_cosines(n)).to(x) for n in (3, BLOCK))
    x = x.view(B, 3, h, BLOCK, w, BLOCK)
    y = torch.einsum("kc,ui,vj,bcyixj->bkuvyx", colour, plane, plane, x)
    return y.reshape(B, 192, h, w)[:, torch.from_numpy(_ORDER).to(x.device)]


def inverse_dct(coefficients: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels of one image, in integers: the same on every machine.

    Args:
        coefficients: integers with 6 fractional bits, ``[192, h, w]``.
        size: (H, W).

    Returns:
        positions in units of levels, int64 with 16 fractional bits, ``[3, H, W]``.
    """
    _, h, w = coefficients.shape
    # float64 holds all of these integers: none reaches 2^53
    y = torch.from_numpy(coefficients[_PLACE]).double().view(3, BLOCK, BLOCK, h, w)
    first = COEFFICIENT_BITS + _BASIS_BITS - _INNER_BITS
    y = _shifted(_product("ui,cuvyx->civyx", _PLANE, y), first)
    y = _shifted(_product("vj,civyx->cijyx", _PLANE, y), _BASIS_BITS)
    y = _product("kc,kijyx->cyixj", _COLOUR, y)
    y = _shifted(y, _INNER_BITS + _BASIS_BITS - POSITION_BITS)
    pixels = y.reshape(3, h * BLOCK, w * BLOCK)[:, : size[0], : size[1]]
    return pixels.long().numpy() + (255 << (POSITION_BITS - 1))


def spread_variances(variances: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Variances of pixels where those of coefficients are known, and these independent.

    Args:
        variances: integers below 2^34, ``[192, h, w]``.
        size: (H, W).

    Returns:
        int64 in the same unit, ``[3, H, W]``; the same on every machine.
    """
    _, h, w = variances.shape
    y = torch.from_numpy(variances[_PLACE]).double().view(3, BLOCK, BLOCK, h, w)
    y = _shifted(_product("ui,cuvyx->civyx", _PLANE_SQUARED, y), _BASIS_BITS)
    y = _shifted(_product("vj,civyx->cijyx", _PLANE_SQUARED, y), _BASIS_BITS)
    y = _shifted(_product("kc,kijyx->cyixj", _COLOUR_SQUARED, y), _BASIS_BITS)
    y = y.reshape(3, h * BLOCK, w * BLOCK)[:, : size[0], : size[1]]
    return y.long().numpy()


def _product(indices: str, matrix: np.ndarray, y: Tensor) -> Tensor:
    # NumPy's products have threads of their own, which are in the way of others
    return torch.einsum(indices, torch.from_numpy(matrix), y)


def _shifted(x: Tensor, bits: int) -> Tensor:
    return ((x + (1 << (bits - 1))) / (1 << bits)).floor_()
