"""The interface of pixel priors, which code the last stage given the latents."""

from collections.abc import Callable, Sequence

import numpy as np

from torch import Tensor

from ...bitstream.symbols import SymbolCoder
from ...entropy_models.tables import TabledEntropyModel
from .diffusion import Step
from .latent import QuantizedLatents

__all__ = ["LEVELS", "PixelPrior"]

LEVELS = 256


class PixelPrior(TabledEntropyModel):
    """Prior of the levels 0..255 of pixels, given the coded latents.

    Attributes:
        on_all_latents: whether the prior needs the latents of all T steps, down to z_0.
    """

    on_all_latents: bool

    def forward(
        self, levels: Tensor, z: Tensor, step: Step, sent: QuantizedLatents | None
    ) -> Tensor:
        """Return the likelihoods of levels.

        Args:
            levels: integers 0..255, ``[B, 3, H, W]``.
            z: the last latent, same shape.
            step: step of the diffusion to it.
            sent: the coded latents; None for latents that are not on a lattice.

        Returns:
            likelihoods in (0, 1], same shape.
        """
        raise NotImplementedError

    def update(self, steps: Sequence[Step], force: bool = False) -> bool:
        """Build the integer tables.

        Args:
            steps: steps of the diffusion to the coded latents.
            force: build them again if they exist.

        Returns:
            whether they were built.
        """
        raise NotImplementedError

    def code(
        self,
        coder: SymbolCoder,
        levels: np.ndarray | None,
        sent: QuantizedLatents,
        estimate: Callable[[], np.ndarray],
    ) -> np.ndarray:
        """Code the levels of one picture.

        Args:
            coder: encoder, decoder or rate estimator.
            levels: 0..255, uint8, ``[3, H, W]``, or None to decode them.
            sent: the coded latents of the picture.
            estimate: returns the denoised image, in levels, ``[3, H, W]``, to fill in where
                the bitstream is truncated; it runs the network.

        Returns:
            the levels, uint8.
        """
        raise NotImplementedError
