"""The context network of pixels, in integers.

Its weights are fixed-point numbers, and none of its sums reaches 2^24
(:mod:`compressai_uqdm.integer`).
"""

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
    row_chunks,
)

__all__ = [
    "HIDDEN",
    "INPUT_BITS",
    "INPUT_MAX",
    "SUM_BITS",
    "TRUNK_LAYERS",
    "PixelNetwork",
    "channel_of",
    "padded",
    "phases",
    "shapes",
]

INPUT_BITS, INPUT_MAX = 6, 1023
"""Fractional bits of the network's inputs, and their largest magnitude."""

HIDDEN = 32
"""Hidden channels of a group."""

TRUNK, TRUNK_LAYERS = 48, 3
"""Channels and layers of what all groups share."""

SUM_BITS = HIDDEN_BITS + WEIGHT_BITS
"""Fractional bits of the sums of its layers, and of what it gives."""

_CONV_BITS = 9  # fractional bits of weights on the picture: its sums are as the others
_PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))


class PixelNetwork(IntegerNetwork):
    r"""The network of integers that tells where levels are.

    It sees the 2x2 phases of a plane as channels, so its 3x3 convolutions are of 6x6
    values. A level, decoded or not, is seen less the mean of the guesses around it.

    .. code-block:: none

        planes, first guess ─► 3x3 ReLU ─► 3x3 ReLU ─► 3x3 ReLU ─┬──┐   once
        first guess ─────────────────────────── linear 3x3, 1x1 ─┴──┼─► better guess
                                                               1x1  │
        levels decoded so far, ─┐  3x3                          ▼   │   for each
        guesses of the others  ─┴────► 32 channels ───────────► + ReLU ─► 1x1 ReLU ─► 1x1
                                  └──────────── linear ──────────────► + location, scale

    The last 1x1 is refitted to the picture by its encoder (:mod:`.head_adaptation`).

    Args:
        planes: number of planes beside the guess.

    Attributes:
        trunk_0, ...: weights of the shared layers, ``[48, 12 (planes + 1), 3, 3]`` and
            ``[48, 48, 3, 3]``, int32 as all that follow; ``trunk_0_bias``, ..., ``[48]``.
        estimate, estimate_conv, estimate_bias: of the better guess, ``[12, 48]``,
            ``[12, 12, 3, 3]`` and ``[12]``.
        conv, trunk_mix, conv_bias: of a group's first layer, ``[12, 33, 12, 3, 3]``, the
            last output being the linear path, ``[12, 32, 48]`` and ``[12, 32]``.
        mix, mix_bias: of its second, ``[12, 32, 32]`` and ``[12, 32]``.
        head, head_bias: of its outputs, ``[12, 2, 32]`` and ``[12, 2]``.
    """

    def __init__(self, planes: int):
        super().__init__(shapes(planes))

    def check(self) -> None:
        w = dict(self.named_buffers())
        for i in range(TRUNK_LAYERS):
            term = (w[f"trunk_{i}"].flatten(1), HIDDEN_MAX if i else INPUT_MAX)
            check_sums(f"trunk_{i}", term, bias=w[f"trunk_{i}_bias"])
        check_sums(
            "estimate",
            (w["estimate"], HIDDEN_MAX),
            (w["estimate_conv"].flatten(1), INPUT_MAX),
            bias=w["estimate_bias"],
        )
        conv = w["conv"].flatten(2)
        check_sums(
            "conv",
            (conv[:, :-1], INPUT_MAX),
            (w["trunk_mix"], HIDDEN_MAX),
            bias=w["conv_bias"],
        )
        check_sums(
            "conv", (conv[:, -1:], INPUT_MAX), bias=conv.new_zeros(len(CODING_ORDER), 1)
        )
        for name in ("mix", "head"):
            check_sums(name, (w[name], HIDDEN_MAX), bias=w[f"{name}_bias"])

    def trunk(self, planes: np.ndarray) -> np.ndarray:
        """What all groups share of a picture.

        Args:
            planes: the phases of all planes, the guess first, ``[12 (planes + 1), h, w]``.

        Returns:
            hidden activations, int16, ``[48, h, w]``.
        """
        w = self._weights()
        bits = INPUT_BITS + WEIGHT_BITS
        for i in range(TRUNK_LAYERS):
            weight, bias = w[f"trunk_{i}"], w[f"trunk_{i}_bias"]
            bordered = padded(planes)
            planes = np.empty((TRUNK, *planes.shape[1:]), np.int16)
            for rows in row_chunks(*planes.shape[1:]):
                sums = F.conv2d(_band(bordered, rows), weight, bias)[0]
                planes[:, rows] = activate(sums, bits).numpy()
            bits = SUM_BITS
        return planes

    def improve(self, picture: np.ndarray, shared: np.ndarray) -> np.ndarray:
        """What must be added to the guess.

        Args:
            picture: the phases of the guess, with a border of one zero, float32,
                ``[12, h + 2, w + 2]``.
            shared: as of :meth:`trunk`.

        Returns:
            integers with 6 fractional bits, int32, ``[12, h, w]``.
        """
        w = self._weights()
        found = np.empty((12, *shared.shape[1:]), np.int32)
        for rows in row_chunks(*shared.shape[1:]):
            sums = F.conv2d(_band(picture, rows), w["estimate_conv"], w["estimate_bias"])[0]
            mixed = torch.einsum("oi,ihw->ohw", w["estimate"], _floats(shared[:, rows]))
            change = ((sums + mixed) * 2.0 ** (INPUT_BITS - SUM_BITS)).floor()
            found[:, rows] = change.clamp(-INPUT_MAX, INPUT_MAX).numpy()
        return found

    def group(
        self, picture: np.ndarray, shared: np.ndarray, g: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run the network at all values of one group, and at phases without a value.

        Args:
            picture: as of :meth:`improve`, with levels where they are decoded.
            shared: as of :meth:`trunk`.
            g: number of the group.

        Returns:
            hidden activations, int16, ``[32, h, w]``; and what to move the guess by, of
            four levels, and the logarithm of the scale, less that which 0 means, int64
            with 15 fractional bits, ``[2, h, w]``.
        """
        w = {name: weight[g] for name, weight in self._weights(of_groups=True).items()}
        seen = np.empty((HIDDEN, *shared.shape[1:]), np.int16)
        found = np.empty((2, *shared.shape[1:]), np.int64)
        for rows in row_chunks(*shared.shape[1:]):
            sums = F.conv2d(_band(picture, rows), w["conv"])[0].flatten(1)
            inside = _floats(shared[:, rows]).flatten(1)
            mixed = torch.addmm(w["conv_bias"][:, None], w["trunk_mix"], inside)
            hidden = activate(sums[:-1] + mixed, SUM_BITS)
            hidden = activate(
                torch.addmm(w["mix_bias"][:, None], w["mix"], hidden), SUM_BITS
            )
            out = torch.addmm(w["head_bias"][:, None], w["head"], hidden).to(torch.int64)
            out[0] += sums[-1].to(torch.int64)
            seen[:, rows] = hidden.reshape(HIDDEN, -1, shared.shape[2]).numpy()
            found[:, rows] = out.reshape(2, -1, shared.shape[2]).numpy()
        return seen, found

    def fractional_bits(self, name: str) -> int:
        if name.endswith("bias"):
            return INPUT_BITS + WEIGHT_BITS if name == "trunk_0_bias" else SUM_BITS
        return _CONV_BITS if name in ("conv", "estimate_conv") else WEIGHT_BITS

    def rounding_offset(self, name: str) -> int:
        if name == "head_bias" or not name.endswith("bias"):
            return 0
        kept = INPUT_BITS if name == "estimate_bias" else HIDDEN_BITS
        return 1 << (self.fractional_bits(name) - kept - 1)

    def _weights(self, of_groups: bool = False) -> dict[str, Tensor]:
        return {
            name: weight.cpu().float()
            for name, weight in self.named_buffers()
            if of_groups != name.startswith(("trunk_0", "trunk_1", "trunk_2", "estimate"))
        }


def shapes(planes: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of a network that sees so many planes beside the guess."""
    n = len(CODING_ORDER)  # and as many phases of a picture
    trunk: dict[str, tuple[int, ...]] = {}
    for i in range(TRUNK_LAYERS):
        inputs = TRUNK if i else n * (planes + 1)
        trunk |= {f"trunk_{i}": (TRUNK, inputs, 3, 3), f"trunk_{i}_bias": (TRUNK,)}
    return {
        **trunk,
        "estimate": (n, TRUNK),
        "estimate_conv": (n, n, 3, 3),
        "estimate_bias": (n,),
        "conv": (n, HIDDEN + 1, n, 3, 3),
        "trunk_mix": (n, HIDDEN, TRUNK),
        "conv_bias": (n, HIDDEN),
        "mix": (n, HIDDEN, HIDDEN),
        "mix_bias": (n, HIDDEN),
        "head": (n, 2, HIDDEN),
        "head_bias": (n, 2),
    }


def channel_of(g: int) -> int:
    """Where a group stands among the phases of a picture."""
    channel, phase = CODING_ORDER[g]
    return len(_PHASES) * channel + _PHASES.index(phase)


def phases(plane: np.ndarray) -> np.ndarray:
    """The 2x2 phases of a plane as channels, ``[3, H, W]`` to ``[12, h, w]``, 0 outside."""
    _, H, W = plane.shape
    even = np.pad(plane, ((0, 0), (0, H % 2), (0, W % 2)))
    found = np.stack([even[:, row::2, column::2] for row, column in _PHASES], 1)
    return found.reshape(-1, *found.shape[2:])


def padded(planes: np.ndarray) -> np.ndarray:
    """Planes, ``[n, h, w]``, with a border of one zero."""
    return np.pad(planes, ((0, 0), (1, 1), (1, 1)))


def _floats(planes: np.ndarray) -> Tensor:
    return torch.from_numpy(planes.astype(np.float32))


def _band(bordered: np.ndarray, rows: slice) -> Tensor:
    """What a 3x3 convolution sees of these rows, of planes with a border of one."""
    return _floats(bordered[:, rows.start : rows.stop + 2])[None]
