"""Where inputs come from, and where outputs go."""

import errno
import os
import stat
import sys

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from click import UsageError

from ..atomic import (
    check_folder,
    descriptor_of,
    is_special,
    naming,
)
from .terminal import STANDARD

__all__ = [
    "FILE",
    "NO_LIMIT",
    "PICTURES",
    "Pair",
    "check_source",
    "check_target",
    "find_inputs",
    "find_pairs",
    "naming_errors",
    "picture_format",
    "real_path",
]

if TYPE_CHECKING:
    pass

FILE = ".uqdm"
PICTURES = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
NOT_OURS = (*PICTURES, ".avif", ".heic", ".jp2", ".jxl")

Pair = tuple[Path, Path | None]
"""An input and its output, if there is one."""

NO_LIMIT = 1 << 70


# ---- names ----


def find_inputs(paths: Sequence[Path], suffixes: Sequence[str]) -> list[Path]:
    """List the files that are named, and those in folders that are.

    Of a folder these are the regular files, and what cannot be opened, for an error to say
    so. A folder without any stands for itself, where it is one of several paths.

    Raises:
        UsageError: there are none at all.
    """
    found: list[Path] = []
    for path in paths:
        if descriptor_of(path) == 0:
            path = STANDARD
        inside: list[Path] = []
        if os.path.isdir(path):
            try:
                inside = [p for p in sorted(path.iterdir()) if _is_input(p, suffixes)]
            except OSError:  # check_source says why
                pass
            else:
                if not inside and len(paths) == 1:
                    raise UsageError(f"no {' or '.join(suffixes)} in the folder {path}")
        found += inside or [path]
    return found


def _is_input(path: Path, suffixes: Sequence[str]) -> bool:
    if path.suffix.lower() not in suffixes:
        return False
    try:
        # a pipe in a folder would block, and it or a socket is another program's
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:  # as of a link whose file is missing
        return True


def find_pairs(names: Sequence[str], suffixes: Sequence[str], new: str) -> list[Pair]:
    """Every input with its output; the output, last of the names, may be a folder.

    One that ends in a slash is a folder, also where there is none yet.
    """
    if len(names) < 2:
        raise UsageError("expected an input and an output")
    *sources, output = map(Path, names)
    inputs = find_inputs(sources, suffixes)
    if descriptor_of(output) == 1:
        output = STANDARD
    is_folder = names[-1].endswith((os.sep, os.altsep or os.sep))
    into_folder = is_folder or len(sources) > 1 or os.path.isdir(sources[0])
    suffix = output.suffix.lower()
    if not into_folder and not os.path.isdir(output):
        if new == FILE and suffix in NOT_OURS:
            raise UsageError(f"{output} is the name of a picture: expected one in {FILE}")
        if new != FILE:
            picture_format(output)
        return [(inputs[0], output)]
    if STANDARD in inputs or output == STANDARD:
        raise UsageError("standard input or output goes with one file")
    if os.path.exists(output) and not os.path.isdir(output):
        raise UsageError(f"of several inputs, the output is a folder: {output} is none")
    if not os.path.exists(output) and not is_folder and suffix in (FILE, *NOT_OURS):
        raise UsageError(
            f"of several inputs, the output is a folder: {output} is the name of a file"
        )
    output.mkdir(parents=True, exist_ok=True)
    return [(source, output / (source.stem + new)) for source in inputs]


def check_source(source: Path) -> None:
    """Raise an OSError or a ValueError where it can be seen that nothing can be read."""
    if source == STANDARD:
        if sys.stdin is None:
            raise ValueError("closed: give a file, or a pipe")
        return
    if stat.S_ISDIR(source.stat().st_mode):
        os.listdir(source)
        raise ValueError("a folder with no files for this command in it")


def real_path(target: Path) -> str:
    """Follow the links in the name of an output."""
    with naming_errors(target):  # the current folder may be gone
        return os.path.realpath(target)


def check_target(target: Path, replace: bool) -> None:
    """Raise an OSError or a ValueError where it can be seen that nothing can be written."""
    if target == STANDARD:
        if sys.stdout is None:
            raise ValueError("standard output is closed: give the name of a file")
        return
    if os.path.isdir(target):
        raise ValueError(f"{target} is a folder: expected the name of a file")
    with naming_errors(target):
        if is_special(target):
            if stat.S_ISSOCK(target.stat().st_mode) and descriptor_of(target) is None:
                raise ValueError(f"{target} is a socket: expected the name of a file")
            if not os.access(target, os.W_OK):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
            return
        if os.path.exists(target) and not replace:
            raise ValueError(f"{target} exists: give --force to replace it")
        folder = os.path.dirname(os.path.realpath(target))
        if not os.path.isdir(folder):
            named = folder if target.is_symlink() else target.parent
            raise ValueError(f"there is no folder {named}: make it first")
        check_folder(folder)


@contextmanager
def naming_errors(target: Path) -> Iterator[None]:
    """Have errors name a target, and what to do where it exists."""
    try:
        with naming("standard output" if target == STANDARD else target):
            yield
    except FileExistsError as error:
        message = f"{target} exists: give --force to replace it"
        raise FileExistsError(message) from error


def picture_format(target: Path) -> str:
    from PIL import Image

    Image.init()
    name = Image.registered_extensions().get(target.suffix.lower(), "")
    if name not in Image.SAVE or target.suffix.lower() == FILE:
        if target == STANDARD or is_special(target):
            return "PNG"
        raise UsageError(f"no picture can be written as {target.name}: try .png")
    return name
