"""The command ``uqdm encode``, for one input."""

import io
import math
import time
import warnings

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..progress import Progress
from .inputs import open_input
from .network import Network
from .outputs import write
from .paths import NO_LIMIT
from .progress import Show
from .stage_text import ordinal
from .task import Report
from .terminal import STANDARD, name_of
from .timing import is_quick, tile_side, timed

if TYPE_CHECKING:
    from PIL import Image

    from ..files.encoding import Encoded
    from ..files.model import Codec

__all__ = ["Encode", "open_picture"]


# ---- encoding ----


@dataclass(frozen=True)
class Encode:
    """A picture to a file; the options are those of :func:`..files.encoding.encode`."""

    network: Network
    options: dict[str, Any]
    force: bool = False

    def __call__(self, source: Path, target: Path | None, show: Show) -> Report:
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
            with _warnings_as_notes() as notes, show() as progress:
                start = time.perf_counter()
                limits = {"max_metadata": self.network.max_metadata, **self.options}
                coded = encode_picture(image, codec, progress=progress, **limits)
                seconds = time.perf_counter() - start
        write(target, coded.data, self.force)
        size = len(coded.data)
        if size > before:
            notes.append(f"{name_of(target)} {_larger(coded, before)}")
        text = (
            f"{name_of(source)}: {size:,} bytes, {size / before:.1%} of {before:,}; "
            f"{_quality(coded)}; {seconds:.1f} s\n"
        )
        return Report("" if target == STANDARD else text, notes)

    def pixels(self, source: Path) -> int:
        try:
            with open_picture(source, self.network.max_pixels) as image:
                return int(image.width * image.height)
        except Exception:  # the work will tell
            return 0

    def pixel_seconds(self, source: Path, is_long: Callable[[float], bool]) -> float:
        codec = self.network.codec()
        if is_quick(codec, is_long):
            return 0.0
        with open_picture(source) as image:
            side = tile_side(codec)
            left, top = max(image.width - side, 0) // 2, max(image.height - side, 0) // 2
            tile = image.crop((left, top, left + side, top + side)).convert("RGB")
        tile.info.clear()  # what metadata is too large, the work will tell
        options = {k: v for k, v in self.options.items() if k not in ("max_bytes", "bpp")}
        return timed(lambda: encode_picture(tile, codec, **options), side, is_long)

    def speedup_hints(self) -> list[str]:
        codec, asked = self.network.codec(), self.options["arithmetic"]
        faster = "float32" in codec.arithmetics and asked != "float32"
        fewer = self.options["stages"] is None
        return ["--arithmetic float32"] * faster + ["--stages"] * fewer


def encode_picture(
    image: "Image.Image",
    codec: "Codec",
    progress: Progress | None = None,
    **options: Any,
) -> "Encoded":
    from ..files.encoding import EncodeOptions, encode_measured

    return encode_measured(image, codec, EncodeOptions(**options), progress)


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
    start = len(coded.data) - coded.header.payload_bytes
    for stages in range(len(lengths) - 1, 0, -1):
        if start + sum(lengths[:stages]) < before:
            return f"{text}; --stages {stages} makes a smaller one"
    return text


def _quality(coded: "Encoded") -> str:
    if coded.header.storage == "WebP":
        return "stored as lossless WebP, exact"
    text = f"{coded.stages} stage{'s' * (coded.stages != 1)}"
    if coded.share:
        text += f" and {coded.share:.0%} of the {ordinal(coded.stages)}"
    if coded.exact:
        return f"{text}, exact"
    if coded.psnr is None:
        return text
    reached = "no difference" if math.isinf(coded.psnr) else f"{coded.psnr:.2f} dB"
    return f"{text}, {reached} after stage {coded.stages}"


@contextmanager
def _warnings_as_notes() -> Iterator[list[str]]:
    """A list that gets what the library warns of."""
    from ..files.encoding import QualityWarning

    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", QualityWarning)
        yield notes
    notes += [str(warning.message) for warning in caught]
