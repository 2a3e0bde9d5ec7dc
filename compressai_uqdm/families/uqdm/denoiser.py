"""What a model asks of the network that denoises for it."""

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
        gradient_checkpointing: in training, keep only what enters a block, and compute
            the rest again on the way back.
    """

    gradient_checkpointing: bool = False

    @property
    def device(self) -> torch.device:
        """Where its inputs must be."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in; inputs of another type are converted."""
        return next(self.parameters()).dtype

    @property
    def portable(self) -> bool:
        """Whether machines compute the same but for errors far below a lattice point.

        Then strings decode on any of them, with a list of the few values that such an
        error would round elsewhere (``entropy_models.guard``).
        """
        return self.dtype == torch.float64

    def forward(
        self, z: Tensor, gamma: Tensor, progress: Progress | None = None
    ) -> tuple[Tensor, Tensor]:
        """Predict the noise in ``z``.

        Args:
            z: latents, ``[B, 3, H, W]``.
            gamma: negative log signal-to-noise ratio of ``z``, ``[]`` or ``[B]``.
            progress: is told the share of the work that is done.

        Returns:
            ``eps_hat`` and ``scale_factor``, each as ``z``; the second is positive, and
            1 where the scale of the prior is not learned.
        """
        raise NotImplementedError

    def fingerprint(self) -> Fingerprint:
        """All that its outputs follow from, by names that are part of the file format."""
        raise NotImplementedError


@dataclass(frozen=True)
class DenoiserConfig:
    """Configuration of a family of denoisers.

    Args:
        family: its name in configurations, see :data:`.DENOISERS`; every family has its
            own as the default.
    """

    family: str

    def build(self, diffusion: DiffusionConfig) -> Denoiser:
        """A network with fresh weights."""
        raise NotImplementedError
