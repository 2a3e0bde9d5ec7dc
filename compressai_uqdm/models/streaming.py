"""One picture, decoded as its bytes arrive."""

import copy

from collections.abc import Sequence
from typing import Generic, Protocol, Self, TypeVar

import torch

from ..bitstream.range_coder import StageDecoder, TruncatedStageDecoder, Written
from ..errors import DamagedStringError
from ..progress import Progress
from ..quantization.rounding import Guard
from .coding import Decoder, PictureCoder, split_string

__all__ = ["PictureDecoder"]


class State(Protocol):
    """What is known of a picture."""

    stages: int


L = TypeVar("L", bound=State)


class Walker(Protocol[L]):
    """A model that goes through its stages one by one."""

    def first_latent(
        self, shape: Sequence[int], seed: int, progress: Progress | None = None
    ) -> L: ...
    def code_stage(self, latent: L, coder: PictureCoder) -> L: ...
    def blend_partial_stage(self, before: L, latent: L, n_decoded: int) -> L: ...
    @property
    def guarded(self) -> Sequence[bool]: ...


class PictureDecoder(Generic[L]):
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
        net: Walker[L],
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
        self.latent = self.net.code_stage(self.latent, decoder)
        self._segments.append(segment)
        self._written = stream.written

    @torch.no_grad()
    def decode_partial(self, cut: bytes) -> L:
        """What is known with the beginning of the next stage's string.

        Values that it does not reach stand at the location that their prior gives them.
        """
        try:
            guard, segment = self._split(cut)
        except DamagedStringError:  # not even the list
            return self.latent
        stream = TruncatedStageDecoder(self._segments, self._written, segment)
        decoder = Decoder(stream, [guard], self.shape, self.seed)
        before = self.latent
        latent = self.net.code_stage(before, decoder)
        if not stream.n_decoded:
            return before
        return self.net.blend_partial_stage(before, latent, stream.n_decoded)

    def copy(self) -> Self:
        """Another that goes on from here; what is known so far is shared."""
        other = copy.copy(self)
        other._segments = list(self._segments)  # noqa: SLF001 (of its own class)
        return other

    def _split(self, string: bytes) -> tuple[Guard, bytes]:
        return split_string(string, self.net.guarded[self.latent.stages])
