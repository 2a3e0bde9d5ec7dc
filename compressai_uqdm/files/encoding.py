"""Pictures to .uqdm files."""

from .. import libraries  # noqa: F401  isort: skip

import dataclasses
import errno
import functools
import math
import os
import warnings

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from PIL import Image

from ..atomic import check_folder, is_special, naming, write_atomically
from ..checks import MAX_METADATA
from ..models.coding import Encoder
from ..models.streaming import PictureDecoder
from ..progress import Passes, Progress
from ..settings import exact_floats
from . import exif
from .container import pack_header
from .header import Arithmetic, Header, Metadata, check_metadata
from .model import DEFAULT_MODEL, Codec, open_codec
from .pictures import Planes, to_planes
from .prefix_search import SEARCH, psnr_of, smallest_prefix
from .rate import NO_LIMIT, byte_limit, payload_budget, whole_stages
from .webp import encode_webp, is_graphic

__all__ = [
    "EncodeOptions",
    "Encoded",
    "QualityWarning",
    "encode",
    "encode_measured",
    "save",
]


STORED_SHARE = 4 / 5
"""A picture is stored as lossless WebP where that takes less than so much of our bytes."""


class QualityWarning(UserWarning):
    """A limit of bytes or stages kept a file below the wanted PSNR."""


@dataclass(frozen=True)
class EncodeOptions:
    """Options of :func:`encode`, which describes them."""

    seed: int = 0
    arithmetic: Arithmetic | None = None
    stages: int | None = None
    max_bytes: int | None = None
    bpp: float | None = None
    min_psnr: float | None = None
    max_metadata: int = MAX_METADATA

    def check(self, codec: Codec) -> None:
        """Raise a ValueError for a value that the model does not allow."""
        n_stages = codec.net.n_stages
        if self.stages is not None and not 1 <= self.stages <= n_stages:
            raise ValueError(
                f"stages must be in 1..{n_stages}, got {self.stages}: {codec.name} has "
                f"{n_stages} stages, and all of them are exact"
            )
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"seed must be in 0..2^32-1, got {self.seed}")
        if self.min_psnr is not None and not self.min_psnr > 0:
            raise ValueError(f"min_psnr must be positive, got {self.min_psnr}")


@dataclass(frozen=True)
class Encoded:
    """A file, and how good its picture is.

    Args:
        data: the file.
        header: what it begins with.
        stages: number of stages that are whole.
        share: share of the next stage's bytes that are there, 0 to 1.
        exact: whether every pixel is that of the original.
        psnr: in dB, of RGB and of ``"denoise"``, after the whole stages; None where it was
            not measured, or where none is whole.
    """

    data: bytes
    header: Header
    stages: int
    share: float
    exact: bool
    psnr: float | None


def encode(
    image: Image.Image,
    model: str | Codec = DEFAULT_MODEL,
    *,
    seed: int = 0,
    arithmetic: Arithmetic | None = None,
    stages: int | None = None,
    max_bytes: int | None = None,
    bpp: float | None = None,
    min_psnr: float | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    max_metadata: int = MAX_METADATA,
) -> bytes:
    """Encode an image as a file, exact if nothing limits it.

    An exact file of a screenshot, a drawing or another picture that lossless WebP codes in
    less than four fifths of the bytes holds a lossless WebP stream: it has one stage, and
    no coarser pictures. A limit, ``stages``, or another model than the default keeps the
    stages of the model.

    Args:
        image: 8-bit RGB, grayscale or with a palette, with or without an alpha channel.
        model: a model of the zoo, the path of a checkpoint, or a model at hand.
        seed: seed of the dither, 0..2^32-1.
        arithmetic: of the published models, ``"float64"``, the default, decodes with
            other threads, batches and kernels; ``"float32"`` is faster, and decodes on
            this machine with the same settings. Models in integers have no other.
        stages: number of stages, 1 (coarsest) to all that the model has (exact).
        max_bytes: largest size of the file.
        bpp: the same in bits per pixel.
        min_psnr: quality in dB that is enough (RGB, of ``"denoise"``); no limit above
            is exceeded for it.
        device: where the network runs.
        progress: is told the share of the work that is done.
        max_metadata: bytes of ICC profile and EXIF to accept; a file with more than the
            default is decoded by those who allow it.

    Raises:
        ValueError: another kind of image, too much metadata, or limits that cannot be met.

    Warns:
        QualityWarning: a limit does not let ``min_psnr`` be reached.
    """
    options = EncodeOptions(
        seed, arithmetic, stages, max_bytes, bpp, min_psnr, max_metadata
    )
    codec = open_codec(model, device) if isinstance(model, str) else model
    return _encode(image, codec, options, progress).data


def encode_measured(
    image: Image.Image,
    codec: Codec,
    options: EncodeOptions = EncodeOptions(),
    progress: Progress | None = None,
) -> Encoded:
    """Encode an image as :func:`encode` does, and measure the PSNR of the file.

    That takes a pass of the network more where the file is not exact.
    """
    return _encode(image, codec, options, progress, measured=True)


@torch.no_grad()
@exact_floats()
def _encode(
    image: Image.Image,
    codec: Codec,
    options: EncodeOptions,
    progress: Progress | None,
    measured: bool = False,
) -> Encoded:
    if 0 in image.size:
        raise ValueError(f"expected a picture, got {image.width} x {image.height} pixels")
    planes = to_planes(image)
    described = _described(image, planes)
    check_metadata(
        described["icc_profile"],
        described["exif"],
        options.max_metadata,
        "remove it from the picture, or raise the limit (--max-metadata)",
    )
    height, width = planes.levels.shape[:2]
    options.check(codec)
    seed, min_psnr = options.seed, options.min_psnr
    arithmetic = options.arithmetic or codec.arithmetics[0]
    net = codec.computing_in(arithmetic)
    limit = byte_limit(image.size, options.max_bytes, options.bpp)
    is_limited = options.stages is not None or limit < NO_LIMIT or min_psnr is not None
    stages = net.n_stages if options.stages is None else options.stages

    stream = None
    # files of other models are made to measure these
    if not is_limited and codec.name == DEFAULT_MODEL and is_graphic(planes.levels):
        stream = encode_webp(planes.levels, planes.alpha, quick=True)
    levels = torch.from_numpy(planes.levels).permute(2, 0, 1)[None].to(net.device)
    wanted = math.inf if min_psnr is None else min_psnr
    expected = net.passes(stages) + (min_psnr is not None) * (net.passes(stages) + SEARCH)
    expected += measured and min_psnr is None and stages < net.n_stages
    passes = Passes(progress, expected)
    psnr = functools.partial(psnr_of, net, levels, seed)
    encoder, reached = Encoder(levels, seed, net.guarded), 0.0
    last: list[Any] = []  # what is known after the last stages
    for known in net.iter_stages(encoder, stages, passes):
        if stream:
            n_bytes = sum(map(len, encoder.strings())) + len(planes.alpha_png)
            if len(stream) < STORED_SHARE * n_bytes:  # whatever the stages to come take
                passes.end()
                return _stored(planes, described)
        last = [*last, known] if measured else []
        if min_psnr is not None:
            reached = psnr(known)
        if reached >= wanted:
            break
        if limit < NO_LIMIT and sum(map(len, encoder.strings())) >= limit:
            break
        if known.stages < stages:
            last = last[-1:]
    strings = encoder.strings()
    header = Header(
        model=codec.name,
        digest=codec.digest,
        seed=seed,
        arithmetic=arithmetic,
        lengths=tuple(map(len, strings)),
        alpha=planes.alpha_png,
        **described,
    )
    n_bytes = payload_budget(header, limit)
    if min_psnr is not None and (reached >= wanted or n_bytes < sum(header.lengths)):
        decoder = PictureDecoder(net, (height, width), seed, passes)
        n_bytes, reached = smallest_prefix(
            decoder, strings, n_bytes, reached, min_psnr, psnr
        )
    if min_psnr is not None and reached < min_psnr:
        warnings.warn(
            f"{reached:.2f} dB of the {min_psnr:g} wanted: raise the limit of bytes or of "
            "stages for more",
            QualityWarning,
            stacklevel=5,
        )
    # to leave out a few bytes takes more of them than it saves
    limited = dataclasses.replace(header, limited_to=n_bytes)
    header = min(header, limited, key=lambda h: len(pack_header(h)) + h.payload_bytes)
    data = pack_header(header) + b"".join(strings)[: header.payload_bytes]
    whole, share = whole_stages(header.lengths, header.payload_bytes)
    exact = whole == net.n_stages
    quality = math.inf if exact else None
    if measured and not exact:
        at_its_end = [known for known in last if known.stages == whole]
        quality = psnr(at_its_end[0]) if at_its_end else None
    passes.end()
    return Encoded(data, header, whole, share, exact, quality)


def _described(image: Image.Image, planes: Planes) -> dict[str, Any]:
    """What a header says of a picture, however it is coded."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, (bytes, bytearray, memoryview)):
        profile = b""  # in a TIFF file, it may be of any type
    return {
        "size": image.size,
        "colour": planes.colour,
        "palette": planes.palette,
        "transparency": planes.transparency,
        "orientation": exif.orientation_of(image),
        "icc_profile": Metadata.of(bytes(profile)),
        "exif": Metadata.of(exif.block_of(image)),
    }


def _stored(planes: Planes, described: dict[str, Any]) -> Encoded:
    """The file with a lossless WebP stream."""
    alpha = None if planes.colour == "P" else planes.alpha
    stream = encode_webp(planes.levels, alpha)
    assert stream is not None  # for there was a quick one
    header = Header(
        model="",
        digest=b"",
        seed=0,
        arithmetic="integer",
        lengths=(len(stream),),
        storage="WebP",
        webp_alpha=alpha is not None,
        **described,
    )
    return Encoded(pack_header(header) + stream, header, 1, 0.0, True, math.inf)


def save(
    image: Image.Image,
    path: str | Path,
    model: str | Codec = DEFAULT_MODEL,
    **options: Any,
) -> None:
    """Encode an image to a file.

    Args:
        image: as of :func:`encode`.
        path: the file; it is written whole or not at all, in place of one that is there.
        model: as of :func:`encode`.
        options: as of :func:`encode`.

    Raises:
        OSError: the file cannot be written.
        ValueError: as of :func:`encode`.
    """
    path = Path(path)
    with naming(path):  # before the work
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not is_special(path):
            check_folder(os.path.dirname(os.path.realpath(path)))
    data = encode(image, model, **options)
    with naming(path), write_atomically(path) as file:
        file.write(data)
