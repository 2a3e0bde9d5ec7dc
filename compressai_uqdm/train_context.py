"""Train the context models of a UQDM whose weights stay as they are.

    python -m compressai_uqdm.train_context uqdm-tiny photographs/ context.npz

The networks of its latent stages are trained one after another, then that of the pixels.
``context.metrics.jsonl``, ``context.checkpoint.pt`` and TensorBoard's files stand beside
the output. Ctrl-C or SIGTERM ends a run after the current step, with a checkpoint; the same
command again resumes it.
"""

import sys

from .training.command import run_command
from .training.settings import ContextSettings, parse

__all__ = ["main", "parse_args"]


def parse_args(argv: list[str]) -> ContextSettings:
    """Return the settings that a command line gives."""
    program = "python -m compressai_uqdm.train_context"
    return parse(ContextSettings, argv, program, __doc__ or "")


def main(argv: list[str]) -> None:
    """Run the command: see :func:`.run_command`."""
    run_command(parse_args, _train, argv)


def _train(settings: ContextSettings) -> int:
    from .training.context_run import train  # imports what takes seconds

    return train(settings)


if __name__ == "__main__":
    main(sys.argv[1:])
