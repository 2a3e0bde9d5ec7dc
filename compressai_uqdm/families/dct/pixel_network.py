"""The context network of pixels, in integers."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F

from torch import Tensor

from ...entropy_models.coding_order import CODING_ORDER
from ...integer.arithmetic import (
    HIDDEN_BITS,
    HIDDEN_MAX,
    WEIGHT_BITS,
    IntegerNetwork,
    activate,
    check_sums,
)
from ...threads import parallel_map
from .pixel_posterior import INPUT_BITS, INPUT_MAX, N_BANDS, SIDE, PixelPosterior

__all__ = ["Part", "PixelNetwork"]

HIDDEN = 48
"""Hidden channels of a group."""

SUM_BITS = HIDDEN_BITS + WEIGHT_BITS
CONV_BITS = SUM_BITS - INPUT_BITS  # fractional bits of weights of inputs

_SPARSE_PARTS = 8  # that values far apart are computed in, to bound memory


# ---- the network ----


Part: TypeAlias = tuple[slice, Tensor, Tensor]
"""Rows of a group, and what the network gives there: hidden activations and outputs."""

SHAPES = {
    "conv": (len(CODING_ORDER), HIDDEN + 1, 9, SIDE, SIDE),
    "conv_bias": (len(CODING_ORDER), HIDDEN),
    "bands": (len(CODING_ORDER), HIDDEN, N_BANDS),
    "mix": (len(CODING_ORDER), HIDDEN, HIDDEN),
    "mix_bias": (len(CODING_ORDER), HIDDEN),
    "head": (len(CODING_ORDER), 2, HIDDEN),
    "head_bias": (len(CODING_ORDER), 2),
}
"""Of the network's parameters; the last output of ``conv`` is the linear path."""


class PixelNetwork(IntegerNetwork):
    """The network of integers that tells where pixels are, by the window around them.

    Attributes:
        conv, bands: of a group's first layer, int32, shapes as in ``SHAPES``;
            ``conv_bias``.
        mix, mix_bias: of its second.
        head, head_bias: of its outputs.
    """

    bands: Tensor
    conv_bias: Tensor

    def __init__(self) -> None:
        super().__init__(SHAPES)

    def check(self) -> None:
        w = dict(self.named_buffers())
        conv = w["conv"].flatten(2)
        check_sums(
            "conv",
            (conv[:, :-1], INPUT_MAX),
            (w["bands"], INPUT_MAX),
            bias=w["conv_bias"],
        )
        check_sums(
            "conv", (conv[:, -1:], INPUT_MAX), bias=conv.new_zeros(len(CODING_ORDER), 1)
        )
        for name in ("mix", "head"):
            check_sums(name, (w[name], HIDDEN_MAX), bias=w[f"{name}_bias"])

    def group(
        self, errors: np.ndarray, posterior: PixelPosterior, g: int
    ) -> Callable[[slice], Part]:
        """The network at the values of one group.

        Args:
            errors: those so far, int16, ``[3, H, W]``.
            posterior: of the picture.
            g: number of the group.

        Returns:
            a function that runs it at some rows of the group, and gives of these the
            outputs of :meth:`layers`: hidden activations, and what to move the guess by,
            in deviations, and the logarithm of the scale, less that of the deviation,
            with 15 fractional bits.
        """
        _, (row, column) = CODING_ORDER[g]
        _, H, W = errors.shape
        n = -(-(W - column) // 2)
        # mirrored, pixels stay in their phase: what is not decoded yet is not seen
        before, width = SIDE // 2 - column, 2 * n + SIDE - 2
        sides = (0, 0), (0, 0), (before, width - before - W)
        w = self._weights(g)

        def run(rows: slice) -> Part:
            h = rows.stop - rows.start
            first = 2 * rows.start + row - SIDE // 2
            down = _mirrored(np.arange(first, first + 2 * h + SIDE - 2), H)
            seen = np.concatenate(
                [planes[:, down] for planes in (errors, posterior.planes)]
            )
            window = torch.from_numpy(np.pad(seen, sides, "reflect")).float()
            top = rows.start // 4  # a block is four of a group's values wide and high
            of_blocks = torch.from_numpy(
                posterior.bands[:, top : -(-rows.stop // 4)]
            ).float()
            of_blocks = torch.einsum("oi,ihw->ohw", w["bands"], of_blocks)
            of_blocks += w["conv_bias"][:, None, None]
            spread = of_blocks[:, :, None, :, None].expand(-1, -1, 4, -1, 4)
            spread = spread.flatten(3).flatten(1, 2)
            spread = spread[:, rows.start - 4 * top :][:, :h, :n]
            return rows, *self._layers(window, spread, w)

        return run

    def some(
        self, errors: np.ndarray, posterior: PixelPosterior, g: int, every: int
    ) -> tuple[Tensor, Tensor]:
        """Run it at every so many values of a group: outputs of :meth:`layers`."""
        _, (row, column) = CODING_ORDER[g]
        _, H, W = errors.shape
        h, n = -(-(H - row) // 2), -(-(W - column) // 2)
        around, w = np.arange(SIDE) - SIDE // 2, self._weights(g)

        def run(some: np.ndarray) -> tuple[Tensor, Tensor]:
            y, x = 2 * (some // n) + row, 2 * (some % n) + column
            down = _mirrored(y + around[:, None, None], H)
            across = _mirrored(x + around[:, None], W)
            seen = [planes[:, down, across] for planes in (errors, posterior.planes)]
            windows = torch.from_numpy(np.concatenate(seen)).float().flatten(0, 2)
            of_blocks = torch.from_numpy(posterior.bands[:, y // 8, x // 8]).float()
            of_blocks = torch.addmm(w["conv_bias"][:, None], w["bands"], of_blocks)
            return self._later_layers(w["conv"].flatten(1) @ windows, of_blocks, w)

        found = parallel_map(run, np.array_split(np.arange(0, h * n, every), _SPARSE_PARTS))
        hidden, out = (torch.cat(pieces, 1) for pieces in zip(*found))
        return hidden, out

    def layers(self, window: Tensor, of_blocks: Tensor, g: int) -> tuple[Tensor, Tensor]:
        """The network itself, whose sums are exact.

        Args:
            window: planes at and around n values of h rows, integers, float32,
                ``[9, 2 h + 3, 2 n + 3]``.
            of_blocks: what the bands of their blocks add to the first layer's sums, with
                its bias, float32, ``[48, h, n]``.
            g: number of the group.

        Returns:
            as :meth:`group`, integers, float32, ``[48, h, n]``, and float64, ``[2, h, n]``.
        """
        return self._layers(window, of_blocks, self._weights(g))

    def _layers(
        self, window: Tensor, of_blocks: Tensor, w: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        sums = F.conv2d(window[None], w["conv"], stride=2)[0]
        return self._later_layers(sums, of_blocks, w)

    def _later_layers(
        self, sums: Tensor, of_blocks: Tensor, w: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        hidden = activate((sums[:-1] + of_blocks).flatten(1), SUM_BITS)
        hidden = activate(torch.addmm(w["mix_bias"][:, None], w["mix"], hidden), SUM_BITS)
        out = torch.addmm(w["head_bias"][:, None], w["head"], hidden).double()
        out = out.reshape(2, *of_blocks.shape[1:])
        out = torch.stack([out[0] + sums[-1].double(), out[1]])
        return hidden.reshape(of_blocks.shape), out

    def _weights(self, g: int) -> dict[str, Tensor]:
        return {name: buffer[g].cpu().float() for name, buffer in self.named_buffers()}

    def fractional_bits(self, name: str) -> int:
        if name.endswith("bias"):
            return SUM_BITS
        return CONV_BITS if name in ("conv", "bands") else WEIGHT_BITS

    def rounding_offset(self, name: str) -> int:
        return 1 << (WEIGHT_BITS - 1) if name in ("conv_bias", "mix_bias") else 0


def _mirrored(places: np.ndarray, size: int) -> np.ndarray:
    """Places outside of 0..size - 1 seen in a mirror at the first and the last."""
    period = max(2 * size - 2, 1)
    return size - 1 - np.abs(places % period - (size - 1))
