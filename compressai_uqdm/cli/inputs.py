"""Reading the inputs of a command: files, pipes, standard input."""

import io
import os
import stat
import sys

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO

from ..atomic import (
    WaitingFile,
    descriptor_of,
)
from ..files import container
from ..files.header import Header
from .paths import NO_LIMIT
from .terminal import STANDARD

__all__ = ["open_input", "read_file", "read_header"]

STREAM_LIMIT = 1 << 30
"""Bytes of an input at most where it is a pipe, which may have no end."""

EXCESS = 1 << 24
"""Bytes that are read after the end of a .uqdm file, to say how many there are."""
CHUNK = 1 << 20


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
