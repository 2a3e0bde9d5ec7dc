"""The command ``uqdm info``, for one input."""

import itertools

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from pathlib import Path

from ..files.container import MAGIC
from ..files.header import Header
from .inputs import read_header
from .progress import Show
from .stage_text import stages_text
from .task import Report, WithoutNetwork
from .terminal import name_of, printable

__all__ = ["Info"]


@dataclass(frozen=True)
class Info(WithoutNetwork):
    """What a header tells."""

    def __call__(self, source: Path, target: Path | None, show: Show) -> Report:
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
        end, held = start, min(size, start + header.payload_bytes)
        for stage, length in enumerate(header.lengths, 1):
            share = min(max(held - end, 0) / max(length, 1), 1)
            end += length
            there = "" if share == 1 else f", {share:.0%} of it there"
            bpp = 8 * end / (width * height)
            lines.append(
                f"  stage {stage}  {length} bytes, {bpp:.3f} bpp up to here{there}"
            )
        if held < end:
            lines.append(f"  {stages_text(header, held - start)}")
        if size > start + header.payload_bytes:
            excess = size - start - header.payload_bytes
            lines.append(f"  and {excess} bytes that do not belong to it")
        return Report("\n".join(lines) + "\n")


def _coder(header: Header) -> str:
    if header.storage == "WebP":
        return "none: stored as lossless WebP, without coarser pictures"
    name = printable(header.model)
    return f"{name}, digest {header.digest.hex()}, {header.arithmetic}, seed {header.seed}"


def _segments(header: Header, data: bytes, start: int) -> Iterator[bytes]:
    """What is there of every stage's string, and then what is there besides."""
    ends = itertools.accumulate(header.lengths, initial=start)
    for begin, end in itertools.pairwise([*ends, len(data)]):
        if data[begin:end]:
            yield data[begin:end]
