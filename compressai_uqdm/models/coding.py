"""Encoder, decoder and rate estimator of a picture, for all models.

Each holds a symbol coder, the seed of the dither, and a rounding log. A model's
:meth:`~.ProgressiveModel.code_stage` serves all three. An :class:`Encoder` has the pixels
of the picture and writes symbols. A :class:`Decoder` has no pixels and reads symbols. A
:class:`StageEstimator` has the pixels and records likelihoods.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, Self

import numpy as np
import torch

from torch import Tensor

from ..bitstream.range_coder import StreamDecoder, StreamEncoder
from ..bitstream.symbols import RateEstimator, SymbolCoder
from ..quantization.rounding import Rounding, RoundingLog, RoundingReader

__all__ = ["Decoder", "Encoder", "PictureCoder", "StageEstimator", "split_string"]


class PictureCoder(Protocol):
    """The interface of encoder, decoder and rate estimator."""

    @property
    def shape(self) -> torch.Size:
        """Shape of the pictures, ``[B, 3, H, W]``."""

    @property
    def seed(self) -> int:
        """Seed of the dither."""

    @property
    def levels(self) -> Tensor | None:
        """Levels 0..255 of the pictures, ``[B, 3, H, W]``; None in a decoder."""

    @property
    def symbols(self) -> SymbolCoder:
        """Codes the symbols."""

    @property
    def rounding(self) -> Rounding:
        """Rounds numbers that two machines may compute differently."""

    def end_stage(self, values: np.ndarray) -> None:
        """End a stage.

        Args:
            values: the coded integers of the stage, ``[B, ...]``, for the checksum.
        """


class Encoder:
    """Encodes one picture.

    Args:
        levels: the picture, 0..255, ``[1, 3, H, W]``.
        seed: seed of the dither.
        guarded: for each stage, whether to log numbers that another machine may round to
            another integer, see :mod:`.rounding`.
    """

    def __init__(self, levels: Tensor, seed: int, guarded: Sequence[bool]):
        self.levels: Tensor | None = levels
        self.shape, self.seed = levels.shape, seed
        self.symbols = StreamEncoder()
        self._roundings: Iterator[Rounding] = (
            RoundingLog() if is_guarded else Rounding() for is_guarded in guarded
        )
        self.rounding = next(self._roundings)
        self._logs: list[bytes] = []

    def end_stage(self, values: np.ndarray) -> None:
        """End a stage: mark it in the bitstream, with a checksum of the values."""
        self.symbols.end_stage(values[0])
        self._logs.append(self.rounding.end())
        self.rounding = next(self._roundings, Rounding())

    def strings(self) -> list[bytes]:
        """Return one string for each stage: its rounding log, then its segment."""
        return [log + segment for log, segment in zip(self._logs, self.symbols.segments())]


class Decoder:
    """Decodes one picture.

    Args:
        symbols: range decoder of the stages' segments.
        logs: rounding log of each stage, see :func:`split_string`.
        shape: shape of the picture, ``[1, 3, H, W]``.
        seed: seed of the encoder's dither.
    """

    levels: Tensor | None = None

    def __init__(
        self,
        symbols: StreamDecoder,
        logs: Sequence[Rounding],
        shape: Sequence[int],
        seed: int,
    ):
        self.shape, self.seed, self.symbols = torch.Size(shape), seed, symbols
        self._roundings = iter(logs)
        self.rounding = next(self._roundings)

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
            strings: from :meth:`Encoder.strings`.
            guarded: for each stage, whether its string begins with a rounding log.
            shape: shape of the picture, ``[1, 3, H, W]``.
            seed: seed of the encoder's dither.
        """
        logs, segments = zip(*map(split_string, strings, guarded))
        return cls(StreamDecoder(segments), logs, shape, seed)

    def end_stage(self, values: np.ndarray) -> None:
        """End a stage.

        Raises:
            DamagedStringError: the checksum differs, or the rounding log is wrong.
        """
        self.rounding.end()
        self.symbols.end_stage(values[0])
        self.rounding = next(self._roundings, Rounding())


class StageEstimator:
    """Estimates the rate of one stage.

    Args:
        levels: pictures, 0..255, ``[B, 3, H, W]``.
        seed: seed of the dither.
    """

    def __init__(self, levels: Tensor, seed: int):
        self.levels: Tensor | None = levels
        self.shape, self.seed = levels.shape, seed
        self.symbols, self.rounding = RateEstimator(), Rounding()

    def end_stage(self, values: np.ndarray) -> None:
        """Do nothing: an estimate has no checksum."""

    def likelihoods(self) -> Tensor:
        """Return one likelihood for all values, float64, ``[B, 3, H, W]``.

        The product over all values is the probability of all symbols of the stage,
        including side information.
        """
        mean = np.log(self.symbols.take()).sum() / self.shape.numel()
        return torch.full(self.shape, float(np.exp(mean)), dtype=torch.float64)


def split_string(string: bytes, guarded: bool) -> tuple[Rounding, bytes]:
    """Return the rounding log of a stage's string, and its segment of the bitstream.

    Args:
        string: a string from :meth:`Encoder.strings`.
        guarded: whether the string begins with a rounding log.

    Raises:
        DamagedStringError: the string must begin with a rounding log and does not.
    """
    if not guarded:
        return Rounding(), string
    rounding = RoundingReader(string)
    return rounding, rounding.rest
