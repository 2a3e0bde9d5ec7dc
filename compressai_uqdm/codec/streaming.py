"""One picture, decoded as its bytes arrive."""

from collections.abc import Sequence
from typing import Protocol

import torch

from ..entropy_models.coder import CutStageDecoder, StageDecoder, Written
from ..entropy_models.guard import Guard
from ..errors import DamagedStringError
from ..progress import Progress
from .coders import Coder, Decoder, split_string
from .latent import Latent

__all__ = ["PictureDecoder"]


class Walker(Protocol):
    """A model that goes through its stages one by one."""

    n_stages: int

    def first_latent(
        self, shape: Sequence[int], seed: int, progress: Progress | None = None
    ) -> Latent: ...
    def advance(self, latent: Latent, coder: Coder) -> Latent: ...
    def is_guarded(self, stages: int) -> bool: ...


class PictureDecoder:
    """Decoder of one picture, a stage at a time.

    Args:
        net: the model that it was encoded with.
        shape: (H, W).
        seed: the encoder's.
        progress: is told of every pass of the network.

    Attributes:
        latent: what is known so far; ``latent.stages`` stages are.
    """

    def __init__(
        self,
        net: Walker,
        shape: tuple[int, int],
        seed: int,
        progress: Progress | None = None,
    ):
        self.net, self.seed = net, seed
        self.shape = (1, 3, *shape)
        self.latent = net.first_latent(self.shape, seed, progress)
        self._segments: list[bytes] = []
        self._written = Written()

    @torch.no_grad()
    def append(self, string: bytes) -> None:
        """Decode the next stage.

        Raises:
            DamagedStringError: the string is not what was encoded.
        """
        guard, segment = self._split(string)
        stream = StageDecoder([*self._segments, segment], self._written)
        decoder = Decoder(stream, [guard], self.shape, self.seed)
        self.latent = self.net.advance(self.latent, decoder)
        self._segments.append(segment)
        self._written = stream.written

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
        stream = CutStageDecoder(self._segments, self._written, segment)
        decoder = Decoder(stream, [guard], self.shape, self.seed)
        before = self.latent
        latent = self.net.advance(before, decoder)
        if not stream.n_decoded:
            return before
        share = 2 * stream.n_decoded / before.z.numel()
        if before.stages == 0 and share < 1:
            x_hat = torch.lerp(before.prediction.x_hat, latent.prediction.x_hat, share)
            latent.prediction = latent.prediction._replace(x_hat=x_hat)
        return latent

    def _split(self, string: bytes) -> tuple[Guard, bytes]:
        return split_string(string, self.net.is_guarded(self.latent.stages))
