"""What the commands of all trainers do around a run."""

import importlib

from collections.abc import Callable
from typing import TypeVar

from .interruption import stopped_at_once

__all__ = ["run_command"]

S = TypeVar("S")
PACKAGES = ("simple_parsing", "accelerate", "tensorboard")


def run_command(
    parse_args: Callable[[list[str]], S], train: Callable[[S], int], argv: list[str]
) -> None:
    """Run a trainer's command; an error is one line and an exit status.

    Args:
        parse_args: makes settings of the words of a command line.
        train: trains, and returns the number of the signal that stopped it, or 0.
        argv: the words.

    Raises:
        SystemExit: with a message; or, where a signal ended the run, with 128 and its
            number, as of a program that does not handle it.
    """
    with stopped_at_once("the same command resumes the last checkpoint, if any"):
        _import(PACKAGES[:1])
        settings = parse_args(argv)
        from .. import libraries  # noqa: F401  # before what imports PyTorch too

        _import(PACKAGES[1:])
        try:
            stopped = train(settings)
        except (FloatingPointError, OSError, ValueError) as error:
            lines = str(error).strip().splitlines()
            # one that comes from a process that reads images has its traceback before it
            raise SystemExit(lines[-1] if lines else repr(error)) from error
    if stopped:
        raise SystemExit(128 + stopped)


def _import(packages: tuple[str, ...]) -> None:
    try:
        for package in packages:
            importlib.import_module(package)
    except ImportError as error:
        raise SystemExit(
            f"training needs {', '.join(PACKAGES)} ({error}): "
            'pip install "compressai-uqdm[train]"'
        ) from error
