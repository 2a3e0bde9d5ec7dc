"""Checkpoints: they are written whole or not at all, and read only by the same run."""

from pathlib import Path
from typing import Any

import torch

from ..atomic import check_folder, write_atomically
from ..models.checkpoint import read_checkpoint

__all__ = ["CHECKPOINT", "check_output", "find_checkpoint", "save_checkpoint"]

CHECKPOINT = "checkpoint.pt"
"""Its name in a run's folder."""


def check_output(folder: Path) -> None:
    """Raise an OSError where a folder, which may have to be made, cannot be written to."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        check_folder(str(existing))
    except OSError as error:
        raise OSError(f"cannot write to the folder {folder}: {error.strerror}") from error


def save_checkpoint(
    path: Path, checkpoint: dict[str, Any], identity: dict[str, str]
) -> None:
    """Write a checkpoint of a run in place of the one before, whole or not at all.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    try:
        with write_atomically(path) as file:
            torch.save(checkpoint | {"arguments": identity}, file)
    except (OSError, RuntimeError) as error:
        # PyTorch's writer raises an error of its own where the file's write failed
        failed = error if isinstance(error, OSError) else error.__context__
        if not isinstance(failed, OSError):
            raise
        reason = failed.strerror or failed
        raise OSError(
            f"cannot write {path}: {reason}; the checkpoint before, if any, is as it was"
        ) from error


def find_checkpoint(path: Path, identity: dict[str, str]) -> dict[str, Any] | None:
    """Return the checkpoint of a run, or None if there is none.

    Args:
        path: the file.
        identity: what the numbers of the run to resume depend on.

    Raises:
        ValueError: the checkpoint is another run's, or cannot be read.
    """
    if not path.exists():
        return None
    found = read_checkpoint(path)
    before = found.get("arguments")
    if not isinstance(before, dict):  # another program's: the run refuses it
        return found
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
