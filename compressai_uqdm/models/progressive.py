"""One picture, decoded as its bytes arrive."""

from collections.abc import Sequence

import torch

from ..entropy_models.coder import (
    CutStageDecoder,
    DamagedStringError,
    StageDecoder,
    Written,
)
from ..entropy_models.guard import Guard
from .base import Latent
from .uqdm import UQDM
from .windows import Progress, ignore

__all__ = ["PictureDecoder"]


class PictureDecoder:
    """Decoder of one picture, a stage at a time.

    Args:
        net: the model that it was encoded with.
        shape: (H, W).
        seed: the encoder's.
        progress: told of the windows that the network sees.

    Attributes:
        latent: what is known so far; ``latent.stage`` stages are.
    """

    def __init__(
        self, net: UQDM, shape: Sequence[int], seed: int, progress: Progress = ignore
    ):
        self.net, self.seed = net, seed
        self.latent = net.first_latent((3, *shape), seed, progress)
        self._segments: list[bytes] = []
        self._written = Written()

    @torch.no_grad()
    def append(self, string: bytes) -> None:
        """Decode the next stage.

        Raises:
            DamagedStringError: the string is not what was encoded.
        """
        guard, segment = self._split(string)
        decoder = StageDecoder([*self._segments, segment], self._written)
        self.latent = self.net.decode_stage(self.latent, decoder, guard, self.seed)
        self._segments.append(segment)
        self._written = decoder.written

    @torch.no_grad()
    def look(self, cut: bytes) -> Latent:
        """What is known with the beginning of the next stage's string.

        Values that it does not reach stand at the location that their prior gives them.
        In the first half of the first stage that is a poor picture, and the one from
        nothing is mixed to it.
        """
        try:
            guard, segment = self._split(cut)
        except DamagedStringError:  # not even the list
            return self.latent
        decoder = CutStageDecoder(self._segments, self._written, segment)
        before = self.latent
        latent = self.net.decode_stage(before, decoder, guard, self.seed)
        if not decoder.n_decoded:
            return before
        share = 2 * decoder.n_decoded / before.z.numel()
        if before.stage == 0 and share < 1:
            x_hat = torch.lerp(before.prediction.x_hat, latent.prediction.x_hat, share)
            latent.prediction = latent.prediction._replace(x_hat=x_hat)
        return latent

    def _split(self, string: bytes) -> tuple[Guard, bytes]:
        return self.net.split(self.latent.stage, string)
