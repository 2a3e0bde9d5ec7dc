"""What every prior of the last stage does: levels of pixels, given the latents."""

import numpy as np

from torch import Tensor

from ...diffusion import Step
from ..coder import StreamDecoder, StreamEncoder
from ..lattice import LatticePoints
from ..tabled import TabledEntropyModel

__all__ = ["LEVELS", "POSITION_BITS", "PixelPrior"]

LEVELS = 256

POSITION_BITS = 16
"""Fractional bits of a position in coding."""


class PixelPrior(TabledEntropyModel):
    """Prior of the levels 0..255 of pixels, given the latents that were sent.

    It sees the last latent z_s, the one before it, z_t, and the step of the diffusion
    between the two.
    """

    def forward(self, levels: Tensor, z_s: Tensor, z_t: Tensor, step: Step) -> Tensor:
        """Likelihoods of levels in (0, 1], ``[B, 3, H, W]`` as are levels and latents."""
        raise NotImplementedError

    def locate(
        self, z_s: LatticePoints, z_t: LatticePoints | None, step: Step
    ) -> np.ndarray:
        """Where the latents place the pixels, for coding.

        Args:
            z_s: the last latent, ``[B, 3, H, W]``.
            z_t: the one before it, None where that is z_1.
            step: the step between the two.

        Returns:
            positions in units of levels, int64 with 16 fractional bits, same shape.
        """
        raise NotImplementedError

    def update(self, step: Step, force: bool = False) -> bool:
        """Build the integer tables.

        Args:
            step: the last step.
            force: build them anew where they exist.

        Returns:
            whether they were built.
        """
        raise NotImplementedError

    def encode(
        self, encoder: StreamEncoder, levels: np.ndarray, positions: np.ndarray
    ) -> None:
        """Code the levels of one picture into a stream.

        Args:
            encoder: the stream.
            levels: integers 0..255, ``[3, H, W]``.
            positions: as of :meth:`locate`, same shape.
        """
        raise NotImplementedError

    def decode(self, decoder: StreamDecoder, positions: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`encode`: levels, uint8.

        Where the decoder's stream ends early, levels are the best guess.
        """
        raise NotImplementedError
