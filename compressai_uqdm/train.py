"""Train a UQDM on photographs or on ImageNet 64x64.

    python -m compressai_uqdm.train photographs/ runs/mine --steps 20000 --bound one
    accelerate launch -m compressai_uqdm.train imagenet64/ runs/small --model uqdm-small

Accelerate provides processes, machines, mixed precision and gradient accumulation: see
``accelerate config``. Everything random is a function of the seed, the step and the
place in the batch, so neither the number of processes nor an interruption changes a run;
the same command again resumes it. There are two exceptions: the loss scale of fp16, which
starts anew, and dropout, which depends on the number of processes.

Ctrl-C or SIGTERM ends a run after the current step, with a checkpoint.

The output folder gets ``checkpoint.pt``, ``metrics.jsonl`` and TensorBoard's files.
``UQDM.from_checkpoint`` and CompressAI's ``eval_model checkpoint`` read the checkpoint (the
average of weights over training). It also holds the published layout.
"""

import sys

from .training.command import run_command
from .training.settings import UQDMSettings, parse

__all__ = ["main", "parse_args"]


def parse_args(argv: list[str]) -> UQDMSettings:
    """Return the settings that a command line gives."""
    return parse(UQDMSettings, argv, "python -m compressai_uqdm.train", __doc__ or "")


def main(argv: list[str]) -> None:
    """Run the command: see :func:`.run_command`."""
    run_command(parse_args, _train, argv)


def _train(settings: UQDMSettings) -> int:
    from .training.uqdm import train  # imports what takes seconds

    return train(settings)


if __name__ == "__main__":
    main(sys.argv[1:])
