"""Train a UQDM on photographs or on ImageNet 64x64.

    python -m compressai_uqdm.train photographs/ runs/mine --steps 20000 --bound one
    accelerate launch -m compressai_uqdm.train imagenet64/ runs/small --model uqdm-small

Processes, machines, mixed precision and gradient accumulation are Accelerate's: see
``accelerate config``. Everything random is a function of the seed, the step and the
place in the batch, so neither the number of processes nor an interruption changes a run;
the same command again resumes it. (Two things are not: the loss scale of fp16, which
starts anew, and dropout, which depends on the number of processes.)

Ctrl-C or SIGTERM ends a run after the step that it is at, with a checkpoint.

Into the output folder go ``checkpoint.pt``, ``metrics.jsonl`` and TensorBoard's files.
The checkpoint is what ``UQDM.from_checkpoint`` and CompressAI's ``eval_model checkpoint``
read (the average over training), and holds the published layout beside it.
"""

import argparse
import sys

from pathlib import Path

from .training.config import TrainingConfig
from .training.interruption import stopped_at_once

__all__ = ["main", "parse_args"]


def parse_args(argv: list[str]) -> TrainingConfig:
    """What a command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m compressai_uqdm.train",
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("images", type=Path, help="folder of photographs, or of ImageNet 64x64's npz files")
    add("output", type=Path, help="folder to write to; a run that is there goes on")
    add("--test", type=Path, help="the same, of held-out images")
    add("--model", help="a published model's name, or a config.json")
    add("--initial", type=Path, help="checkpoint to start from, in place of --model")
    add("--steps", type=int, help="where the run ends")
    add("--batch-size", type=int, help="images per step, over all processes")
    add("--bound", choices=("all", "one"), help="steps of each image")
    add("--learning-rate", type=float, help="of Adam")
    add("--warmup", type=int, help="steps until that rate is reached")
    add("--crop-size", type=int, help="side of photographs' crops")
    add("--max-factor", type=int, help="largest box average of photographs")
    add("--vary-colours", action="store_true", help="for very few photographs")
    add("--seed", type=int, help="of everything random")
    add("--workers", type=int, help="processes that read images")
    add("--log-every", type=int, help="steps that are averaged")
    add("--test-every", type=int, help="steps")
    add("--test-images", type=int, help="held-out images that are measured")
    add("--checkpoint-every", type=int, help="steps")
    add("--checkpoint-minutes", type=float, help="a checkpoint after so long in any case")
    add("--gradient-checkpointing", action="store_true", help="less memory, more time")
    add("--compile", action="store_true", help="torch.compile the network")
    return TrainingConfig.parse(parser, argv)


def main(argv: list[str]) -> None:
    """Train as a command line says; what goes wrong is one line and an exit status.

    Raises:
        SystemExit: with a message; or, where a signal ended the run, with 128 and its
            number, as of a program that does not handle it.
    """
    config = parse_args(argv)
    where = f"the last checkpoint in {config.output}, if there is one"
    with stopped_at_once(f"the same command goes on from {where}"):
        stopped = _run(config)
    if stopped:
        raise SystemExit(128 + stopped)


def _run(config: TrainingConfig) -> int:
    from . import libraries  # noqa: F401  isort: skip  # before what imports PyTorch too

    try:
        import accelerate  # noqa: F401
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise SystemExit(
            f"training needs accelerate and tensorboard ({error}): "
            'pip install "compressai-uqdm[train]"'
        ) from error
    from .training.loop import Run  # which imports what takes seconds

    try:
        run = Run(config)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{error}") from error
    try:
        return run.train()
    except (FloatingPointError, OSError) as error:
        raise SystemExit(f"{error}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
