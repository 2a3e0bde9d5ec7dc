"""Work image by image that survives interruption and is shared by processes.

What is found out about an image goes to a file of its own as soon as it is known. A run
that was stopped goes on from there, and processes divide what is left:

    accelerate launch --multi_gpu --num_processes 8 eval/evaluate.py ...  # 8 GPUs
    torchrun --nproc-per-node 2 eval/evaluate.py ...                      # 2 CPU cores
"""

import json
import os
import shutil
import sys

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accelerate import PartialState
from images import ImageSet, InputError
from PIL import Image
from tqdm import tqdm

__all__ = [
    "check_same_run",
    "finish_run",
    "join_processes",
    "run_images",
    "run_program",
    "save_picture",
    "write_json",
]


def run_program(main: Callable[[list[str]], None]) -> None:
    """Run a script with its arguments; of bad input, say only what it was."""
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def join_processes() -> PartialState:
    """The processes that were launched together, or this one alone.

    On a CPU each takes one thread: the order of sums, and with it bits, would depend on
    their number; more processes are the better use of cores here.
    """
    # processes wait for the slowest; PyTorch would give up after minutes
    no_gpu = not torch.cuda.is_available()
    state = PartialState(cpu=no_gpu, timeout=timedelta(days=30))
    if state.device.type == "cpu":
        torch.set_num_threads(1)
    return state


def write_json(path: Path, data: object) -> None:
    """Write all of a file or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def save_picture(picture: np.ndarray, folder: Path, name: str) -> None:
    """Write an image, uint8 [H, W, 3], as PNG under its name in a set."""
    file = (folder / name).with_suffix(".png")
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(file)


def check_same_run(path: Path, run: Mapping[str, Any]) -> bool:
    """Whether a file of this run is there already.

    Args:
        path: a JSON file whose entry ``run`` says what it is of.
        run: what this run is of.

    Raises:
        InputError: there is one of another run, or no result file at all.
    """
    if not path.exists():
        return False
    try:
        found = json.loads(path.read_text())["run"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a result file of this program: {error!r}. Choose another "
            "--output, or move the file"
        ) from error
    if found != run:
        keys = [k for k in {**run, **found} if run.get(k) != found.get(k)]
        differences = [f"{k}: {found.get(k)!r} there, {run.get(k)!r} here" for k in keys]
        raise InputError(
            f"{path} is of another run ({'; '.join(differences)}). Choose another "
            "--output, or delete the file"
        )
    return True


def run_images(
    images: ImageSet,
    folder: Path,
    run: Mapping[str, Any],
    evaluate: Callable[[int], dict[str, Any]],
    state: PartialState,
) -> list[dict[str, Any]] | None:
    """What ``evaluate`` gives for each image, from this or an interrupted run.

    Args:
        images: the images.
        folder: where results wait until all are there; :func:`finish_run` removes it.
        run: what this run is of; must be equal in a run that goes on.
        evaluate: maps the place of an image to what JSON can hold.
        state: the processes.

    Returns:
        a result per image in the first process, None in others.

    Raises:
        InputError: the folder holds another run, or a damaged file.
    """
    file = folder / "run.json"
    known = check_same_run(file, run)
    state.wait_for_everyone()
    if not known and state.is_main_process:
        write_json(file, {"run": run})
    parts = [folder / f"{i:06d}.json" for i in range(len(images))]
    todo = [i for i, part in enumerate(parts) if not part.exists()]
    # all must have seen the same before one of them changes it
    state.wait_for_everyone()
    with state.split_between_processes(todo) as mine:
        shown = tqdm(mine, folder.name, disable=not state.is_main_process)
        for i in shown:
            write_json(parts[i], evaluate(i))
    state.wait_for_everyone()
    if not state.is_main_process:
        return None
    results = []
    for part in parts:
        try:
            results.append(json.loads(part.read_text()))
        except ValueError as error:
            raise InputError(f"{part} is damaged: {error}. Delete it, run again") from error
    return results


def finish_run(folder: Path) -> None:
    """Remove the results of single images, once they stand elsewhere."""
    shutil.rmtree(folder)
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()
