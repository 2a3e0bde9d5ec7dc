"""Pictures of .uqdm files, whole, cut anywhere, or as their bytes arrive."""

from .. import libraries  # noqa: F401  isort: skip

import copy

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import torch

from PIL import Image

from ..checks import MAX_METADATA, MAX_PIXELS
from ..errors import DamagedFileError, DamagedStringError
from ..models.arguments import Reconstruction
from ..models.base import ProgressiveModel
from ..models.streaming import PictureDecoder
from ..progress import Passes, Progress
from ..settings import exact_floats
from .container import ends_in_header, parse_header
from .header import Header
from .model import Codec, codec_of
from .pictures import from_planes
from .rate import truncate
from .webp import decode_webp

__all__ = ["NotYetError", "Picture", "StreamingDecoder", "decode", "load"]


@dataclass
class Picture:
    """What was decoded of a file.

    Args:
        image: the picture, in the mode of the original where it is exact.
        stages: number of stages that were whole.
        share: share of the next stage's bytes that were there, 0 to 1.
        exact: whether every pixel is that of the original.
        damage: what is wrong with the file, if anything is.
    """

    image: Image.Image
    stages: int
    share: float
    exact: bool
    damage: str = ""


class NotYetError(Exception):
    """Too little of a file has arrived to make a picture of; nothing is wrong with it."""


class StreamingDecoder:
    """Decodes a file as its bytes arrive.

    Every stage is decoded once, when it is whole. A picture from within a stage takes a
    pass of the network of its own each time, so a loop over small pieces asks for one
    where ``feed`` tells of another stage.

    Args:
        model: a checkpoint's path, or a model at hand, for files of models that are not
            in the zoo.
        device: where the network runs.
        max_pixels: largest picture to accept.
        max_metadata: bytes of ICC profile and EXIF to accept, unpacked.
        progress: is told what share of the whole file is decoded.

    Attributes:
        header: the file's header, once it has arrived.
    """

    def __init__(
        self,
        model: str | Codec | None = None,
        device: str = "cpu",
        max_pixels: int = MAX_PIXELS,
        progress: Progress | None = None,
        max_metadata: int = MAX_METADATA,
    ):
        self.progress = progress
        self.model, self.device, self.max_pixels = model, device, max_pixels
        self.max_metadata = max_metadata
        self.header: Header | None = None
        self._data = bytearray()
        self._at = 0  # where the next stage begins
        self._net: ProgressiveModel[Any] | None = None
        self._decoder: PictureDecoder[Any] | None = None
        self._stored: _Stored | None = None
        self._damage: DamagedStringError | None = None

    def feed(self, data: bytes) -> int:
        """Take the next bytes, any number, and decode the stages that are whole.

        Returns:
            number of stages that are whole now, 0 while the header is not.

        Raises:
            DamagedStringError: the file is damaged; the picture of the stages before,
                if any, can still be had.
            FileNotFoundError: its model is not there.
            ValueError: it has too many pixels, or too much metadata.
        """
        if self._damage:
            raise _afresh(self._damage)
        self._data += data
        try:
            self._advance()
        except DamagedStringError as error:
            self._damage = _afresh(error)
            raise
        return self.stages

    def _advance(self) -> None:
        if self.header is None:
            found = parse_header(self._data, self.max_pixels, self.max_metadata)
            if found is None:
                return
            self.header, self._at = found
        if self.header.storage == "stages" and self._decoder is None:
            codec = codec_of(self.header, self.model, self.device)
            self._net = codec.computing_in(self.header.arithmetic)
            height_width = self.header.size[::-1]
            passes = self._net.passes(len(self.header.lengths), picture=True)
            self._decoder = PictureDecoder(
                self._net, height_width, self.header.seed, Passes(self.progress, passes)
            )
        lengths = self.header.lengths
        while self.stages < len(lengths):
            end = self._at + lengths[self.stages]
            if len(self._data) < end:
                break
            string = bytes(self._data[self._at : end])
            if self._decoder is None:
                header = self.header
                self._stored = decode_webp(string, header.size, header.webp_alpha)
                Passes(self.progress, 1).end()
            else:
                self._decoder.append(string)
            self._at = end
        start = self._at - sum(lengths[: self.stages])
        excess = len(self._data) - start - self.header.payload_bytes
        if excess > 0:
            raise DamagedFileError(f"the file goes on for {excess} bytes after its end")

    def copy(self) -> Self:
        """Another that goes on from here, as for several ends of one beginning.

        What is decoded is shared, so a copy takes next to no memory or time.
        """
        other = copy.copy(self)
        decoder = self._decoder and self._decoder.copy()
        other._data, other._decoder = bytearray(self._data), decoder  # noqa: SLF001
        return other

    @property
    def net(self) -> ProgressiveModel[Any] | None:
        """The model, once the header has arrived, of files that were coded by one."""
        return self._net

    @property
    def stages(self) -> int:
        """Number of stages that are whole."""
        return self._decoder.latent.stages if self._decoder else int(bool(self._stored))

    @property
    def exact(self) -> bool:
        """Whether the picture is that of the original, pixel by pixel."""
        return self.stages == (self._net.n_stages if self._net else 1)

    @torch.no_grad()
    @exact_floats()
    def picture(self, reconstruction: Reconstruction = "denoise") -> Picture:
        """The best picture of what has arrived, also of a stage that is not whole.

        Raises:
            NotYetError: the header has not arrived whole.
            DamagedStringError: the header is damaged, or the beginning of the next stage
                is; the picture without it can then be had.
        """
        if self._decoder is None and self._stored is None and not self._damage:
            self._advance()  # raises what feed() did, if the header is there
        header, alpha = self.header, None
        if header is None or (header.storage == "stages" and self._decoder is None):
            if self._damage:
                raise _afresh(self._damage)
            raise NotYetError(
                f"no picture yet: the file's header is not whole after {len(self._data)} "
                "bytes. Feed more, and ask again"
            )
        rest = bytes(self._data[self._at :])
        share = 0.0
        if rest and not self._damage:
            share = len(rest) / header.lengths[self.stages]
        if self._net is None or self._decoder is None:
            levels, alpha = self._stored or _gray(header)
        else:
            latent = self._decoder.latent
            if share:
                try:
                    latent = self._decoder.decode_partial(rest)
                except DamagedStringError as error:
                    self._damage = _afresh(error)
                    raise
            found = self._net.reconstruct(latent, reconstruction, header.seed)
            levels = found[0].permute(1, 2, 0).contiguous().cpu().numpy()
        damage = str(self._damage) if self._damage else ""
        image = from_planes(levels, header, self.exact, alpha)
        return Picture(image, self.stages, share, self.exact, damage)


_Stored: TypeAlias = tuple[np.ndarray, np.ndarray | None]
"""Levels and opacities of a picture that no model coded."""


def _gray(header: Header) -> _Stored:
    """What is shown where nothing is decoded yet."""
    width, height = header.size
    alpha = np.full((height, width), 255, np.uint8) if header.webp_alpha else None
    return np.full((height, width, 3), 128, np.uint8), alpha


def _afresh(error: DamagedStringError) -> DamagedStringError:
    # its traceback would keep the decoder, and all that it decoded, in memory
    return type(error)(*error.args)


def decode(
    data: bytes,
    *,
    stages: int | None = None,
    reconstruction: Reconstruction = "denoise",
    partial: bool = False,
    model: str | Codec | None = None,
    device: str = "cpu",
    max_pixels: int = MAX_PIXELS,
    max_metadata: int = MAX_METADATA,
) -> Picture:
    """The picture in a file, or in the beginning of one.

    Args:
        data: the file's bytes, from its first on.
        stages: number of stages to decode at most.
        reconstruction: how an image is made of a latent: ``"denoise"``,
            ``"ancestral"`` or ``"flow_based"``.
        partial: of a damaged file, give the stages before the damage.
        model: as of :class:`StreamingDecoder`; ``device``, ``max_pixels`` and
            ``max_metadata`` too.

    Raises:
        DamagedStringError: the file is damaged, or ends inside its header.
        ValueError: it has too many pixels or too much metadata, or an argument is none of
            these.
    """
    decoder = StreamingDecoder(model, device, max_pixels, max_metadata=max_metadata)
    if stages is not None:
        data = truncate(data, stages=stages)
    try:
        decoder.feed(data)
        return decoder.picture(reconstruction)
    except NotYetError as error:  # and nothing more will come
        raise ends_in_header(len(data)) from error
    except DamagedStringError:
        if not partial:
            raise
    return decoder.picture(reconstruction)


def load(path: str | Path, **options: Any) -> Picture:
    """The picture in a file.

    Args:
        path: the file.
        options: as of :func:`decode`.
    """
    return decode(Path(path).read_bytes(), **options)
