"""The processes that train together, as a launcher has started them."""

import os

from accelerate import Accelerator

__all__ = ["join_processes"]

ADVICE = "start it with torchrun or accelerate launch, or without RANK and WORLD_SIZE"


def join_processes() -> Accelerator:
    """Find the other processes, where a launcher's variables say that there are some.

    Raises:
        ValueError: the variables are wrong, or the others are not found.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")
    given = {name: os.environ[name] for name in names if name in os.environ}
    text = ", ".join(f"{name}={value}" for name, value in given.items())
    try:
        numbers = {name: int(value) for name, value in given.items()}
    except ValueError as error:
        raise ValueError(f"expected numbers, got {text}: {ADVICE}") from error
    world = numbers.get("WORLD_SIZE", 1)
    ranks = [numbers.get(name, 0) for name in ("RANK", "LOCAL_RANK")]
    if world < 1 or ("WORLD_SIZE" in given and not all(0 <= r < world for r in ranks)):
        raise ValueError(
            f"expected ranks from 0 to less than WORLD_SIZE, got {text}: {ADVICE}"
        )
    try:
        return Accelerator()
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        if not isinstance(error, RuntimeError) and "rendezvous" not in reason:
            raise
        raise ValueError(
            f"this process ({text}) does not find the others ({reason}): {ADVICE}"
        ) from error
