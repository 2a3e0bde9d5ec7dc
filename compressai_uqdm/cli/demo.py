"""``uqdm demo``: what this is, shown with a photograph."""

import importlib
import io
import itertools
import os
import sys
import time

from contextlib import suppress
from pathlib import Path
from string import Template
from typing import IO, TYPE_CHECKING, Any

import click

from .encode import open_picture
from .inputs import open_input
from .network import Network
from .outputs import as_bytes, write
from .paths import FILE, check_source, check_target
from .progress import bar
from .terminal import Failure, format_error, name_of, printable

if TYPE_CHECKING:
    from PIL import Image

    from ..files.encoding import Encoded
    from ..files.model import Codec
    from ..page import Received

__all__ = ["FOLDER", "demonstrate"]

FOLDER = "uqdm-demo"
PHOTO = Path(__file__).parent.parent / "assets/demo/friends.webp"
CREDIT = " Photograph: “friends” by Aitzol Berasategi, CC BY 4.0, cut and reduced."

CUTS = (0.25, 0.5, 0.75, 1.0)
"""Shares of a stage's bytes that the slider stops at."""

MANY_PIXELS = 1_000_000
"""In larger pictures it stops at whole stages: each stop takes a decoder's time."""

EXACT_SIDE = 512
"""Up to this many pixels a side, the page has pictures as they are."""

LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {"format": "PNG", "optimize": True},
    "WebP": {"format": "WEBP", "lossless": True, "quality": 100, "method": 6},
    # without its colour transform it would take twice as much
    "JPEG 2000": {"format": "JPEG2000", "mct": 1, "no_jp2": True},
    "JPEG XL": {"format": "JXL", "lossless": True},
}
"""Other files, and the options of Pillow's that make them small.

JPEG XL is there where its plugin for Pillow is installed."""


def demonstrate(
    photo: Path | None, output: Path | None, network: Network, force: bool
) -> int:
    """Code a photograph, the packaged one by default, and show it in a folder.

    Args:
        photo: the photograph.
        output: the folder, by default one of the photograph's name in ``FOLDER``.
        network: what codes it.
        force: replace the files of an earlier demonstration.

    Returns:
        the exit code, 0.

    Raises:
        Failure: the photograph cannot be coded, or the folder has files already.
    """
    source = photo or PHOTO
    output = output or Path(FOLDER) / source.stem
    if not force and output.is_dir() and any(output.iterdir()):
        raise Failure(
            f"the folder {output} has files in it: give --force to replace those of an "
            "earlier demo, or another --output"
        )
    try:
        check_source(source)
        with open_input(source) as opened:
            image = _upright(opened, network.max_pixels)
    except Exception as error:  # Pillow's are of many kinds
        raise Failure(f"{name_of(source)}: {format_error(error, source)}") from error
    codec = network.codec()
    output.mkdir(parents=True, exist_ok=True)
    file = output / f"{source.stem}{FILE}"
    try:
        check_target(file, force)
    except ValueError as error:
        raise Failure(format_error(error)) from error

    coded, seconds = _coded(source.stem, image, codec)
    write(file, coded.data, force)
    click.echo(f"{name_of(file)}: {image.width} x {image.height}, coded in {seconds:.1f} s")
    received = _receive(image, coded, codec, file, force)
    sizes = {FILE: len(coded.data), **_lossless_sizes(image)}
    listed = ", ".join(f"{kind} {size:,}" for kind, size in sizes.items())
    click.echo(f"without loss, in bytes: {listed}")
    page = output / "index.html"
    credit = "" if photo else CREDIT
    text = _page(source.stem, credit, image, received, sizes, codec.name)
    write(page, text.encode(errors="replace"), force)
    click.echo(f"{name_of(page)}: open it in a browser, and move the slider")
    if sys.stdout and sys.stdout.isatty() and _has_display():
        click.launch(str(page.resolve()))
    return 0


def _upright(file: IO[bytes], max_pixels: int) -> "Image.Image":
    """The pixels of a photograph, grayscale or RGB, turned as its EXIF says.

    Raises:
        ValueError: it cannot be coded.
    """
    from PIL import ExifTags, Image, ImageOps

    from ..files.exif import orientation_of
    from ..files.pictures import to_planes

    with open_picture(file, max_pixels) as opened:
        planes = to_planes(opened)
        gray = planes.colour == "L"
        image = Image.fromarray(planes.levels[..., 0] if gray else planes.levels)
        image.getexif()[ExifTags.Base.Orientation] = orientation_of(opened)
        return ImageOps.exif_transpose(image)


def _coded(name: str, image: "Image.Image", codec: "Codec") -> "tuple[Encoded, float]":
    """The file, and the seconds that it took."""
    from ..files.encoding import EncodeOptions, encode_measured

    start = time.perf_counter()
    with bar(f"coding {name}") as shown:
        coded = encode_measured(
            image,
            codec,
            EncodeOptions(stages=codec.net.n_stages),  # stages for graphics, too
            lambda share: shown.update(share - shown.n),
        )
    return coded, time.perf_counter() - start


def _receive(
    image: "Image.Image", coded: "Encoded", codec: "Codec", file: Path, force: bool
) -> "list[Received]":
    """The photograph as the bytes of its file arrive; that of each stage is written."""
    import numpy as np

    from ..files.decoding import StreamingDecoder
    from ..page import Received

    original = np.asarray(image.convert("RGB"))
    n_pixels = image.width * image.height
    shares = CUTS if n_pixels <= MANY_PIXELS else CUTS[-1:]
    lengths = coded.header.lengths
    starts = itertools.accumulate(lengths, initial=len(coded.data) - sum(lengths))
    decoder = StreamingDecoder(codec, max_pixels=n_pixels)
    received, at = [], 0
    with bar("decoding beginnings of it") as shown:
        for stage, (start, length) in enumerate(zip(starts, lengths), 1):
            for share in shares:
                end = start + round(share * length)
                decoder.feed(coded.data[at:end])
                at, picture = end, decoder.picture().image
                levels = np.asarray(picture.convert("RGB"))
                mse = float(np.square(levels - original.astype(float)).mean())
                where = f"stage {stage}" if share == 1 else f"within stage {stage}"
                received.append(Received(where, end, levels, mse))
                shown.update(len(received) / len(shares) / len(lengths) - shown.n)
            path, last = file.parent / f"stage{stage}.png", received[-1]
            write(path, as_bytes(picture, path), force)
            with shown.external_write_mode():
                click.echo(
                    f"{name_of(path)}: from the first {last.size:,} bytes of "
                    f"{printable(file.name)}, {last.bpp:.3f} bits per pixel, {last.quality}"
                )
    return received


def _lossless_sizes(image: "Image.Image") -> dict[str, int]:
    """Bytes of the same picture in other files, of the kinds that can hold it."""
    with suppress(ImportError):
        importlib.import_module("pillow_jxl")  # has Pillow know of JPEG XL
    sizes = {}
    for name, options in LOSSLESS.items():
        file = io.BytesIO()
        try:
            image.save(file, **options)
        except (KeyError, OSError, ValueError):  # as of more than 16383 pixels a side
            continue
        sizes[name] = len(file.getvalue())
    return sizes


def _page(
    name: str,
    credit: str,
    image: "Image.Image",
    received: "list[Received]",
    sizes: dict[str, int],
    model: str,
) -> str:
    import numpy as np

    from .. import page

    original = np.asarray(image.convert("RGB"))
    picture = page.Picture(name, original, received, EXACT_SIDE)
    bits = 8 / (image.width * image.height)
    rows = [
        [page.Cell(kind), page.Cell(f"{size:,}"), page.Cell(f"{bits * size:.3f}")]
        for kind, size in sizes.items()
    ]
    about = "Any beginning of the file is a picture, and all of it is the exact one."
    return Template((page.ASSETS / "demo.html").read_text()).substitute(
        title="A photograph that arrives in stages",
        subtitle=page.escape(about + credit),
        style=page.style(),
        slider=page.slider(),
        pictures=page.picture_section([picture], model),
        sizes=page.table(["", "bytes", "bits per pixel"], rows),
        data=page.as_script({"pictures": [picture.data()]}),
    )


def _has_display() -> bool:
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
