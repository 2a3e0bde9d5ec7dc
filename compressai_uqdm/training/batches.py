"""What each step of a run sees: a function of the seed alone."""

import traceback

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..datasets import ImageNet64, Photographs
from ..families.uqdm.windowed import WINDOW
from .config import TrainingConfig
from .interruption import leave_interruptions_to_the_parent

__all__ = [
    "BatchSampler",
    "Example",
    "ExampleDataset",
    "Images",
    "example_key",
    "make_loader",
    "open_images",
    "read",
]

Images = ImageNet64 | Photographs


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


def open_images(root: Path, split: str, config: TrainingConfig) -> Images:
    """The data set in a folder: ImageNet 64x64 if it holds npz files.

    Raises:
        OSError: it cannot be read.
        ValueError: there is no such folder, nothing in it, or the crops do not fit.
    """
    if not root.is_dir():
        raise ValueError(f"expected a folder of images, but there is no folder {root}")
    if any(root.glob("*.npz")):
        if split == "train" and (config.crop_size != WINDOW or config.vary_colours):
            raise ValueError(
                "images of ImageNet 64x64 are taken as they are: --crop-size must be 64, "
                "and --vary-colours is for photographs"
            )
        return ImageNet64(root, split=split)
    return Photographs(
        root,
        split=split,
        size=config.crop_size if split == "train" else WINDOW,
        max_factor=config.max_factor,
        vary_colours=config.vary_colours and split == "train",
    )
