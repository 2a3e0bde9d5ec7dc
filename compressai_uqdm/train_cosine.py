"""Train a CosineUQDM, such as uqdm-photo, on photographs.

    python -m compressai_uqdm.train_cosine photographs/ weights.npz --test held-out/

Its networks are trained one after another, each from the one before it. Beside the output
go a log, ``weights.json``, and ``weights.checkpoint.pt``, from which the same command goes
on. Ctrl-C or SIGTERM ends a run after the step that it is at, with a checkpoint.
Everything random follows from the seed: an interruption does not change a run.

The output is read by ``CosineUQDM.from_checkpoint`` and as a model of ``uqdm``.
"""

import argparse
import sys

from pathlib import Path
from typing import TYPE_CHECKING

from .training.interruption import stopped_at_once

if TYPE_CHECKING:
    from .training.cosine import CosineTrainingConfig

__all__ = ["main", "parse_args"]


def parse_args(argv: list[str]) -> "CosineTrainingConfig":
    """What a command line says."""
    from . import libraries  # noqa: F401  isort: skip  # it takes seconds
    from .training.cosine import CosineTrainingConfig

    parser = argparse.ArgumentParser(
        prog="python -m compressai_uqdm.train_cosine",
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("photographs", type=Path, help="folder of photographs, of some megapixels each")
    add("output", type=Path, help="file to write, .npz; a run that is there goes on")
    add("--test", type=Path, help="folder of held-out photographs")
    add("--initial", type=Path, help="weights to start from")
    add("--quantization-steps", type=int, nargs="+", help="of the stages, in levels")
    add("--dead-zones", type=float, nargs="+", help="of the stages, in steps")
    add("--trained-steps", type=int, nargs="+", help="of the networks, in levels")
    add("--hidden", type=int, help="width of the state of a block")
    add("--steps", type=int, help="for each network")
    add("--batch-size", type=int, help="crops in a step")
    add("--crop-size", type=int, help="side of crops")
    add("--min-factor", type=int, help="smallest box average of photographs")
    add("--max-factor", type=int, help="largest one")
    add(
        "--learning-rate",
        type=float,
        help="of Adam, for a network that starts from nothing",
    )
    add("--warm-learning-rate", type=float, help="for one that starts from weights")
    add("--warmup", type=int, help="steps until that rate is reached")
    add("--seed", type=int, help="of everything random")
    add("--log-every", type=int, help="steps that are averaged")
    add("--test-every", type=int, help="steps")
    add("--test-crops", type=int, help="held-out crops that are measured")
    add("--checkpoint-every", type=int, help="steps")
    add("--checkpoint-minutes", type=float, help="a checkpoint after so long in any case")
    return CosineTrainingConfig.parse(parser, argv)


def main(argv: list[str]) -> None:
    """Train as a command line says; what goes wrong is one line and an exit status.

    Raises:
        SystemExit: with a message; or, where a signal ended the run, with 128 and its
            number, as of a program that does not handle it.
    """
    with stopped_at_once("the same command goes on from the last checkpoint, if any"):
        config = parse_args(argv)
        stopped = _run(config)
    if stopped:
        print(f"the same command goes on from {config.checkpoint}", file=sys.stderr)
        raise SystemExit(128 + stopped)
    print(f"{config.output}: {config.output.stat().st_size:,} bytes", file=sys.stderr)


def _run(config: "CosineTrainingConfig") -> int:
    from .training.cosine import CosineRun

    try:
        return CosineRun(config).train()
    except (FloatingPointError, OSError, ValueError) as error:
        raise SystemExit(f"{error}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
