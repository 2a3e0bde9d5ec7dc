"""FID of decoded images, added to result files.

    python eval/evaluate.py val.npz uqdm-tiny --first 10000 --output out --pictures pictures
    python eval/other_codecs.py val.npz --first 10000 --output out --pictures pictures
    python eval/realism.py val.npz pictures --output out

Compares the features of the decoded images of each rate point with those of the
originals, through torchmetrics. The features are those of torch-fidelity's InceptionV3,
2048 of them, whose weights it downloads.
"""

import argparse
import json

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from accelerate import PartialState
from images import ImageSet, InputError, read_image
from runs import run_program, write_json
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from tqdm import tqdm

__all__ = ["Frechet", "add_fid"]

IMAGES = 10_000
"""Images that published FIDs are of; FIDs of other numbers do not compare with them."""

BATCH = 50


class Frechet:
    """FID against some originals.

    Args:
        originals: the images to compare with.
        features: a network that maps uint8 images ``[B, 3, H, W]`` to features
            ``[B, n]``, by default InceptionV3.

    Raises:
        InputError: the default network's weights could not be downloaded.
    """

    def __init__(self, originals: ImageSet, features: nn.Module | None = None):
        try:
            metric = FrechetInceptionDistance(features or 2048, reset_real_features=False)
        except OSError as error:
            raise InputError(f"no weights of InceptionV3 to be had: {error}") from error
        self._metric = metric.set_dtype(torch.float64).to(PartialState().device)
        self._update(originals, real=True)

    def distance(self, pictures: "ImageSet | Pictures") -> float:
        """The FID of as many decoded images."""
        self._metric.reset()  # of the last pictures; originals stay
        self._update(pictures, real=False)
        return float(self._metric.compute())

    def _update(self, images: "ImageSet | Pictures", real: bool) -> None:
        for batch in batches(images):
            self._metric.update(batch.to(self._metric.device), real=real)


class Pictures:
    """The decoded images of one rate point, as ``--pictures`` writes them.

    Args:
        folder: where they are.
        names: of the originals.
    """

    def __init__(self, folder: Path, names: list[str]):
        self._files = [(folder / name).with_suffix(".png") for name in names]

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(read_image, self._files)


def batches(images: "ImageSet | Pictures") -> Iterator[Tensor]:
    """The images as uint8 tensors ``[B, 3, H, W]`` of one size each."""
    waiting: list[Tensor] = []
    for image in images:
        x = torch.tensor(image).permute(2, 0, 1)
        if waiting and (len(waiting) == BATCH or x.shape != waiting[0].shape):
            yield torch.stack(waiting)
            waiting = []
        waiting.append(x)
    yield torch.stack(waiting)


def add_fid(
    originals: ImageSet, pictures: Path, output: Path, features: nn.Module | None = None
) -> list[Path]:
    """Add ``fid``, a number per rate point, to the result files with pictures.

    Args:
        originals: the images that were coded.
        pictures: the folder that ``--pictures`` named.
        output: the folder of result files.
        features: as of :class:`Frechet`.

    Returns:
        the files.

    Raises:
        InputError: there are no pictures of any result, some are missing, or results are
            of other images.
    """
    files = sorted(f for f in output.glob("*.json") if (pictures / f.stem).is_dir())
    if not files:
        raise InputError(f"no folder in {pictures} is of a result in {output}")
    results = {file: json.loads(file.read_text()) for file in files}
    for file, result in results.items():
        if result.get("images") != originals.describe():
            raise InputError(
                f"{file} is of other images than {originals.path}: "
                f"{result.get('images')}, not {originals.describe()}"
            )
    frechet = Frechet(originals, features)
    for file, result in results.items():
        points = tqdm(result["results"]["quality"], file.stem)
        result["results"]["fid"] = [
            frechet.distance(Pictures(pictures / file.stem / str(q), originals.names))
            for q in points
        ]
        result["fid"] = {
            "images": len(originals),
            "features": type(features).__name__ if features else "InceptionV3, 2048",
        }
        write_json(file, result)
    return files


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("images", type=Path, help="the originals: folder, .npy or .npz")
    parser.add_argument("pictures", type=Path, help="folder of the decoded images")
    parser.add_argument("--output", type=Path, required=True, help="folder of result files")
    parser.add_argument("--first", type=int, default=IMAGES, help="how many were coded")
    args = parser.parse_args(argv)
    for file in add_fid(ImageSet(args.images, args.first), args.pictures, args.output):
        results = json.loads(file.read_text())["results"]
        print(file.stem, *(f"{fid:.3f}" for fid in results["fid"]))


if __name__ == "__main__":
    run_program(main)
