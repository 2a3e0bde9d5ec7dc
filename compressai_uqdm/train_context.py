"""Fit the context priors of a UQDM whose weights stay as they are.

    python -m compressai_uqdm.train_context uqdm-tiny photographs/ context.npz

:mod:`.training.fitting` says how.
"""

import argparse
import sys

from pathlib import Path

from .training.interruption import stopped_at_once

__all__ = ["main", "parse_args"]


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m compressai_uqdm.train_context",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("model", help="model of the zoo, or the path of a checkpoint")
    parser.add_argument("photographs", type=Path, help="folder of photographs")
    parser.add_argument("output", type=Path, help="file to write, .npz")
    parser.add_argument("--initial", type=Path, help="contexts to go on from")
    parser.add_argument("--crops", type=int, default=600)
    parser.add_argument("--max-factor", type=int, default=5, help="largest box average")
    parser.add_argument("--steps", type=int, default=1000, help="for each latent stage")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--pixel-steps", type=int, default=4000, help="for the pixels")
    parser.add_argument("--pixel-batch-size", type=int, default=4)
    parser.add_argument("--pixel-learning-rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    with stopped_at_once("nothing was written"):
        from . import libraries  # noqa: F401  isort: skip  # it takes seconds
        from .training.fitting import fit_contexts

        fit_contexts(args)


if __name__ == "__main__":
    main(sys.argv[1:])
