"""Train a CosineUQDM, such as uqdm-photo, on photographs.

    python -m compressai_uqdm.train_dct photographs/ weights.npz --test held-out/

Its networks are trained one after another, each from the one before it.
``weights.metrics.jsonl``, ``weights.checkpoint.pt`` and TensorBoard's files stand beside
the output. Ctrl-C or SIGTERM ends a run after the current step, with a checkpoint; the same
command again resumes it. Everything random is a function of the seed and the step, so an
interruption does not change a run.

``CosineUQDM.from_checkpoint`` reads the output, and ``uqdm --model`` takes it.
"""

import sys

from typing import TYPE_CHECKING

from .training.command import run_command
from .training.settings import parse

if TYPE_CHECKING:
    from .training.dct_settings import DCTSettings

__all__ = ["main", "parse_args"]


def parse_args(argv: list[str]) -> "DCTSettings":
    """Return the settings that a command line gives."""
    from . import libraries  # noqa: F401  isort: skip  # it takes seconds
    from .training.dct_settings import DCTSettings

    return parse(DCTSettings, argv, "python -m compressai_uqdm.train_dct", __doc__ or "")


def main(argv: list[str]) -> None:
    """Run the command: see :func:`.run_command`."""
    run_command(parse_args, _train, argv)


def _train(settings: "DCTSettings") -> int:
    from .training.dct_run import train

    return train(settings)


if __name__ == "__main__":
    main(sys.argv[1:])
