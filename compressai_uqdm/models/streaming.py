"""Decoding of one picture stage by stage, as its bytes arrive."""

import copy

from collections.abc import Sequence
from typing import Generic, Protocol, Self, TypeVar

import torch

from ..bitstream.range_coder import ReencodedPrefix, StageDecoder, TruncatedStageDecoder
from ..errors import DamagedStringError
from ..progress import Progress
from ..quantization.rounding import Rounding
from .coding import Decoder, PictureCoder, split_string

__all__ = ["PictureDecoder"]


class State(Protocol):
    """State of a picture after some stages."""

    stages: int


L = TypeVar("L", bound=State)


class StagedModel(Protocol[L]):
    """The methods of a model that the decoder uses."""

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
        net: the model of the encoder.
        shape: (H, W).
        seed: seed of the encoder's dither.
        progress: called as the passes of the network advance.

    Attributes:
        latent: state after the ``latent.stages`` stages decoded so far.
    """

    def __init__(
        self,
        net: StagedModel[L],
        shape: tuple[int, int],
        seed: int,
        progress: Progress | None = None,
    ):
        self.net, self.seed = net, seed
        self.shape = (1, 3, *shape)
        self.latent = net.first_latent(self.shape, seed, progress)
        self._segments: list[bytes] = []
        self._reencoded = ReencodedPrefix()

    @torch.no_grad()
    def append(self, string: bytes) -> None:
        """Decode the next stage.

        Raises:
            DamagedStringError: the string is damaged, or was coded with another model,
                image size or seed.
        """
        rounding, segment = self._split(string)
        stream = StageDecoder([*self._segments, segment], self._reencoded)
        decoder = Decoder(stream, [rounding], self.shape, self.seed)
        self.latent = self.net.code_stage(self.latent, decoder)
        self._segments.append(segment)
        self._reencoded = stream.reencoded

    @torch.no_grad()
    def decode_partial(self, cut: bytes) -> L:
        """Return the state after a truncated string of the next stage.

        Values without a symbol in the string are set to their location.

        Args:
            cut: a prefix of the stage's string.
        """
        try:
            rounding, segment = self._split(cut)
        except DamagedStringError:  # the string ends inside the rounding log
            return self.latent
        stream = TruncatedStageDecoder(self._segments, self._reencoded, segment)
        decoder = Decoder(stream, [rounding], self.shape, self.seed)
        before = self.latent
        latent = self.net.code_stage(before, decoder)
        if not stream.n_decoded:
            return before
        return self.net.blend_partial_stage(before, latent, stream.n_decoded)

    def copy(self) -> Self:
        """Return a decoder that continues from the same state, which the two share."""
        other = copy.copy(self)
        other._segments = list(self._segments)  # noqa: SLF001 (of its own class)
        return other

    def _split(self, string: bytes) -> tuple[Rounding, bytes]:
        return split_string(string, self.net.guarded[self.latent.stages])
