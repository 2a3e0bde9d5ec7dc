"""Where inputs come from, and where outputs go."""

import io
import sys

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from click import UsageError

from ..atomic import write_atomically
from .terminal import STANDARD

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "FILE",
    "PICTURES",
    "Pair",
    "as_bytes",
    "check_target",
    "find_inputs",
    "find_pairs",
    "read",
    "write",
]

FILE = ".uqdm"
PICTURES = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
NOT_OURS = (*PICTURES, ".avif", ".heic", ".jp2", ".jxl")

Pair = tuple[Path, Path | None]
"""An input and its output, if there is one."""


def find_inputs(paths: Sequence[Path], suffixes: Sequence[str]) -> list[Path]:
    """The files that are named, and those in folders that are."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [p for p in sorted(path.iterdir()) if p.suffix.lower() in suffixes]
            if not inside:
                raise UsageError(f"no {' or '.join(suffixes)} in the folder {path}")
            found += inside
        else:
            found.append(path)
    return found


def find_pairs(paths: Sequence[Path], suffixes: Sequence[str], new: str) -> list[Pair]:
    """Every input with its output; the output, last of the paths, may be a folder."""
    if len(paths) < 2:
        raise UsageError("expected an input and an output")
    inputs, output = find_inputs(paths[:-1], suffixes), paths[-1]
    into_folder = len(paths) > 2 or paths[0].is_dir()
    suffix = output.suffix.lower()
    if not into_folder and not output.is_dir():
        if new == FILE and suffix in NOT_OURS:
            raise UsageError(f"{output} is the name of a picture: expected one in {FILE}")
        if new != FILE:
            _picture_format(output)
        return [(inputs[0], output)]
    if STANDARD in inputs or output == STANDARD:
        raise UsageError("standard input or output goes with one file")
    if output.exists() and not output.is_dir():
        raise UsageError(f"of several inputs, the output is a folder: {output} is none")
    if not output.exists() and suffix in (FILE, *NOT_OURS):
        raise UsageError(
            f"of several inputs, the output is a folder: {output} is the name of a file"
        )
    output.mkdir(parents=True, exist_ok=True)
    return [(source, output / (source.stem + new)) for source in inputs]


def check_target(target: Path, force: bool) -> None:
    """Raise a ValueError where nothing can be written."""
    if target.is_dir():
        raise ValueError(f"{target} is a folder: expected the name of a file")
    if target.exists():
        if target.is_file() and not force:
            raise ValueError(f"{target} exists: give --force to replace it")
    elif not target.parent.is_dir():
        raise ValueError(f"there is no folder {target.parent}: make it first")


def read(source: Path, limit: int = -1) -> bytes:
    """A file, or so many bytes of it."""
    if source == STANDARD:
        return sys.stdin.buffer.read(limit)
    with source.open("rb") as file:
        return file.read(limit)


def write(target: Path, data: bytes) -> None:
    """A file, whole or not at all."""
    if target == STANDARD:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    with write_atomically(target) as file:
        file.write(data)


def _picture_format(target: Path) -> str:
    from PIL import Image

    suffix = ".png" if target == STANDARD else target.suffix.lower()
    Image.init()
    name = Image.registered_extensions().get(suffix, "")
    if name not in Image.SAVE or suffix == FILE:
        raise UsageError(f"no picture can be written as {target.name}: try .png")
    return name


def as_bytes(image: "Image.Image", target: Path) -> bytes:
    """A picture file, with the ICC profile and EXIF."""
    kinds = {"exif": image.info.get("exif"), "icc_profile": image.info.get("icc_profile")}
    options = {kind: data for kind, data in kinds.items() if data}
    file = io.BytesIO()
    try:
        image.save(file, _picture_format(target), **options)
    except (OSError, ValueError) as error:  # as of an alpha channel in JPEG
        raise ValueError(f"{error}: try {target.with_suffix('.png').name}") from error
    return file.getvalue()
