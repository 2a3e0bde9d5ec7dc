"""What is done with one input.

A task is called with an input, its output and what shows its progress, and can be sent to
another process. It returns what is to be told, and raises what is wrong.
"""

import io
import itertools
import math
import time
import warnings

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from ..errors import DamagedStringError
from ..files.container import MAGIC, ends_in_header, parse_header
from ..files.header import Header
from ..files.rate import truncate, whole_stages
from ..launcher import number_in_environment
from .libraries import import_libraries
from .places import (
    NO_LIMIT,
    as_bytes,
    check_target,
    not_kept,
    open_input,
    read_file,
    read_header,
    write,
)
from .terminal import (
    STANDARD,
    Failure,
    Show,
    name_of,
    printable,
    told,
)

if TYPE_CHECKING:
    from PIL import Image

    from ..files.decoding import StreamingDecoder
    from ..files.encoding import Encoded
    from ..files.model import Codec

__all__ = [
    "Decode",
    "Encode",
    "Info",
    "Network",
    "Task",
    "Told",
    "Truncate",
    "Verify",
    "open_picture",
]

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")

TILE = 96
"""Side of the square that is coded to tell how long a picture takes: the published
networks see as many windows of it as of so many pixels of a large picture."""

QUICK = 1e-4
"""Seconds, more than a pixel takes a model in integers."""


@dataclass
class Told:
    """What there is to tell of an input.

    Args:
        text: for standard output.
        notes: lines for standard error.
        failed: whether the input is not what it should be.
    """

    text: str = ""
    notes: list[str] = field(default_factory=list)
    failed: bool = False


class Task(Protocol):
    """What is done with one input."""

    def __call__(self, source: Path, target: Path | None, show: Show) -> Told:
        """Do it."""
        ...

    def pixels(self, source: Path) -> int:
        """Size of the picture, for a network to work on, or 0 if it is not known."""
        ...

    def pixel_seconds(self, source: Path, is_long: Callable[[float], bool]) -> float:
        """About how long a pixel takes, measured again where it would be long."""
        ...

    def remedies(self) -> list[str]:
        """Options that would take less time."""
        ...


@dataclass(frozen=True)
class Network:
    """Which network runs, and on what.

    Args:
        model: name, path or repository; None for that of the file, or the default.
        device: where PyTorch runs it.
        threads: of PyTorch.
        max_pixels: largest picture to accept.
        max_metadata: bytes of metadata to accept.
    """

    model: str | None
    device: str
    threads: int | None
    max_pixels: int
    max_metadata: int

    def prepare(self) -> str:
        """Import PyTorch, and have it use these threads and this device.

        Returns:
            the device of this process.

        Raises:
            Failure: there is no such device, or LOCAL_RANK is no number.
        """
        import_libraries()
        import torch

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            device, rank = self.device, number_in_environment("LOCAL_RANK", 0)
        except ValueError as error:
            raise Failure(f"{error}") from error
        if device == "cuda" and torch.cuda.is_available():
            device = f"cuda:{rank % torch.cuda.device_count()}"
        try:
            torch.zeros(1, device=device).item()
        except Exception as error:  # of many kinds
            raise Failure(
                f"PyTorch cannot use the device {device!r} here: leave --device out to "
                "run on the CPU"
            ) from error
        return device

    def codec(self) -> "Codec":
        """The model that encodes.

        Raises:
            Failure: it cannot be had.
        """
        device = self.prepare()
        from ..files.model import DEFAULT_MODEL, open_codec

        try:
            return open_codec(self.model or DEFAULT_MODEL, device)
        except (OSError, ValueError) as error:
            raise Failure(told(error)) from error


@dataclass(frozen=True)
class WithoutNetwork:
    """What is done at once."""

    def pixels(self, source: Path) -> int:
        return 0

    def pixel_seconds(self, source: Path, is_long: Callable[[float], bool]) -> float:
        return 0.0

    def remedies(self) -> list[str]:
        return []


# ---- encoding ----


@dataclass(frozen=True)
class Encode:
    """A picture to a file; the options are those of :func:`..files.encoding.encode`."""

    network: Network
    options: dict[str, Any]
    force: bool = False

    def __call__(self, source: Path, target: Path | None, show: Show) -> Told:
        assert target is not None
        with (
            open_input(source) as file,
            open_picture(file, self.network.max_pixels) as image,
        ):
            before = file.seek(0, io.SEEK_END)
            codec, asked = self.network.codec(), self.options["arithmetic"]
            if asked not in (None, *codec.arithmetics):
                raise ValueError(
                    f"{codec.name} computes in {' or '.join(codec.arithmetics)}, not in "
                    f"{asked}: leave --arithmetic out"
                )
            with _notes() as notes, show() as progress:
                start = time.perf_counter()
                limits = {"max_metadata": self.network.max_metadata, **self.options}
                coded = _encode(image, codec, progress=progress, **limits)
                seconds = time.perf_counter() - start
        write(target, coded.data, self.force)
        size = len(coded.data)
        if size > before:
            notes.append(f"{name_of(target)} {_larger(coded, before)}")
        text = (
            f"{name_of(source)}: {size:,} bytes, {size / before:.1%} of {before:,}; "
            f"{_quality(coded)}; {seconds:.1f} s\n"
        )
        return Told("" if target == STANDARD else text, notes)

    def pixels(self, source: Path) -> int:
        try:
            with open_picture(source, self.network.max_pixels) as image:
                return int(image.width * image.height)
        except Exception:  # the work will tell
            return 0

    def pixel_seconds(self, source: Path, is_long: Callable[[float], bool]) -> float:
        codec = self.network.codec()
        if _is_quick(codec, is_long):
            return 0.0
        with open_picture(source) as image:
            side = _side(codec)
            left, top = max(image.width - side, 0) // 2, max(image.height - side, 0) // 2
            tile = image.crop((left, top, left + side, top + side)).convert("RGB")
        tile.info.clear()  # what metadata is too large, the work will tell
        options = {k: v for k, v in self.options.items() if k not in ("max_bytes", "bpp")}
        return _timed(lambda: _encode(tile, codec, **options), side, is_long)

    def remedies(self) -> list[str]:
        codec, asked = self.network.codec(), self.options["arithmetic"]
        faster = "float32" in codec.arithmetics and asked != "float32"
        fewer = self.options["stages"] is None
        return ["--arithmetic float32"] * faster + ["--stages"] * fewer


def _encode(image: "Image.Image", codec: "Codec", **options: Any) -> "Encoded":
    from ..files.encoding import encode_measured

    return encode_measured(image, codec, **options)


def open_picture(file: IO[bytes] | Path, max_pixels: int = NO_LIMIT) -> "Image.Image":
    """A picture in a file.

    Raises:
        ValueError: it is none, or has too many pixels.
    """
    from PIL import Image, UnidentifiedImageError

    from ..files.pictures import check_no_program

    Image.MAX_IMAGE_PIXELS = None  # ours is the limit
    try:
        image = Image.open(file)
    except UnidentifiedImageError as error:
        raise ValueError(
            "no picture that Pillow can read: convert it to PNG first"
        ) from error
    check_no_program(image)  # before any part of it is wanted
    if image.width * image.height > max_pixels:
        raise ValueError(
            f"the picture has {image.width} x {image.height} pixels, more than "
            f"the limit of {max_pixels} (--max-pixels)"
        )
    return image


def _larger(coded: "Encoded", before: int) -> str:
    """Say that a file is larger than the picture's own, and which stages are not."""
    text = "is larger than the picture's own file"
    lengths = coded.header.lengths
    start = len(coded.data) - coded.header.as_made
    for stages in range(len(lengths) - 1, 0, -1):
        if start + sum(lengths[:stages]) < before:
            return f"{text}; --stages {stages} makes a smaller one"
    return text


def _quality(coded: "Encoded") -> str:
    if coded.header.storage == "WebP":
        return "stored as lossless WebP, exact"
    text = f"{coded.stages} stage{'s' * (coded.stages != 1)}"
    if coded.share:
        text += f" and {coded.share:.0%} of the {_ordinal(coded.stages)}"
    if coded.exact:
        return f"{text}, exact"
    if coded.psnr is None:
        return text
    reached = "no difference" if math.isinf(coded.psnr) else f"{coded.psnr:.2f} dB"
    return f"{text}, {reached} after stage {coded.stages}"


@contextmanager
def _notes() -> Iterator[list[str]]:
    """A list that gets what the library warns of."""
    from ..files.encoding import QualityWarning

    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", QualityWarning)
        yield notes
    notes += [str(warning.message) for warning in caught]


def _is_quick(codec: "Codec", is_long: Callable[[float], bool]) -> bool:
    """Whether it need not be measured, which takes a second."""
    return codec.arithmetics == ("integer",) and not is_long(QUICK)


def _side(codec: "Codec") -> int:
    # steps of models in integers take their time also where pixels are few
    return 4 * TILE if codec.arithmetics == ("integer",) else TILE


def _timed(run: Callable[[], object], side: int, is_long: Callable[[float], bool]) -> float:
    """Seconds for a pixel of a tile."""
    best = math.inf
    for _ in range(2):  # the first may only warm up
        start = time.perf_counter()
        run()
        best = min(best, (time.perf_counter() - start) / side**2)
        if not is_long(best):
            break
    return best


# ---- decoding ----


@dataclass(frozen=True)
class _Decoding:
    """What tasks share that decode."""

    network: Network
    missing: dict[str, FileNotFoundError] = field(default_factory=dict)

    def decoder(self, header: Header, start: bytes, show: Any) -> "StreamingDecoder":
        """One that has seen the header. It does not seek a missing model once more."""
        network = self.network
        name = network.model or header.model
        if name in self.missing:
            raise self.missing[name]
        device = network.prepare()
        from ..files.decoding import StreamingDecoder

        limits = network.max_pixels, show, network.max_metadata
        decoder = StreamingDecoder(network.model, device, *limits)
        try:
            decoder.feed(start)
        except FileNotFoundError as error:
            self.missing[name] = error
            raise
        return decoder

    def pixels(self, source: Path) -> int:
        try:
            header, _, _ = read_header(source, self.network.max_pixels)
        except Exception:  # the work will tell
            return 0
        return math.prod(header.size) if header.storage == "stages" else 0

    def pixel_seconds(self, source: Path, is_long: Callable[[float], bool]) -> float:
        device = self.network.prepare()
        import numpy as np

        from PIL import Image

        from ..files.decoding import decode
        from ..files.model import codec_of

        header, _, _ = read_header(source)
        codec = codec_of(header, self.network.model, device)
        if _is_quick(codec, is_long):
            return 0.0
        side = _side(codec)
        levels = np.random.default_rng(0).integers(96, 160, (side, side, 3), np.uint8)
        options = {"arithmetic": header.arithmetic, "stages": len(header.lengths)}
        data = _encode(Image.fromarray(levels), codec, **options).data
        return _timed(lambda: decode(data, model=codec), side, is_long)

    def remedies(self) -> list[str]:
        return []


@dataclass(frozen=True)
class Decode(_Decoding):
    """A file to a picture.

    Args:
        stages: number of stages to decode at most.
        max_bytes: bytes to read at most.
        reconstruction: how a picture is made of what is not exact.
        progressive: folder for the pictures of all stages.
        partial: of a damaged file, keep what comes before the damage.
        force: replace pictures of stages that exist.
    """

    stages: int | None = None
    max_bytes: int | None = None
    reconstruction: Any = "denoise"
    progressive: Path | None = None
    partial: bool = False
    force: bool = False

    def __call__(self, source: Path, target: Path | None, show: Show) -> Told:
        data = read_file(source, self.max_bytes)
        if self.stages is not None:
            data = truncate(data, stages=self.stages)
        header, start = _header(data, self.network.max_pixels)
        pieces = list(_pieces(header, data, start))
        shown = self._stage_paths(source, header, pieces)
        self.network.prepare()
        with show() as progress:
            decoder = self.decoder(header, data[:start], progress)
            known = decoder.net.reconstructions if decoder.net else ()
            if decoder.net and self.reconstruction not in known:
                raise ValueError(
                    f"{header.model} has only --reconstruction {' or '.join(known)}, not "
                    f"{self.reconstruction}: leave the option out"
                )
            try:
                for piece, path in zip(pieces, shown):
                    decoder.feed(piece)
                    if path:
                        picture = decoder.picture(self.reconstruction)
                        write(path, as_bytes(picture.image, path), self.force)
                picture = decoder.picture(self.reconstruction)
            except DamagedStringError as error:
                if not self.partial:
                    raise _with_remedy(error, header, decoder.stages) from error
                picture = decoder.picture(self.reconstruction)
        notes = []
        if target:
            file = as_bytes(picture.image, target)
            write(target, file, self.force)
            if lost := not_kept(picture.image, file, picture.exact):
                notes.append(f"{target} {lost}; .png does")
        there = _there(header, len(data) - start)
        asked, n_stages = self.stages or len(header.lengths), len(header.lengths)
        if picture.damage:
            whole = _stages(header, picture.stages, 0)
            notes.append(f"{picture.damage}; the picture is of {whole}")
        elif picture.stages < min(asked, n_stages):
            notes.append(there)
        elif asked > n_stages:
            notes.append(f"no stage {asked} in it: the picture is of {there}")
        return Told(notes=notes)

    def _stage_paths(
        self, source: Path, header: Header, pieces: list[bytes]
    ) -> list[Path | None]:
        if self.progressive is None:
            return [None] * len(pieces)
        self.progressive.mkdir(parents=True, exist_ok=True)
        stem = "picture" if source == STANDARD else source.stem
        paths: list[Path | None] = [None] * len(pieces)
        for i, (piece, length) in enumerate(zip(pieces, header.lengths)):
            cut = "-cut" if len(piece) < length else ""
            path = self.progressive / f"{stem}.stage{i + 1}{cut}.png"
            check_target(path, self.force)
            paths[i] = path
        return paths


@dataclass(frozen=True)
class Verify(_Decoding):
    """Decode a file, and say whether it is whole."""

    def __call__(self, source: Path, target: Path | None, show: Show) -> Told:
        data = read_file(source)
        header, start = _header(data, self.network.max_pixels)
        self.network.prepare()
        with show() as progress:
            decoder = self.decoder(header, data[:start], progress)
            try:
                decoder.feed(data[start:])
                if decoder.exact:
                    decoder.picture()
            except DamagedStringError as error:
                raise _with_remedy(error, header, decoder.stages) from error
        n_bytes = len(data) - start
        exact = "exact, " if decoder.exact else ""
        _, share = whole_stages(header.lengths, n_bytes)
        unchecked = " that no checksum covers" if share else ""
        there = _there(header, n_bytes)
        if n_bytes < header.as_made:
            return Told(notes=[f"{there}{unchecked}"], failed=True)
        return Told(f"{name_of(source)}: {exact}{there}{unchecked}\n")


def _with_remedy(
    error: DamagedStringError, header: Header, stages: int
) -> DamagedStringError:
    if not stages:
        return error
    whole = _stages(header, stages, 0)
    return DamagedStringError(f"{error}; uqdm decode --partial keeps {whole}")


# ---- without a network ----


@dataclass(frozen=True)
class Truncate(WithoutNetwork):
    """A file to a shorter one; the limits are those of :func:`..files.rate.truncate`."""

    stages: int | None
    max_bytes: int | None
    bpp: float | None
    force: bool = False

    def __call__(self, source: Path, target: Path | None, show: Show) -> Told:
        assert target is not None
        data = read_file(source)
        limits = {"stages": self.stages, "max_bytes": self.max_bytes, "bpp": self.bpp}
        cut = truncate(data, **limits)  # type: ignore[arg-type]
        write(target, cut, self.force)
        if len(cut) < len(data):
            return Told()
        stages = len(_header(data, NO_LIMIT)[0].lengths)
        note = (
            f"not shortened: it has {len(data)} bytes, of {stages} stages, which is within "
            "the limit; give a smaller one"
        )
        return Told(notes=[note])


@dataclass(frozen=True)
class Info(WithoutNetwork):
    """What a header tells."""

    def __call__(self, source: Path, target: Path | None, show: Show) -> Told:
        header, data, size = read_header(source)
        start = len(data)
        width, height = header.size
        colours = {"L": "grayscale", "P": "palette", "1": "black and white"}
        picture = [f"{width} x {height}", colours.get(header.colour, "RGB")]
        if header.orientation != 1:
            picture.append(f"orientation {header.orientation}")
        extras: tuple[Sized, ...] = (header.alpha, header.icc_profile, header.exif)
        for name, extra in zip(("alpha channel", "ICC profile", "EXIF"), extras):
            if extra:
                picture.append(f"{name} of {len(extra)} bytes")
        lines = [
            f"{name_of(source)}: version {data[len(MAGIC)]}, {size} bytes",
            f"  picture  {', '.join(picture)}",
            f"  model    {_coder(header)}",
            f"  header   {start} bytes",
        ]
        end, held = start, min(size, start + header.as_made)
        for stage, length in enumerate(header.lengths, 1):
            share = min(max(held - end, 0) / max(length, 1), 1)
            end += length
            there = "" if share == 1 else f", {share:.0%} of it there"
            bpp = 8 * end / (width * height)
            lines.append(
                f"  stage {stage}  {length} bytes, {bpp:.3f} bpp up to here{there}"
            )
        if held < end:
            lines.append(f"  {_there(header, held - start)}")
        if size > start + header.as_made:
            excess = size - start - header.as_made
            lines.append(f"  and {excess} bytes that do not belong to it")
        return Told("\n".join(lines) + "\n")


def _coder(header: Header) -> str:
    if header.storage == "WebP":
        return "none: stored as lossless WebP, without coarser pictures"
    name = printable(header.model)
    return f"{name}, digest {header.digest.hex()}, {header.arithmetic}, seed {header.seed}"


# ---- files ----


def _header(data: bytes, max_pixels: int) -> tuple[Header, int]:
    found = parse_header(data, max_pixels)
    if found is None:
        raise ends_in_header(len(data))
    return found


def _pieces(header: Header, data: bytes, start: int) -> Iterator[bytes]:
    """What is there of every stage's string, and then what is there besides."""
    ends = itertools.accumulate(header.lengths, initial=start)
    for begin, end in itertools.pairwise([*ends, len(data)]):
        if data[begin:end]:
            yield data[begin:end]


def _there(header: Header, n_bytes: int) -> str:
    """How much of a file so many bytes of strings are, and why they are not all."""
    text = _stages(header, *whole_stages(header.lengths, n_bytes))
    if n_bytes < header.as_made:
        return f"cut short: {text}"
    if n_bytes < sum(header.lengths):
        return f"made to a limit, with {n_bytes} bytes of stages: {text}"
    return text


def _stages(header: Header, stages: int, share: float) -> str:
    text = f"{stages} of {len(header.lengths)} stages"
    if share:
        text += f" and {share:.0%} of the {_ordinal(stages)}"
    return text


def _ordinal(stages: int) -> str:
    """The stage after so many, in words."""
    return ORDINALS[stages] if stages < len(ORDINALS) else f"{stages + 1}th"
