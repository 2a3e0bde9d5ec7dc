"""Checkpoints: a run as it is left, and as it is found again."""

from pathlib import Path
from typing import Any

import torch

from ..atomic import write_atomically
from ..models.checkpoint import read_checkpoint

__all__ = ["CHECKPOINT", "find_checkpoint", "save_checkpoint"]

CHECKPOINT = "checkpoint.pt"
"""Its name in a run's folder."""


def save_checkpoint(
    path: Path, checkpoint: dict[str, Any], identity: dict[str, str]
) -> None:
    """Write a checkpoint of a run in place of the one before, whole or not at all."""
    with write_atomically(path) as file:
        torch.save(checkpoint | {"arguments": identity}, file)


def find_checkpoint(path: Path, identity: dict[str, str]) -> dict[str, Any] | None:
    """The checkpoint of a run, if there is one.

    Args:
        path: where it is.
        identity: what the numbers of the run that shall go on depend on.

    Raises:
        ValueError: it is another run's, or cannot be read.
    """
    if not path.exists():
        return None
    found = read_checkpoint(path)
    before = found.get("arguments", {})
    changed = [
        f"{name} (was {before[name]}, is {value})"
        for name, value in identity.items()
        if name in before and before[name] != value
    ]
    if changed:
        raise ValueError(
            f"{path} holds a run with other arguments: {', '.join(changed)}. Give them as "
            "they were, or another output"
        )
    return found
