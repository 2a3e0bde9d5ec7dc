"""The environment variables of a launcher of processes: torchrun or accelerate launch."""

import os
import re

__all__ = ["RELAUNCH", "launched_process", "number_in_environment"]

RELAUNCH = "start it with torchrun or accelerate launch, or without RANK and WORLD_SIZE"
"""What to do where the variables are wrong or other processes are not found."""


def launched_process() -> tuple[int, int]:
    """Return the rank of this process and the number of processes that were launched.

    Raises:
        ValueError: the variables contradict each other, or one is missing.
    """
    processes = number_in_environment("WORLD_SIZE", 1)
    rank = number_in_environment("RANK", 0) if os.environ.get("WORLD_SIZE") else 0
    if rank >= processes:
        raise ValueError(
            f"RANK is {rank} and WORLD_SIZE {processes} in the environment, but processes "
            f"are numbered from 0: {RELAUNCH}"
        )
    if processes > 1:
        for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
            if not os.environ.get(name):
                raise ValueError(
                    f"this is one of {processes} processes by WORLD_SIZE in the "
                    f"environment, which lacks {name}: {RELAUNCH}"
                )
    return rank, processes


def number_in_environment(name: str, smallest: int) -> int:
    """Return a number that a launcher set, or the smallest one where it set none.

    Raises:
        ValueError: the variable holds no number, or one that is too small.
    """
    text = os.environ.get(name) or str(smallest)
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < smallest:
        raise ValueError(
            f"{name} is {text!r} in the environment: expected a number from {smallest} on. "
            f"For several processes {RELAUNCH}"
        )
    return int(text)
