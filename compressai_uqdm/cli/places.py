"""Where inputs come from, and where outputs go."""

import errno
import io
import os
import stat
import sys

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from click import UsageError

from ..atomic import (
    WaitingFile,
    check_folder,
    descriptor_of,
    is_special,
    naming,
    write_atomically,
)
from ..files import container
from ..files.header import Header
from .terminal import STANDARD

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "FILE",
    "NO_LIMIT",
    "PICTURES",
    "Pair",
    "as_bytes",
    "check_source",
    "check_target",
    "find_inputs",
    "find_pairs",
    "not_kept",
    "open_input",
    "read_file",
    "read_header",
    "real_path",
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

STREAM_LIMIT = 1 << 30
"""Bytes of an input at most where it is a pipe, which may have no end."""

EXCESS = 1 << 24
"""Bytes that are read after the end of a .uqdm file, to say how many there are."""

NO_LIMIT = 1 << 70
CHUNK = 1 << 20


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
            _picture_format(output)
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
    with _naming(target):  # the current folder may be gone
        return os.path.realpath(target)


def check_target(target: Path, replace: bool) -> None:
    """Raise an OSError or a ValueError where it can be seen that nothing can be written."""
    if target == STANDARD:
        if sys.stdout is None:
            raise ValueError("standard output is closed: give the name of a file")
        return
    if os.path.isdir(target):
        raise ValueError(f"{target} is a folder: expected the name of a file")
    with _naming(target):
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


# ---- reading ----


@contextmanager
def open_input(source: Path) -> Iterator[IO[bytes]]:
    """Open an input for reading anywhere in it; what a pipe holds is read first.

    Raises:
        ValueError: it is a device, or a pipe without end.
    """
    with _open(source) as file:
        yield file if _is_regular(source, file) else _read_stream(file)


def read_file(source: Path, limit: int | None = None) -> bytes:
    """Read a .uqdm file, at most ``limit`` bytes of it.

    Bytes after its end are read up to ``EXCESS``: enough to report them.

    Raises:
        DamagedFileError: it is none, or its header is damaged.
        ValueError: it is a device, or a pipe with too much in it.
    """
    with _open(source) as file:
        is_regular = _is_regular(source, file)
        header, data = container.read_header(file, NO_LIMIT)
        return _read_stages(file, header, data, is_regular, limit)


def read_header(source: Path, max_pixels: int = NO_LIMIT) -> tuple[Header, bytes, int]:
    """Read the header of a .uqdm file, and measure the file.

    Args:
        source: the file.
        max_pixels: largest picture to accept.

    Returns:
        the header, its bytes, and the number of bytes of the file.

    Raises:
        DamagedFileError: it is none, or its header is damaged.
        ValueError: it is a device, or a pipe with too much in it.
    """
    with _open(source) as file:
        is_regular = _is_regular(source, file)
        header, data = container.read_header(file, max_pixels)
        if is_regular:
            return header, data, os.fstat(file.fileno()).st_size
        return header, data, len(_read_stages(file, header, data, is_regular, None))


def _open(source: Path) -> AbstractContextManager[IO[bytes]]:
    if source == STANDARD:
        return nullcontext(sys.stdin.buffer)
    given = descriptor_of(source)
    if given is None:
        return source.open("rb")
    return io.BufferedReader(WaitingFile(os.dup(given), "rb"))


def _is_regular(source: Path, file: IO[bytes]) -> bool:
    """Whether it is a file, from its first byte on.

    Raises:
        ValueError: it is a device, but no terminal.
    """
    mode = os.fstat(file.fileno()).st_mode
    if (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) and not file.isatty():
        raise ValueError("a device, which may have no end: expected a file or a pipe")
    return stat.S_ISREG(mode) and source != STANDARD and descriptor_of(source) is None


def _read_stages(
    file: IO[bytes], header: Header, data: bytes, is_regular: bool, limit: int | None
) -> bytes:
    """Read on after the header, as far as the file or the limit goes."""
    wanted = len(data) + sum(header.lengths) + EXCESS
    if limit is not None:
        wanted = min(wanted, limit)
    read = _read if is_regular else _read_stream
    return data[:wanted] + read(file, wanted - len(data)).getvalue()


def _read(file: IO[bytes], count: int) -> io.BytesIO:
    """Read ``count`` bytes, or fewer at the end; memory grows with what is read."""
    data = io.BytesIO()
    while count > 0 and (piece := file.read(min(count, CHUNK))):
        count -= data.write(piece)
    data.seek(0)
    return data


def _read_stream(file: IO[bytes], count: int = NO_LIMIT) -> io.BytesIO:
    data = _read(file, min(count, STREAM_LIMIT))
    if len(data.getbuffer()) == STREAM_LIMIT < count and file.read(1):
        raise ValueError(
            f"more than {STREAM_LIMIT >> 20} MiB came through a pipe: give the file itself"
        )
    return data


# ---- writing ----


def write(target: Path, data: bytes, replace: bool = False) -> None:
    """Write a file, whole or not at all, or all of it into a pipe or a device.

    Raises:
        FileExistsError: there is a file of that name, perhaps since a moment ago, and it
            is not to be replaced.
        OSError: it cannot be written; the error names the target.
    """
    with _naming(target):
        if target == STANDARD:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        with write_atomically(target, replace) as file:
            file.write(data)


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Have errors name a target, and what to do where it exists."""
    try:
        with naming("standard output" if target == STANDARD else target):
            yield
    except FileExistsError as error:
        message = f"{target} exists: give --force to replace it"
        raise FileExistsError(message) from error


def _picture_format(target: Path) -> str:
    from PIL import Image

    Image.init()
    name = Image.registered_extensions().get(target.suffix.lower(), "")
    if name not in Image.SAVE or target.suffix.lower() == FILE:
        if target == STANDARD or is_special(target):
            return "PNG"
        raise UsageError(f"no picture can be written as {target.name}: try .png")
    return name


def as_bytes(image: "Image.Image", target: Path) -> bytes:
    """Encode a picture with its ICC profile and EXIF, without loss where the format can.

    Raises:
        ValueError: the format cannot hold it.
    """
    kinds = {"exif": image.info.get("exif"), "icc_profile": image.info.get("icc_profile")}
    options: dict[str, Any] = {kind: data for kind, data in kinds.items() if data}
    picture_format = _picture_format(target)
    if picture_format == "WEBP":
        options |= {"lossless": True, "exact": True}
    while True:
        file = io.BytesIO()
        try:
            image.save(file, picture_format, **options)
            return file.getvalue()
        except Exception as error:  # as of an alpha channel in JPEG
            # EXIF that cannot be read, or is too long for JPEG, is no reason
            if options.pop("exif", None) is None:
                name = target.with_suffix(".png").name
                raise ValueError(f"{error}: try {name}") from error


def not_kept(image: "Image.Image", data: bytes, exact: bool) -> str:
    """Say what of a picture its file loses, by reading that back; nothing if nothing.

    Formats differ by mode and by version of Pillow, so there is no list of lossy ones.

    Args:
        image: the picture.
        data: the file.
        exact: whether its pixels are those of the original: else they have none to lose.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as found:
            found.load()
    except Exception:  # as of a PDF, which Pillow only writes
        return "cannot be read back: it may not keep every pixel" * exact
    if exact and not _has_pixels(found, image):
        return "is lossy: it does not keep every pixel of the exact picture"
    if exact and image.mode == "P" and not _has_indices(found, image):
        return "does not keep the palette indices of the exact picture"
    if image.info.get("icc_profile") != found.info.get("icc_profile"):
        return "does not keep the ICC profile"
    return "does not keep the EXIF" * (not _has_exif(found, image))


def _has_pixels(found: "Image.Image", image: "Image.Image") -> bool:
    if found.size != image.size:
        return False
    return found.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


def _has_indices(found: "Image.Image", image: "Image.Image") -> bool:
    return found.mode == "P" and found.tobytes() == image.tobytes()


def _has_exif(found: "Image.Image", image: "Image.Image") -> bool:
    block = image.info.get("exif")
    if not block or found.info.get("exif") == block:
        return True
    try:
        return bool(found.getexif())  # TIFF has its own way
    except Exception:  # Pillow's are of many kinds
        return False
