"""A network of integers that improves the picture of a stage in the cosine basis.

Every coefficient at its mean makes a picture; what stands in no coefficient alone, such as
an edge that must go on across blocks, this network knows. It sees the picture less its
mean around each pixel, and the logarithm of how far each may be off; it gives what to add,
in these deviations. It is for eyes only: nothing that is coded depends on it.

.. code-block:: none

    phases of 6 planes: 24 ─► 3x3 ReLU: 32 ─► 3x3 ReLU: 32 ─► 3x3: phases of 3 planes

Weights and activations are fixed-point numbers, and no sum reaches 2^24.
"""

import numpy as np
import torch
import torch.nn.functional as F

from torch import Tensor

from ...integer.arithmetic import (
    HIDDEN_BITS,
    HIDDEN_MAX,
    WEIGHT_BITS,
    IntegerNetwork,
    activate,
    check_sums,
    rounded_shift,
    row_chunks,
)
from ...settings import exact_floats
from ...threads import parallel_map
from .pixel_posterior import (
    DEVIATION_BITS,
    INPUT_BITS,
    INPUT_MAX,
    POSITION_BITS,
    PixelPosterior,
    deviations_of,
)

__all__ = ["LAYERS", "PictureFilter"]

LAYERS = ((24, 32), (32, 32), (32, 12))
"""Channels in and out of each layer."""

SUM_BITS = HIDDEN_BITS + WEIGHT_BITS
HALO = len(LAYERS)  # places around one, of half the resolution, that tell of it


class PictureFilter(IntegerNetwork):
    """What to add to a picture.

    Attributes:
        conv_0, ...: weights of the layers, int32, ``[out, in, 3, 3]``, and their biases
            ``conv_0_bias``, ...; zero at first: pictures stay as they are.
    """

    def __init__(self) -> None:
        shapes: dict[str, tuple[int, ...]] = {}
        for i, (inputs, outputs) in enumerate(LAYERS):
            shapes |= {f"conv_{i}": (outputs, inputs, 3, 3), f"conv_{i}_bias": (outputs,)}
        super().__init__(shapes)

    def check(self) -> None:
        w = dict(self.named_buffers())
        for i in range(len(LAYERS)):
            largest = HIDDEN_MAX if i else INPUT_MAX
            check_sums(
                f"conv_{i}", (w[f"conv_{i}"].flatten(1), largest), bias=w[f"conv_{i}_bias"]
            )

    def fractional_bits(self, name: str) -> int:
        if name.endswith("bias"):
            return SUM_BITS
        return SUM_BITS - INPUT_BITS if name == "conv_0" else WEIGHT_BITS

    def rounding_offset(self, name: str) -> int:
        return 1 << (WEIGHT_BITS - 1) if name in ("conv_0_bias", "conv_1_bias") else 0

    @torch.no_grad()
    def forward(self, posterior: PixelPosterior) -> np.ndarray:
        """The better picture: positions as of the guess, int32, ``[3, H, W]``."""
        found = posterior.mean.copy()
        _, H, W = posterior.mean.shape
        h, w = -(-H // 2), -(-W // 2)
        x = np.arange(-2 * HALO, 2 * (w + HALO)).clip(0, W - 1)
        shift = SUM_BITS + DEVIATION_BITS - POSITION_BITS
        weights = self._weights()

        def improve(rows: slice) -> None:
            y = np.arange(2 * (rows.start - HALO), 2 * (rows.stop + HALO)).clip(0, H - 1)
            window = torch.from_numpy(posterior.planes[:, y[:, None], x]).float()
            sums = self._layers(F.pixel_unshuffle(window, 2), weights)
            change = F.pixel_shuffle(sums, 2).to(torch.int64).numpy()
            here = slice(2 * rows.start, min(2 * rows.stop, H))
            change = change[:, : here.stop - here.start, :W]
            move = change * deviations_of(posterior.log_deviation[:, here])
            found[:, here] += rounded_shift(move, shift)

        with exact_floats():
            parallel_map(improve, row_chunks(h, w))
        return found

    def layers(self, x: Tensor) -> Tensor:
        """The network itself, whose sums are exact.

        Args:
            x: phases of the planes, integers, float32, ``[24, h, w]``, with whatever is to
                be seen around them: nothing is outside.

        Returns:
            what to add to the picture, in deviations, integers of ``SUM_BITS`` fractional
            bits, float32, ``[12, h - 6, w - 6]``.
        """
        return self._layers(x, self._weights())

    def _weights(self) -> dict[str, Tensor]:
        return {name: buffer.cpu().float() for name, buffer in self.named_buffers()}

    @staticmethod
    def _layers(x: Tensor, w: dict[str, Tensor]) -> Tensor:
        for i in range(len(LAYERS)):
            x = F.conv2d(x[None], w[f"conv_{i}"], w[f"conv_{i}_bias"])[0]
            if i + 1 < len(LAYERS):
                x = activate(x, SUM_BITS)
        return x
