"""Output that is written whole or not at all."""

import errno
import functools
import io
import os
import platform
import re
import secrets
import selectors
import stat
import time
import zlib

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows, which deletes no open file
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "WaitingFile",
    "check_folder",
    "descriptor_of",
    "is_special",
    "naming",
    "write_atomically",
]

DAY = 24 * 60 * 60.0

_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_PARTIAL = re.compile(r"\.uqdm-(?:([0-9a-f]{8})-)?\w+\.partial")
_DESCRIPTOR = re.compile(r"/(?:dev|proc/(?:self|(\d+)))/fd/(\d+)")
_STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}


@contextmanager
def write_atomically(path: Path, replace: bool = True) -> Iterator[IO[bytes]]:
    """Open a file that gets its name when all of it is written, and else is gone.

    A file that is replaced passes its mode on, and its owner where the system allows it.
    Pipes, devices and descriptors (``/dev/fd/1``) cannot be replaced: they are written
    directly, and an error may come after a part of the bytes.

    Args:
        path: the name; symbolic links are followed.
        replace: replace a file of that name.

    Raises:
        FileExistsError: there is such a file, and it is not to be replaced.
    """
    if is_special(path):
        given = descriptor_of(path)
        descriptor = os.open(path, os.O_WRONLY) if given is None else os.dup(given)
        with io.BufferedWriter(WaitingFile(descriptor, "wb")) as special:
            yield special
        return
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    _remove_abandoned(folder)
    before = None
    with suppress(FileNotFoundError):
        before = os.stat(target)
    descriptor, name = _create(folder, 0o600 if before else 0o666)
    with os.fdopen(descriptor, "wb") as file:
        try:
            yield file
            file.flush()
            os.fsync(descriptor)
            if before:
                _pass_on(before, descriptor)
            if fcntl is None:
                file.close()  # Windows renames no open file
            if replace:
                os.replace(name, target)
            else:
                _take_name(name, target)
        except BaseException:
            if fcntl is None:
                file.close()
            with suppress(OSError):
                os.unlink(name)
            raise


@contextmanager
def naming(target: Path | str) -> Iterator[None]:
    """Have errors name a target, and not a temporary file."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        name = str(target)
        raise OSError(error.errno, error.strerror or str(error), name) from error


def is_special(path: Path) -> bool:
    """Whether a path is neither that of a file, nor free, nor that of a folder."""
    if descriptor_of(path) is not None:
        return True
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not stat.S_ISREG(found.st_mode):
        return not stat.S_ISDIR(found.st_mode)
    # as of a file that is open in another process, and was deleted
    real = os.path.realpath(path)
    return not (os.path.exists(real) and os.path.samestat(found, os.stat(real)))


def descriptor_of(path: Path) -> int | None:
    """The descriptor of this process that a path names, such as ``/dev/fd/63``.

    To open such a path would open the file once more, with an offset of its own, and
    fails where it is a socket.
    """
    name = os.path.normpath(path)
    if os.name == "nt":
        return None
    if name in _STREAMS:
        return _STREAMS[name]
    found = _DESCRIPTOR.fullmatch(name)
    if found is None or found[1] not in (None, str(os.getpid())):
        return None
    return int(found[2])


@functools.cache
def check_folder(folder: str) -> None:
    """Raise an OSError where no file can be created in a folder."""
    _remove_abandoned(folder)
    descriptor, name = _create(folder, 0o600)
    os.close(descriptor)
    os.unlink(name)


class WaitingFile(io.FileIO):
    """A descriptor that waits where one that does not block would give or take nothing."""

    def readinto(self, buffer: Any) -> int:
        while (count := super().readinto(buffer)) is None:
            self._wait(selectors.EVENT_READ)
        return count

    def write(self, data: Any) -> int:
        while (count := super().write(data)) is None:
            self._wait(selectors.EVENT_WRITE)
        return count

    def _wait(self, event: int) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self, event)
            selector.select()


# ---- temporary files ----


def _create(folder: str, mode: int) -> tuple[int, str]:
    """A new temporary file, locked: it is abandoned when nobody holds the lock."""
    while True:
        name = os.path.join(folder, f".uqdm-{_HOST}-{secrets.token_hex(8)}.partial")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(name, flags, mode)
        try:
            _lock(descriptor)
        except BlockingIOError:  # another process takes it for abandoned
            pass
        except OSError:  # no locks on this file system: nobody can take it for abandoned
            return descriptor, name
        else:
            if os.fstat(descriptor).st_nlink:
                return descriptor, name
        os.close(descriptor)
        with suppress(OSError):
            os.unlink(name)


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@functools.cache
def _remove_abandoned(folder: str) -> None:
    """Remove temporary files of processes that were killed.

    A process holds a lock on its file as long as it lives. Locks may not reach other
    machines, so a file that another one made must be a day old, too.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if (found := _PARTIAL.fullmatch(entry.name)) is None:
                continue
            with suppress(OSError):
                is_old = time.time() - entry.stat(follow_symlinks=False).st_mtime > DAY
                if found[1] == _HOST or is_old:
                    _remove_if_abandoned(entry.path)


def _remove_if_abandoned(name: str) -> None:
    if fcntl is None:
        os.unlink(name)  # fails while it is open
        return
    descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        _lock(descriptor)
        os.unlink(name)
    finally:
        os.close(descriptor)


def _pass_on(before: os.stat_result, descriptor: int) -> None:
    """Give a file the owner, where the system allows it, and the mode of another."""
    if not hasattr(os, "fchown"):
        return
    mode, now = stat.S_IMODE(before.st_mode), os.fstat(descriptor)
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        try:
            os.fchown(descriptor, before.st_uid, before.st_gid)
        except OSError:
            mode &= 0o777  # what runs as its owner or group must not become another's
            with suppress(OSError):
                os.fchown(descriptor, -1, before.st_gid)
    with suppress(OSError):  # as of a file system without modes
        os.fchmod(descriptor, mode)


def _take_name(name: str, target: str) -> None:
    """Rename a file to a name that no other has, whatever other processes do."""
    try:
        os.link(name, target)
    except FileExistsError:
        raise
    except OSError as error:  # no links on this file system
        if error.errno == errno.ENOENT:
            raise
        # a process that is killed before the next line leaves an empty file
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            os.replace(name, target)
        except OSError:
            os.unlink(target)
            raise
    else:
        os.unlink(name)
