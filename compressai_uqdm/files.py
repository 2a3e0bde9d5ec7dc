"""Pictures to .uqdm files and back.

.. code-block:: python

    import compressai_uqdm

    compressai_uqdm.save(Image.open("photo.png"), "photo.uqdm")
    image = compressai_uqdm.load("photo.uqdm").image

    decoder, shown = compressai_uqdm.StreamingDecoder(), 0
    for data in connection:  # bytes as they arrive, however few
        if decoder.feed(data) > shown:  # one more stage is whole
            shown = decoder.stages
            decoder.picture().image.show()
    decoder.picture().image.show()  # all that came, wherever it broke off
"""

import bisect
import copy
import functools
import hashlib
import itertools
import json
import math
import re
import warnings

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from PIL import ExifTags, Image
from torch import Tensor

from .atomic import write_atomically
from .container import (
    DIGEST_BYTES,
    MAX_PIXELS,
    Arithmetic,
    Colour,
    DamagedFileError,
    Header,
    byte_limit,
    check_limit,
    ends_in_header,
    parse_header,
    truncate,
)
from .entropy_models.coder import DamagedStringError, StreamEncoder
from .models import UQDM, ContextUQDM
from .models.base import Latent, Reconstruction
from .models.checkpoint import read_checkpoint
from .models.progressive import PictureDecoder
from .models.windows import window_starts
from .zoo import ARCHITECTURES, load_model

__all__ = [
    "DEFAULT_MODEL",
    "Codec",
    "NotYetError",
    "Picture",
    "QualityWarning",
    "StreamingDecoder",
    "decode",
    "encode",
    "load",
    "open_codec",
    "save",
]

DEFAULT_MODEL = "uqdm-nano-ctx"
NAMES = [name for name, cls in ARCHITECTURES.items() if issubclass(cls, UQDM)]


# ---- models as files know them ----


class Codec:
    """A model, with the name and the digest by which files know it.

    Args:
        name: its name.
        net: the model, on its device.
    """

    def __init__(self, name: str, net: UQDM):
        net.update()
        self.name, self.net = name, net.eval()
        self.digest = _digest(net)
        self._prepared: tuple[object, UQDM] = (None, net)

    def prepare(self, arithmetic: Arithmetic, overlap: int) -> UQDM:
        """The model, computing so."""
        key = arithmetic, overlap
        if self._prepared[0] != key:
            # a copy: another picture may be in the middle of its stages; the tables,
            # most of it, serve all
            tables: list[object] = list(self.net.buffers())
            tables += [
                vars(m)["_weights"] for m in self.net.modules() if "_weights" in vars(m)
            ]
            net = copy.deepcopy(self.net, {id(table): table for table in tables})
            net = net.to(getattr(torch, arithmetic))
            net.config = replace(net.config, overlap=overlap)
            self._prepared = key, net
        return self._prepared[1]


@functools.lru_cache(maxsize=2)
def open_codec(model: str, device: str = "cpu") -> Codec:
    """A model by its name in the zoo, or by the path of its checkpoint.

    Raises:
        FileNotFoundError: there are no weights of that name.
        ValueError: they are of no UQDM.
    """
    if model in NAMES:
        net = cast(UQDM, load_model(model, 1, pretrained=True))
    elif Path(model).is_dir():
        net = UQDM.from_checkpoint(model)
    elif Path(model).exists():
        has_context = any(".context." in key for key in read_checkpoint(Path(model)))
        net = (ContextUQDM if has_context else UQDM).from_checkpoint(model)
    else:
        raise FileNotFoundError(
            f"no model {model!r}: expected the path of a checkpoint, or one of "
            f"{', '.join(NAMES)}"
        )
    return Codec(Path(model).name, net.to(device))


def _digest(net: UQDM) -> bytes:
    """The start of a SHA-256 of everything that the integers of a stream follow from.

    It is part of the format: docs/format.md.
    """
    config = json.loads(bytes(net.config_bytes.tolist()))
    del config["overlap"]  # a file tells of its own
    found = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, value in sorted(net.state_dict().items()):
        if name.rpartition(".")[2] not in ("config_bytes", "bound", "quantiles"):
            value = value.float() if value.is_floating_point() else value.int()
            array = np.ascontiguousarray(value.cpu().numpy())
            found.update(name.encode() + array.astype(array.dtype.newbyteorder("<")).data)
    return found.digest()[:DIGEST_BYTES]


# ---- progress ----


Progress = Callable[[int, int], object]
"""Told of the windows that the network has seen of a picture, and of those that it will
have seen at the end, as far as is known yet."""


class _Count:
    """Windows that the network has seen of a picture, and those to come."""

    def __init__(self, tell: Progress | None, size: tuple[int, int], overlap: int):
        self.tell = tell or (lambda done, total: None)
        self.windows = math.prod(len(window_starts(side, overlap)) for side in size)
        self.done = self.total = 0

    def plan(self, passes: int) -> None:
        """The network is to see the picture so often from now on."""
        self.total = self.done + passes * self.windows
        self.tell(self.done, self.total)

    def __call__(self, windows: int) -> None:
        self.done += windows
        self.total = max(self.total, self.done)
        self.tell(self.done, self.total)


# ---- pictures ----


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


def _take_apart(image: Image.Image) -> tuple[np.ndarray, Colour, bytes]:
    """Levels, uint8 ``[H, W, 3]``, and the mode and palette to restore.

    Raises:
        ValueError: it has an alpha channel, more than 8 bits, or other colours.
    """
    # the second picture of a camera's MPO is a smaller copy, or of the depth
    frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
    if frames > 1:
        raise ValueError(f"expected one picture, got {frames} frames")
    if image.has_transparency_data:
        raise ValueError(
            "transparency cannot be coded: expected a picture without an alpha channel, "
            f'got mode {image.mode}. Drop it first, as with convert("RGB")'
        )
    stored = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
    # BGR;16 has 5 or 6 bits per channel
    if image.mode[0] in "IF" or re.search(r"(?<!BGR);(16|32)", stored):
        raise ValueError(
            "expected 8 bits per channel, got a picture with more "
            f"(mode {image.mode}). Convert it to 8 bits first"
        )
    colour: Colour
    if image.mode == "RGB":
        colour = "RGB"
    elif image.mode == "L":
        colour = "L"
    elif image.mode == "1":
        colour = "1"
    elif image.mode == "P":
        colour = "P"
    else:
        raise ValueError(
            "expected a picture in RGB, grayscale or with a palette, got mode "
            f'{image.mode}. Convert it first, as with convert("RGB")'
        )
    if colour != "P":
        return np.array(image.convert("RGB")), colour, b""
    # indexes beyond the palette are black
    indexes, palette = np.array(image), bytes(image.getpalette("RGB") or b"")
    palette = palette.ljust(3 * (int(indexes.max()) + 1), b"\0")
    return np.frombuffer(palette, np.uint8).reshape(-1, 3)[indexes], colour, palette


def _put_together(levels: np.ndarray, header: Header, exact: bool) -> Image.Image:
    """The inverse; a picture that is not exact keeps its shades."""
    gray = np.rint(levels.mean(-1)).astype(np.uint8)
    if header.colour == "RGB" or (header.colour == "P" and not exact):
        image = Image.fromarray(levels)
    elif header.colour == "P":
        image = Image.fromarray(_indexes(levels, header.palette))
        image.putpalette(header.palette)
    elif exact and (levels != gray[..., None]).any():
        raise DamagedFileError("the picture has colours where the header tells of none")
    elif header.colour == "1" and exact and not np.isin(gray, (0, 255)).all():
        raise DamagedFileError("the picture has grays where the header tells of none")
    else:
        image = Image.fromarray(gray)
        if header.colour == "1" and exact:
            image = image.convert("1", dither=Image.Dither.NONE)
    if header.icc_profile:
        image.info["icc_profile"] = header.icc_profile
    if header.orientation != 1:
        image.getexif()[ExifTags.Base.Orientation] = header.orientation
        image.info["exif"] = image.getexif().tobytes()
    return image


def _indexes(levels: np.ndarray, palette: bytes) -> np.ndarray:
    weights = np.array([1 << 16, 1 << 8, 1])
    colours = np.frombuffer(palette, np.uint8).reshape(-1, 3) @ weights
    unique, first = np.unique(colours, return_index=True)
    wanted = levels @ weights
    place = np.searchsorted(unique, wanted).clip(0, len(unique) - 1)
    if not np.array_equal(unique[place], wanted):
        raise DamagedFileError("the palette is not that of the picture")
    return first[place].astype(np.uint8)


# ---- encoding ----


class QualityWarning(UserWarning):
    """A file is not as good as was wanted, for it had to be small."""


SEARCH = 7
"""Passes, about, of the search for the smallest file of a quality."""


@torch.no_grad()
def encode(
    image: Image.Image,
    model: str | Codec = DEFAULT_MODEL,
    *,
    seed: int = 0,
    arithmetic: Arithmetic = "float64",
    stage: int | None = None,
    max_bytes: int | None = None,
    bpp: float | None = None,
    min_psnr: float | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> bytes:
    """A file of an image, exact if nothing limits it.

    Args:
        image: 8-bit RGB, grayscale or with a palette.
        model: a model of the zoo, the path of a checkpoint, or a model at hand.
        seed: seed of the dither, 0..2^32-1.
        arithmetic: ``"float64"`` decodes with other threads, batches and kernels;
            ``"float32"`` is faster, and decodes on this machine with the same settings.
        stage: number of stages, 1 (coarsest) to T + 1 (exact).
        max_bytes: largest size of the file.
        bpp: the same in bits per pixel.
        min_psnr: quality in dB that is enough (RGB, of ``"denoise"``); no limit above
            is exceeded for it.
        device: where the network runs.
        progress: told of windows that the network has seen, and of those in all; this
            number changes when coding ends early, and both are the same at the end.

    Raises:
        ValueError: another kind of image, or limits that cannot be met.

    Warns:
        QualityWarning: a limit does not let ``min_psnr`` be reached.
    """
    if 0 in image.size:
        raise ValueError(f"expected a picture, got {image.width} x {image.height} pixels")
    array, colour, palette = _take_apart(image)
    height, width = array.shape[:2]
    codec = open_codec(model, device) if isinstance(model, str) else model
    net = codec.prepare(arithmetic, codec.net.config.overlap)
    if stage is not None and not 1 <= stage <= net.n_stages:
        raise ValueError(
            f"stage must be in 1..{net.n_stages}, got {stage}: {codec.name} has "
            f"{net.n_stages} stages, and all of them are exact"
        )
    net.quality = net.n_stages if stage is None else stage
    if not 0 <= seed < 1 << 32:
        raise ValueError(f"seed must be in 0..2^32-1, got {seed}")
    limit = byte_limit(image.size, max_bytes, bpp)
    if min_psnr is not None and not min_psnr > 0:
        raise ValueError(f"min_psnr must be positive, got {min_psnr}")

    levels = torch.from_numpy(array).permute(2, 0, 1)[None]
    levels = levels.to(net.denoiser.conv_in.weight.device)
    psnr = functools.partial(_psnr, net, levels, seed)
    count = _Count(progress, image.size, net.config.overlap)
    # a stage's quality is seen by the next one's pass
    passes = net.quality + (min_psnr is not None)
    count.plan(min(passes, net.config.n_timesteps))
    encoder, listed, reached, enough = StreamEncoder(), [], 0.0, False
    for latent, found in net.encode_stages(levels, encoder, seed, count):
        listed.append(found)
        if min_psnr is not None:
            reached = psnr(latent)
            enough = reached >= min_psnr
        if enough or sum(map(len, encoder.segments())) >= limit:
            break
    strings = net.join(listed, encoder)
    header = Header(
        model=codec.name,
        digest=codec.digest,
        size=(width, height),
        seed=seed,
        arithmetic=arithmetic,
        overlap=net.config.overlap,
        lengths=tuple(map(len, strings)),
        colour=colour,
        palette=palette,
        orientation=_orientation(image),
        icc_profile=image.info.get("icc_profile") or b"",
    )
    start = header.pack()
    check_limit(limit, len(start))
    if min_psnr is not None:
        room = limit - len(start)
        if enough or room < sum(map(len, strings)):
            n, T = len(strings), net.config.n_timesteps
            count.plan(min(n, T) + (n < T) * (SEARCH if enough else 1))
            decoder = PictureDecoder(net, (height, width), seed, count)
            room, reached = _smallest(decoder, strings, room, reached, min_psnr, psnr)
            limit = len(start) + room
        if reached < min_psnr:
            warnings.warn(
                f"{reached:.2f} dB of the {min_psnr:g} wanted: "
                "raise the limit of bytes or of stages for more",
                QualityWarning,
                stacklevel=3,
            )
    count.plan(0)
    return (start + b"".join(strings))[:limit]


def _orientation(image: Image.Image) -> int:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def _psnr(net: UQDM, levels: Tensor, seed: int, latent: Latent) -> float:
    error = net.reconstruct(latent, "denoise", seed).double() - levels
    mse = float(error.square().mean())
    return 10 * float(np.log10(255**2 / mse)) if mse else float("inf")


def _smallest(
    decoder: PictureDecoder,
    strings: list[bytes],
    room: int,
    reached: float,
    min_psnr: float,
    psnr: Callable[[Latent], float],
) -> tuple[int, float]:
    """Bytes of these strings that reach a PSNR, ``room`` at most, and what they reach.

    All strings together reach the PSNR ``reached``, all but the last one less than is
    wanted.
    """
    ends = list(itertools.accumulate(map(len, strings), initial=0))
    room = min(room, ends[-1])
    last = max(bisect.bisect_left(ends, room) - 1, 0)  # the string that room ends in
    part = strings[last][: room - ends[last]]
    for string in strings[:last]:
        decoder.append(string)
    if room < ends[-1]:
        reached = psnr(decoder.look(part))
    low, high = 0, len(part)
    while reached >= min_psnr and high - low > max(1, len(part) // 64):
        middle = (low + high) // 2
        found = psnr(decoder.look(part[:middle]))
        if found >= min_psnr:
            high, reached = middle, found
        else:
            low = middle
    return ends[last] + high, reached


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
    """
    data = encode(image, model, **options)
    with write_atomically(Path(path)) as file:
        file.write(data)


# ---- decoding ----


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
        progress: as of :func:`encode`; the number in all is that of the whole file.

    Attributes:
        header: the file's header, once it has arrived.
    """

    def __init__(
        self,
        model: str | Codec | None = None,
        device: str = "cpu",
        max_pixels: int = MAX_PIXELS,
        progress: Progress | None = None,
    ):
        self.progress = progress
        self.model, self.device, self.max_pixels = model, device, max_pixels
        self.header: Header | None = None
        self._data = bytearray()
        self._at = 0  # where the next stage begins
        self._decoder: PictureDecoder | None = None
        self._damage: DamagedStringError | None = None

    def feed(self, data: bytes) -> int:
        """Take the next bytes, any number, and decode the stages that are whole.

        Returns:
            number of stages that are whole now, 0 while the header is not.

        Raises:
            DamagedStringError: the file is damaged; the picture of the stages before,
                if any, can still be had.
            FileNotFoundError: its model is not there.
            ValueError: it has too many pixels.
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
        if self.header is None or self._decoder is None:
            found = parse_header(self._data, self.max_pixels)
            if found is None:
                return
            self.header, self._at = found
            self._decoder = self._open(self.header)
        lengths = self.header.lengths
        while self.stages < len(lengths):
            end = self._at + lengths[self.stages]
            if len(self._data) < end:
                return
            self._decoder.append(bytes(self._data[self._at : end]))
            self._at = end
        if len(self._data) > self._at:
            raise DamagedFileError(
                f"the file goes on for {len(self._data) - self._at} bytes after its end"
            )

    def _open(self, header: Header) -> PictureDecoder:
        if self.model is None and header.model not in NAMES:
            raise FileNotFoundError(
                f"the file was encoded with a model {header.model!r} that is not in the "
                "zoo: give its checkpoint (--model)"
            )
        model = self.model or header.model
        codec = open_codec(model, self.device) if isinstance(model, str) else model
        if codec.digest != header.digest:
            raise DamagedFileError(
                f"the file was encoded with other weights or tables of {header.model}: "
                f"their digest is {header.digest.hex()}, here it is {codec.digest.hex()}"
            )
        net = codec.prepare(header.arithmetic, header.overlap)
        if len(header.lengths) > net.n_stages:
            raise DamagedFileError(
                f"the file has {len(header.lengths)} stages, its model {net.n_stages}"
            )
        width, height = header.size
        count = _Count(self.progress, header.size, header.overlap)
        # the picture of a latent takes one more pass than the stages up to it
        count.plan(min(len(header.lengths) + 1, net.config.n_timesteps))
        return PictureDecoder(net, (height, width), header.seed, count)

    @property
    def net(self) -> UQDM | None:
        """The model, once the header has arrived."""
        return self._decoder.net if self._decoder else None

    @property
    def stages(self) -> int:
        """Number of stages that are whole."""
        return self._decoder.latent.stage if self._decoder else 0

    @torch.no_grad()
    def picture(self, reconstruction: Reconstruction = "denoise") -> Picture:
        """The best picture of what has arrived, also of a stage that is not whole.

        Raises:
            NotYetError: the header has not arrived whole.
            DamagedStringError: the header is damaged, or the beginning of the next stage
                is; the picture without it can then be had.
        """
        if self._decoder is None:
            if self._damage:
                raise _afresh(self._damage)
            self._advance()  # raises what feed() did, if the header is there
        decoder, header = self._decoder, self.header
        if decoder is None or header is None:
            raise NotYetError(
                f"no picture yet: the file's header is not whole after {len(self._data)} "
                "bytes. Feed more, and ask again"
            )
        latent, share = decoder.latent, 0.0
        rest = bytes(self._data[self._at :])
        if rest and not self._damage:
            try:
                latent = decoder.look(rest)
                share = len(rest) / header.lengths[self.stages]
            except DamagedStringError as error:
                self._damage = _afresh(error)
                raise
        levels = decoder.net.reconstruct(latent, reconstruction, header.seed)
        array = levels[0].permute(1, 2, 0).contiguous().cpu().numpy()
        exact = self.stages == decoder.net.n_stages
        damage = str(self._damage) if self._damage else ""
        image = _put_together(array, header, exact)
        return Picture(image, self.stages, share, exact, damage)


def _afresh(error: DamagedStringError) -> DamagedStringError:
    # its traceback would keep the decoder, and all that it decoded, in memory
    return type(error)(*error.args)


def decode(
    data: bytes,
    *,
    stage: int | None = None,
    reconstruction: Reconstruction = "denoise",
    partial: bool = False,
    model: str | Codec | None = None,
    device: str = "cpu",
    max_pixels: int = MAX_PIXELS,
) -> Picture:
    """The picture in a file, or in the beginning of one.

    Args:
        data: the file's bytes, from its first on.
        stage: number of stages to decode at most.
        reconstruction: how an image is made of a latent: ``"denoise"``,
            ``"ancestral"`` or ``"flow_based"``.
        partial: of a damaged file, give the stages before the damage.
        model: as of :class:`StreamingDecoder`; ``device`` and ``max_pixels`` too.

    Raises:
        DamagedStringError: the file is damaged, or ends inside its header.
        ValueError: it has too many pixels, or an argument is none of these.
    """
    decoder = StreamingDecoder(model, device, max_pixels)
    if stage is not None:
        data = truncate(data, stage=stage)
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
