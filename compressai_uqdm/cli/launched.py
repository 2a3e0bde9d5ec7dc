"""Several processes of one command that a launcher started."""

import os

from datetime import timedelta

from ..launcher import RELAUNCH, launched_process
from .terminal import Failure, format_error

__all__ = ["launched", "wait_for_the_others"]


# ---- processes of a launcher ----


def launched() -> tuple[int, int]:
    """Return the rank of this process and the number of processes that were launched.

    Raises:
        Failure: the environment contradicts itself.
    """
    try:
        return launched_process()
    except ValueError as error:
        raise Failure(f"{error}") from error


def wait_for_the_others(code: int) -> int:
    """The worst exit code of all: launchers end the others when one fails."""
    import torch

    from torch import distributed

    try:
        distributed.init_process_group("gloo", timeout=timedelta(days=30))
    except (ValueError, RuntimeError) as error:
        raise Failure(
            f"this is process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} and does "
            f"not find the others ({format_error(error)}): {RELAUNCH}"
        ) from error
    worst = torch.tensor(code)
    distributed.all_reduce(worst, distributed.ReduceOp.MAX)
    distributed.destroy_process_group()
    return int(worst)
