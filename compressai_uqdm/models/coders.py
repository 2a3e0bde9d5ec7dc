"""Where the symbols of a stage come from, and where they go.

A model walks through its stages with one of these. It hands over the prior of a stage
and what is known so far, and gets the next latent's lattice points back:

- :class:`Encoder` finds them in the image, and writes their symbols to a stream;
- :class:`Decoder` reads them from the bytes;
- :class:`Estimator` finds them in images, and notes what they would cost.
"""

import functools

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch

from torch import Tensor

from ..bitstream.range_coder import StreamDecoder, StreamEncoder
from ..bitstream.symbols import RateEstimator, SymbolCoder
from ..entropy_models.uniform_noise import UniformNoiseConditional
from ..families.uqdm.diffusion import levels_to_x
from ..families.uqdm.latent import Latent
from ..families.uqdm.pixel_prior import PixelPrior
from ..quantization.lattice import from_lattice
from ..quantization.rounding import Guard, ReadGuard, WrittenGuard

__all__ = ["Coder", "Decoder", "Encoder", "Estimator", "split_string"]

CUT_NOISE = 0.75
"""Share of their dither that values of the first stage take where it is cut. There the
network, used to much noise, sees structure in a latent that has none (measured)."""


class Coded(NamedTuple):
    """A latent as encoder and decoder both know it, and its prior."""

    Z: Tensor
    """Its lattice points, int32, ``[B, 3, H, W]``."""

    M: Tensor
    """Those of its prior's location, likewise."""

    scales: Tensor
    """Its prior's scales as coded with, in units of Delta, same shape."""


class Coder:
    """What a walk through the stages asks of an encoder, a decoder or an estimator.

    Args:
        shape: of the images, ``[B, 3, H, W]``.
        seed: of the dither.
        symbols: where they come from and go to.
    """

    levels: Tensor | None = None
    """The images, 0..255, ``[B, 3, H, W]``, where they are there."""

    def __init__(self, shape: Sequence[int], seed: int, symbols: SymbolCoder):
        self.shape, self.seed, self.symbols = torch.Size(shape), seed, symbols

    def end_stage(self, stages: int, values: np.ndarray) -> None:
        """So many stages end, with these values, int, ``[B, ...]``."""
        raise NotImplementedError

    def latents(
        self, prior: UniformNoiseConditional, latent: Latent, dither: Tensor
    ) -> Coded:
        """The latent after this one."""
        raise NotImplementedError

    def pixels(self, prior: PixelPrior, latent: Latent) -> Tensor:
        """The levels of the pixels, ``[B, 3, H, W]``."""
        raise NotImplementedError


class Encoder(Coder):
    """Writes one picture to a stream.

    Args:
        levels: the picture, 0..255, ``[1, 3, H, W]``.
        seed: seed of the dither.
        guarded: whether to list the values that another machine may round otherwise.

    Attributes:
        stream: what is written.
    """

    levels: Tensor

    def __init__(self, levels: Tensor, seed: int, guarded: bool):
        self.levels, self.stream = levels, StreamEncoder()
        super().__init__(levels.shape, seed, self.stream)
        self._guard = WrittenGuard() if guarded else Guard()
        self._listed: list[bytes] = []

    @functools.cached_property
    def x(self) -> Tensor:
        """The picture as a UQDM has it."""
        # in double precision whatever the network has: then latents are within half
        # their noise's width of the image, as the last stage may take for granted
        return levels_to_x(self.levels, torch.float64)

    def latents(
        self, prior: UniformNoiseConditional, latent: Latent, dither: Tensor
    ) -> Coded:
        y, p = latent.mean(self.x), latent.prediction
        indexes = prior.build_indexes(p.scales[0], self._guard)
        M = prior.locate(p.means[0], dither, self._guard)
        Z = prior.encode(self.stream, y[0], indexes, M, dither)
        self.stream.end_stage(Z.cpu().numpy())
        self._listed.append(self._guard.end())
        return Coded(Z[None], M[None], prior.scale_table[indexes.long()][None])

    def pixels(self, prior: PixelPrior, latent: Latent) -> Tensor:
        levels = self.levels[0].cpu().numpy().astype(np.uint8)
        assert latent.sent
        prior.encode(self.stream, levels, latent.sent)
        self.stream.end_stage(levels)
        self._listed.append(b"")  # nothing was rounded
        return self.levels

    def end_stage(self, stages: int, values: np.ndarray) -> None:
        self.stream.end_stage(values[0])
        self._listed.append(b"")

    def strings(self) -> list[bytes]:
        """One for each stage so far: its list, then its segment of the stream."""
        return [
            listed + segment
            for listed, segment in zip(self._listed, self.stream.segments())
        ]


class Decoder(Coder):
    """Reads one picture from a stream.

    Args:
        stream: the segments of its stages.
        guards: what each stage's string lists, see :func:`split_string`.
        shape: ``[1, 3, H, W]``.
        seed: the encoder's.
    """

    def __init__(
        self,
        stream: StreamDecoder,
        guards: Sequence[Guard],
        shape: Sequence[int],
        seed: int,
    ):
        super().__init__(shape, seed, stream)
        self.stream, self._guards = stream, iter(guards)

    @classmethod
    def of(
        cls,
        strings: Sequence[bytes],
        guarded: Sequence[bool],
        shape: Sequence[int],
        seed: int,
    ) -> Self:
        """Of the strings of the first stages, those guarded that begin with a list."""
        guards, segments = zip(*map(split_string, strings, guarded))
        return cls(StreamDecoder(segments), guards, shape, seed)

    def latents(
        self, prior: UniformNoiseConditional, latent: Latent, dither: Tensor
    ) -> Coded:
        p, guard = latent.prediction, next(self._guards)
        indexes = prior.build_indexes(p.scales[0], guard)
        M = prior.locate(p.means[0], dither, guard)
        guard.end()
        noise = CUT_NOISE if latent.stages == 0 else 0.0
        Z = prior.decode(self.stream, indexes, M, dither, noise)
        self.stream.end_stage(Z.cpu().numpy())
        return Coded(Z[None], M[None], prior.scale_table[indexes.long()][None])

    def end_stage(self, stages: int, values: np.ndarray) -> None:
        self.stream.end_stage(values[0])

    def pixels(self, prior: PixelPrior, latent: Latent) -> Tensor:
        assert latent.sent
        levels = prior.decode(
            self.stream, latent.sent, lambda: latent.estimate[0].cpu().numpy()
        )
        self.stream.end_stage(levels)
        return torch.from_numpy(levels)[None].to(latent.z.device)


class Estimator(Coder):
    """RateEstimator what images would cost, ``[B, 3, H, W]``, all with the same dither.

    Args:
        levels: the images, 0..255.
        seed: seed of the dither.
        dtype: of the diffusion.

    Attributes:
        likelihoods: of the values of each stage, ``stage_1``, ..., ``pixels``.
    """

    levels: Tensor

    def __init__(self, levels: Tensor, seed: int, dtype: torch.dtype):
        self._notes = RateEstimator()
        super().__init__(levels.shape, seed, self._notes)
        self.levels, self.x = levels, levels_to_x(levels, dtype)
        self.likelihoods: dict[str, Tensor] = {}

    def end_stage(self, stages: int, values: np.ndarray) -> None:
        """Likelihoods of a stage are those of the symbols that were sent, ``[m]``."""
        noted = torch.from_numpy(self._notes.take())
        self.likelihoods[f"stage_{stages}"] = noted.to(self.levels.device)

    def latents(
        self, prior: UniformNoiseConditional, latent: Latent, dither: Tensor
    ) -> Coded:
        y, p = latent.mean(self.x.double()), latent.prediction
        M = prior.locate(p.means, dither)
        Z = prior.quantize_universally(y, p.means, dither)
        self.likelihoods[f"stage_{latent.stages + 1}"] = prior.likelihoods(
            from_lattice(Z, dither, p.means.dtype), p.scales, p.means
        )
        scales = p.scales
        if prior.has_tables:
            scales = prior.scale_table[prior.build_indexes(scales).long()]
        return Coded(Z, M, scales)

    def pixels(self, prior: PixelPrior, latent: Latent) -> Tensor:
        step = latent.schedule.step(latent.stages - 1)
        self.likelihoods["pixels"] = prior(self.levels, latent.z, step, latent.sent)
        return self.levels


def split_string(string: bytes, guarded: bool) -> tuple[Guard, bytes]:
    """What a stage's string lists, and its segment of the stream.

    Raises:
        DamagedStringError: it has no list where there must be one.
    """
    if not guarded:
        return Guard(), string
    guard = ReadGuard(string)
    return guard, guard.rest
