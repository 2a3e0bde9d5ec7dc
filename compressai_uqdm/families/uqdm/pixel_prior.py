"""What every prior of the last stage does: levels of pixels, given the latents."""

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
    """Prior of the levels 0..255 of pixels, given the latents that were sent.

    Attributes:
        on_all_latents: whether it follows the last of the diffusion's latents, z_0, and
            not one of those before.
    """

    on_all_latents: bool

    def forward(
        self, levels: Tensor, z: Tensor, step: Step, sent: QuantizedLatents | None
    ) -> Tensor:
        """Likelihoods of levels.

        Args:
            levels: integers 0..255, ``[B, 3, H, W]``.
            z: the last latent, same shape.
            step: the step to it.
            sent: what was sent, where latents stand on a lattice.

        Returns:
            likelihoods in (0, 1], same shape.
        """
        raise NotImplementedError

    def update(self, steps: Sequence[Step], force: bool = False) -> bool:
        """Build the integer tables.

        Args:
            steps: those of the latents that are sent.
            force: build them anew where they exist.

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
            estimate: returns the denoised image, in levels, which a prior may take where
                the bitstream is truncated; it runs the network.

        Returns:
            the levels, uint8.
        """
        raise NotImplementedError
