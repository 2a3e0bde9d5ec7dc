"""The interface of denoising networks and of their configurations."""

from dataclasses import dataclass

import torch
import torch.nn as nn

from torch import Tensor

from ...fingerprint import Fingerprint
from ...progress import Progress
from .diffusion import DiffusionConfig

__all__ = ["Denoiser", "DenoiserConfig"]


class Denoiser(nn.Module):
    """A network that predicts the noise in a latent of any size.

    Attributes:
        gradient_checkpointing: in training, keep only the inputs of each block, and
            recompute the other activations in the backward pass.
    """

    gradient_checkpointing: bool = False

    @property
    def device(self) -> torch.device:
        """Device of the network and its inputs."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the computation; inputs of another type are converted."""
        return next(self.parameters()).dtype

    @property
    def portable(self) -> bool:
        """Whether outputs of all machines agree to far less than a lattice point.

        Then strings decode on any of them, with a rounding log of the few values that the
        remaining errors could round differently.
        """
        return self.dtype == torch.float64

    def forward(
        self, z: Tensor, gamma: Tensor, progress: Progress | None = None
    ) -> tuple[Tensor, Tensor]:
        """Predict the noise in ``z``.

        Args:
            z: latents, ``[B, 3, H, W]``.
            gamma: negative log signal-to-noise ratio of ``z``, ``[]`` or ``[B]``.
            progress: called with the share of the pass that is done.

        Returns:
            ``eps_hat`` and ``scale_factor``, both in shape and type of ``z``. The factor
            is positive; it is 1 if the scale of the prior is not learned.
        """
        raise NotImplementedError

    def fingerprint(self) -> Fingerprint:
        """Yield all arrays that the outputs depend on, for the digest of a model."""
        raise NotImplementedError


@dataclass(frozen=True)
class DenoiserConfig:
    """Configuration of a family of denoisers.

    Args:
        family: name of the family, see :data:`.DENOISERS`; each family sets it by default.
    """

    family: str

    def build(self, diffusion: DiffusionConfig) -> Denoiser:
        """Return a network with newly initialized weights."""
        raise NotImplementedError
