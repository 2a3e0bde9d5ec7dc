"""What is said and shown."""

from contextlib import suppress
from pathlib import Path

import click

__all__ = ["Failure", "format_error", "name_of", "print_error", "printable"]

STANDARD = Path("-")
"""Standard input or output."""


class Failure(Exception):
    """Something is missing that every input needs."""


def print_error(message: str, program: str = "uqdm") -> None:
    """Print a line on standard error, if it can be: the exit code says the same."""
    with suppress(OSError):
        click.echo(f"{program}: {printable(message)}", err=True)


def printable(text: str) -> str:
    """Text in one line, in which no character commands a terminal.

    Names of files may have any but two, and what a file holds may have all.
    """
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)


def format_error(error: Exception, path: Path | None = None) -> str:
    """An error in one line, without the path, if given, that it is told of."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
        if error.filename is not None and Path(error.filename) != path:
            text += f": {error.filename}"
        return text + "; check the name" * isinstance(error, FileNotFoundError)
    if isinstance(error, (ValueError, OSError, Failure)) and text:
        return text
    return f"{type(error).__name__}: {text}"


def name_of(path: Path) -> str:
    """An input, in messages."""
    return "standard input" if path == STANDARD else printable(str(path))
