"""Files that are written whole or not at all."""

import os
import tempfile

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

__all__ = ["write_atomically"]


@contextmanager
def write_atomically(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name when all is written, and else is gone."""
    path = path.resolve()
    if path.exists() and not path.is_file():  # a device, a pipe
        with path.open("wb") as special:
            yield special
        return
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=".uqdm-", suffix=".partial", delete=False
    ) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(file.name, 0o666 & ~mask)
            os.replace(file.name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(file.name)
            raise
