"""What a model codes a picture with: a symbol coder, the dither's seed, the rounding log.

A model's :meth:`~.ProgressiveModel.code_stage` is one function for both directions. With an
:class:`Encoder` the levels of the picture are there and symbols are written; with a
:class:`Decoder` they are not, and symbols are read.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, Self

import numpy as np
import torch

from torch import Tensor

from ..bitstream.range_coder import StreamDecoder, StreamEncoder
from ..bitstream.symbols import RateEstimator, SymbolCoder
from ..quantization.rounding import Guard, ReadGuard, WrittenGuard

__all__ = ["Decoder", "Encoder", "PictureCoder", "StageEstimator", "split_string"]


class PictureCoder(Protocol):
    """What a model needs to code pictures, in either direction."""

    @property
    def shape(self) -> torch.Size:
        """``[B, 3, H, W]``."""

    @property
    def seed(self) -> int:
        """Seed of the dither."""

    @property
    def levels(self) -> Tensor | None:
        """The pictures, 0..255, ``[B, 3, H, W]``, or None in a decoder."""

    @property
    def symbols(self) -> SymbolCoder:
        """Encoder, decoder or rate estimator of symbols."""

    @property
    def rounding(self) -> Guard:
        """Rounds what two machines may compute differently."""

    def end_stage(self, values: np.ndarray) -> None:
        """End a stage; its values, integers, ``[B, ...]``, go into the checksum."""


class Encoder:
    """Encodes one picture.

    Args:
        levels: the picture, 0..255, ``[1, 3, H, W]``.
        seed: seed of the dither.
        guarded: of each stage, whether to log values that round near a half, for another
            machine may round them otherwise.
    """

    def __init__(self, levels: Tensor, seed: int, guarded: Sequence[bool]):
        self.levels: Tensor | None = levels
        self.shape, self.seed = levels.shape, seed
        self.symbols = StreamEncoder()
        self._guards: Iterator[Guard] = (
            WrittenGuard() if is_guarded else Guard() for is_guarded in guarded
        )
        self.rounding = next(self._guards)
        self._logs: list[bytes] = []

    def end_stage(self, values: np.ndarray) -> None:
        """End a stage, as of :class:`PictureCoder`."""
        self.symbols.end_stage(values[0])
        self._logs.append(self.rounding.end())
        self.rounding = next(self._guards, Guard())

    def strings(self) -> list[bytes]:
        """Return one string for each stage: its rounding log, then its segment."""
        return [log + segment for log, segment in zip(self._logs, self.symbols.segments())]


class Decoder:
    """Decodes one picture.

    Args:
        symbols: range decoder of the segments of its stages.
        guards: the rounding log of each stage, see :func:`split_string`.
        shape: ``[1, 3, H, W]``.
        seed: the encoder's.
    """

    levels: Tensor | None = None

    def __init__(
        self,
        symbols: StreamDecoder,
        guards: Sequence[Guard],
        shape: Sequence[int],
        seed: int,
    ):
        self.shape, self.seed, self.symbols = torch.Size(shape), seed, symbols
        self._guards = iter(guards)
        self.rounding = next(self._guards)

    @classmethod
    def of(
        cls,
        strings: Sequence[bytes],
        guarded: Sequence[bool],
        shape: Sequence[int],
        seed: int,
    ) -> Self:
        """Return the decoder of the strings of the first stages.

        Args:
            strings: as of :meth:`Encoder.strings`.
            guarded: of each stage, whether its string begins with a rounding log.
            shape: ``[1, 3, H, W]``.
            seed: the encoder's.
        """
        guards, segments = zip(*map(split_string, strings, guarded))
        return cls(StreamDecoder(segments), guards, shape, seed)

    def end_stage(self, values: np.ndarray) -> None:
        """End a stage, as of :class:`PictureCoder`."""
        self.rounding.end()
        self.symbols.end_stage(values[0])
        self.rounding = next(self._guards, Guard())


class StageEstimator:
    """Estimates the rate of one stage.

    Args:
        levels: pictures, 0..255, ``[B, 3, H, W]``.
        seed: seed of the dither.
    """

    def __init__(self, levels: Tensor, seed: int):
        self.levels: Tensor | None = levels
        self.shape, self.seed = levels.shape, seed
        self.symbols, self.rounding = RateEstimator(), Guard()

    def end_stage(self, values: np.ndarray) -> None:
        """End a stage; estimates have no checksum."""

    def likelihoods(self) -> Tensor:
        """Return the stage's probability, spread evenly: float64, ``[B, 3, H, W]``.

        All values have the same likelihood. Their product is that of all symbols of the
        stage, side information included.
        """
        mean = np.log(self.symbols.take()).sum() / self.shape.numel()
        return torch.full(self.shape, float(np.exp(mean)), dtype=torch.float64)


def split_string(string: bytes, guarded: bool) -> tuple[Guard, bytes]:
    """Return the rounding log of a stage's string, and its segment of the bitstream.

    Raises:
        DamagedStringError: the string has no log where there must be one.
    """
    if not guarded:
        return Guard(), string
    guard = ReadGuard(string)
    return guard, guard.rest
