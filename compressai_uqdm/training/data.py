"""Training data: photographs, crops, and the batch of each step, by the seed alone."""

import logging
import random
import traceback

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..datasets import ImageNet64, Photographs
from ..families.uqdm.windowed import WINDOW
from .interruption import leave_interruptions_to_the_parent
from .settings import UQDMSettings

__all__ = [
    "BatchSampler",
    "Example",
    "ExampleDataset",
    "Images",
    "crop_batches",
    "draw_crops",
    "example_key",
    "make_loader",
    "open_images",
    "read",
    "read_crops",
    "read_photographs",
]

Images = ImageNet64 | Photographs
log = logging.getLogger(__name__)

CANDIDATES = 4
"""Crops that are drawn for every one that is kept."""
LEAST_DETAIL = 0.3
"""Weight of a flat crop, as a gradient in levels per pixel."""


class Example(NamedTuple):
    """One image of a batch."""

    image: int  # its index in the data set
    key: int  # seed of its crop and of its noise


class BatchSampler:
    """The batches of one process, from a step on.

    Args:
        n_images: images in the data set; each comes once per epoch.
        batch_size: images per step, over all processes.
        n_parts: parts of equal size that a batch is computed in.
        parts: those that this process computes, in order.
        steps: the steps to sample for.
        seed: of the order and of all keys.
    """

    def __init__(
        self,
        n_images: int,
        batch_size: int,
        n_parts: int,
        parts: range,
        steps: range,
        seed: int,
    ):
        self.n_images, self.batch_size, self.seed = n_images, batch_size, seed
        self.n_parts, self.parts, self.steps = n_parts, parts, steps
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.steps) * len(self.parts)

    def __iter__(self) -> Iterator[list[Example]]:
        size = self.batch_size // self.n_parts
        for step in self.steps:
            for part in self.parts:
                first = step * self.batch_size + part * size
                yield [self._example(place) for place in range(first, first + size)]

    def _example(self, place: int) -> Example:
        epoch, place_in_epoch = divmod(place, self.n_images)
        if epoch != self._epoch:
            generator = np.random.default_rng((self.seed, epoch))
            self._epoch, self._order = epoch, generator.permutation(self.n_images)
        return Example(int(self._order[place_in_epoch]), example_key(self.seed, place))


def example_key(seed: int, place: int) -> int:
    """The key of the example at a place, counted over the whole run; 63 bits."""
    state = np.random.SeedSequence((seed, place)).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def crop_batches(n: int, batch_size: int, steps: range, seed: int) -> Iterator[Tensor]:
    """Yield the numbers of the crops of each step, each crop once per epoch.

    PyTorch's generator is seeded before each.

    Args:
        n: number of crops.
        batch_size: crops per step.
        steps: the steps to yield for.
        seed: seed of the order and of the generator.
    """
    for examples in BatchSampler(n, batch_size, 1, range(1), steps, seed):
        torch.manual_seed(examples[0].key)
        yield torch.tensor([example.image for example in examples])


class ExampleDataset(Dataset):
    """Images by their examples, a batch at a time: levels, uint8, and keys."""

    def __init__(self, images: Images):
        self.images = images

    def __getitems__(self, examples: list[Example]) -> tuple[Tensor, Tensor]:
        indexes, keys = zip(*examples)
        return self.images.batch(indexes, keys), torch.tensor(keys)


def make_loader(
    images: Images, sampler: BatchSampler, workers: int, pin_memory: bool
) -> DataLoader:
    """Levels, uint8 ``[n, 3, H, W]``, and keys, int64 ``[n]``, batch by batch."""
    return DataLoader(
        ExampleDataset(images),
        batch_sampler=cast(Any, sampler),
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        worker_init_fn=leave_interruptions_to_the_parent,
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def read(loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a loader, whose processes end with them, or with an error."""
    try:
        yield from loader
    except BaseException as error:
        # its frames keep these processes from ending, and this one would wait for them
        traceback.clear_frames(error.__traceback__)
        raise


def open_images(root: Path, split: str, settings: UQDMSettings) -> Images:
    """The data set in a folder: ImageNet 64x64 if it holds npz files.

    Raises:
        OSError: it cannot be read.
        ValueError: there is no such folder, nothing in it, or the crops do not fit.
    """
    if not root.is_dir():
        raise ValueError(f"expected a folder of images, but there is no folder {root}")
    if any(root.glob("*.npz")):
        if split == "train" and (settings.crop_size != WINDOW or settings.vary_colours):
            raise ValueError(
                "images of ImageNet 64x64 are taken as they are: --crop-size must be 64, "
                "and --vary-colours is for photographs"
            )
        return ImageNet64(root, split=split)
    return Photographs(
        root,
        split=split,
        size=settings.crop_size if split == "train" else WINDOW,
        max_factor=settings.max_factor,
        vary_colours=settings.vary_colours and split == "train",
    )


# ---- crops that stay in memory ----


def read_crops(photographs: Path, count: int, max_factor: int, seed: int) -> Tensor:
    """Read crops of a folder's photographs: uint8, ``[n, 3, 64, 64]``."""
    images = Photographs(photographs, max_factor=max_factor, vary_colours=True)
    rng = random.Random(seed)
    draws = [(rng.randrange(len(images)), rng.randrange(2**31)) for _ in range(count)]
    return images.batch(*zip(*draws))


def read_photographs(
    folder: Path, split: str, crop_size: int, factors: range
) -> list[np.ndarray]:
    """Read photographs, box-averaged by every factor that leaves a crop.

    They stay in memory: 1.3 bytes for a pixel of a photograph, with the factors 2, 3, 4.

    Args:
        folder: folder that holds them, or that has folders ``train`` and ``test``.
        split: ``"train"`` or ``"test"``.
        crop_size: side of the crops.
        factors: factors of the box average.

    Returns:
        arrays ``[3, H, W]``, uint8.

    Raises:
        ValueError: there is no photograph that is large enough.
    """
    if not folder.is_dir():
        raise ValueError(f"expected a folder of photographs, there is no folder {folder}")
    side = crop_size * factors[0]
    files = Photographs(folder, split=split, size=side).files
    averaged = []
    for file in tqdm(files, f"reading {folder}", leave=False, dynamic_ncols=True):
        try:
            with Image.open(file) as image:
                photograph = image.convert("RGB")
        except Exception as error:  # Pillow's plugins fail in many ways
            log.warning("left out %s: it is damaged (%s)", file, error)
            continue
        for factor in factors:
            if min(photograph.size) >= crop_size * factor:
                levels = np.asarray(photograph.reduce(factor))
                averaged.append(np.ascontiguousarray(levels.transpose(2, 0, 1)))
    if not averaged:
        raise ValueError(f"none of the {len(files)} images in {folder} can be read")
    return averaged


def draw_crops(
    photographs: list[np.ndarray],
    count: int,
    size: int,
    rng: np.random.Generator,
    candidates: int = CANDIDATES,
) -> Tensor:
    """Draw crops, some rotated or flipped: uint8, ``[count, 3, size, size]``.

    Args:
        photographs: ``[3, H, W]``; larger ones come more often, by the root of their area.
        count: number of crops.
        size: side of the crops.
        rng: source of the random numbers.
        candidates: crops to draw for each that is kept; more detail makes it more likely.
    """
    weights = np.sqrt([photograph[0].size for photograph in photographs])
    chosen = rng.choice(len(photographs), count * candidates, p=weights / weights.sum())
    crops = np.empty((len(chosen), 3, size, size), np.uint8)
    for crop, i in zip(crops, chosen):
        y, x = (rng.integers(n - size + 1) for n in photographs[i].shape[1:])
        cut = photographs[i][:, y : y + size, x : x + size]
        cut = cut[:, :, ::-1] if rng.random() < 0.5 else cut
        crop[:] = cut.transpose(0, 2, 1) if rng.random() < 0.5 else cut
    if candidates > 1:
        detail = _detail(crops) + LEAST_DETAIL
        kept = rng.choice(len(crops), count, replace=False, p=detail / detail.sum())
        crops = crops[kept]
    return torch.from_numpy(crops)


def _detail(crops: np.ndarray) -> np.ndarray:
    """Return the mean magnitude of the two gradients, in levels per pixel, ``[n]``."""
    levels = crops.astype(np.int16)
    differences = (np.diff(levels, axis=axis) for axis in (2, 3))
    return sum(np.abs(d).mean((1, 2, 3), dtype=np.float64) for d in differences)
