"""The standard streams of the program."""

import io
import os
import sys

from typing import TextIO

from ..atomic import WaitingFile

__all__ = ["prepare_streams"]


def prepare_streams() -> None:
    """Have standard streams give and take all bytes, or raise an error.

    Unbuffered ones (``PYTHONUNBUFFERED``) write a part and say nothing, and so do those
    that do not block. A closed one stays None, but its number is taken: else it would be
    that of the next file to be opened, and what libraries print would go into that.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free
    if os.name == "nt":  # where consoles are files of their own kind
        return
    if sys.stdin is not None:
        reader = io.BufferedReader(WaitingFile(0, "rb", closefd=False))
        sys.stdin = io.TextIOWrapper(reader, sys.stdin.encoding, sys.stdin.errors)
    if sys.stdout is not None:
        sys.stdout = _writer(1, sys.stdout)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # for libraries, which count on one
    else:
        sys.stderr = _writer(2, sys.stderr)


def _writer(number: int, stream: TextIO) -> TextIO:
    writer = io.BufferedWriter(WaitingFile(number, "wb", closefd=False))
    # names of files may have what the encoding lacks
    return io.TextIOWrapper(
        writer, stream.encoding, "backslashreplace", line_buffering=True
    )
