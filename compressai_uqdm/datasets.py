"""Training data: ImageNet 64x64 as published, and folders of photographs.

Both classes are in CompressAI's registry of datasets and return images as its
``ImageFolder`` does. The trainer loads many images at once with ``batch``.
"""

from . import libraries  # noqa: F401  isort: skip

import logging
import random
import shutil
import struct
import zipfile
import zlib

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressai.registry import register_dataset
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from .atomic import write_atomically

__all__ = ["ImageNet64", "Photographs"]

Transform = Callable[[Image.Image], Any]
log = logging.getLogger(__name__)

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
KEPT_BYTES = 256 << 20
"""A folder of photographs whose pixels take less than this is decoded once and kept."""


@register_dataset("ImageNet64")
class ImageNet64(Dataset):
    """ImageNet at 64x64, box-averaged, in its published npz files.

    .. code-block:: none

        root/
          ...train...npz    each with ``data``, (n, 12288) uint8, channel-major
          ...val...npz
          removed.npy       indexes of duplicates to leave out, over all val images

    Images are mapped from the files, so memory does not grow with their number. Compressed
    arrays are unpacked once, to a ``.npy`` file beside the npz file.

    Args:
        root: the folder.
        transform: function of a ``PIL.Image.Image``, as in CompressAI's ``ImageFolder``.
        split: ``"train"`` or ``"val"`` (``"test"`` is the same).

    Raises:
        ValueError: there is no file, or a file has another layout.
    """

    def __init__(
        self, root: str | Path, transform: Transform | None = None, split: str = "train"
    ):
        if split not in ("train", "val", "test"):
            raise ValueError(f'split must be "train", "val" or "test", got {split!r}')
        name = "train" if split == "train" else "val"
        self.files = sorted(Path(root).glob(f"*{name}*.npz"))
        if not self.files:
            raise ValueError(f"no *{name}*.npz in {root}")
        self.transform = transform
        self.arrays = [_open_array(file) for file in self.files]
        self.ends = np.cumsum([len(array) for array in self.arrays])
        self.indexes = np.arange(self.ends[-1])
        duplicates = Path(root) / "removed.npy"
        if name == "val" and duplicates.exists():
            removed = _read_indexes(duplicates, len(self.indexes))
            self.indexes = np.delete(self.indexes, removed)

    def __getstate__(self) -> dict[str, Any]:
        # a spawned worker opens the files itself; arrays would be pickled whole
        return {**self.__dict__, "arrays": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.arrays = [_open_array(file) for file in self.files]

    def __len__(self) -> int:
        return len(self.indexes)

    def __getitem__(self, index: int) -> Any:
        image = Image.fromarray(self.batch([index])[0].permute(1, 2, 0).numpy())
        return self.transform(image) if self.transform else image

    def batch(self, indexes: Sequence[int], keys: Sequence[int] = ()) -> Tensor:
        """Return images, uint8, ``[n, 3, 64, 64]``.

        Args:
            indexes: numbers of the images, each in 0..len-1.
            keys: not used; images are not cropped.
        """
        where = self.indexes[np.asarray(indexes)]
        files = np.searchsorted(self.ends, where, "right")
        starts = np.concatenate([[0], self.ends])
        out = np.empty((len(where), 3 * 64 * 64), np.uint8)
        for file in np.unique(files):
            chosen = files == file
            out[chosen] = self.arrays[file][where[chosen] - starts[file]]
        return torch.from_numpy(out).view(-1, 3, 64, 64)


def _read_indexes(path: Path, count: int) -> np.ndarray:
    try:
        indexes = np.load(path)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not np.issubdtype(indexes.dtype, np.integer):
        raise ValueError(f"{path}: expected indexes of images, got {indexes.dtype}")
    if indexes.size and not 0 <= indexes.min() <= indexes.max() < count:
        raise ValueError(
            f"{path}: expected indexes in 0..{count - 1}, got some from "
            f"{indexes.min()} to {indexes.max()}"
        )
    return indexes


def _open_array(path: Path) -> np.ndarray:
    """Return the array ``data`` of an npz file, mapped into memory."""
    unpacked = path.with_suffix(".data.npy")
    try:
        with zipfile.ZipFile(path) as archive:
            if "data.npy" not in archive.namelist():
                names = ", ".join(archive.namelist())
                raise ValueError(f"{path}: expected an array data, got {names}")
            member = archive.getinfo("data.npy")
            _check_layout(path, archive)
            if member.compress_type == zipfile.ZIP_STORED:
                return _map_member(path, member)
            if not _is_unpacked(path, unpacked, member):
                log.warning("%s is compressed: unpacking it to %s", path, unpacked)
                _unpack(archive, unpacked)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read or unpacked: {error}") from error
    return np.load(unpacked, mmap_mode="r")


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    if np.lib.format.read_magic(file) == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _check_layout(path: Path, archive: zipfile.ZipFile) -> None:
    with archive.open("data.npy") as file:
        try:
            shape, fortran, dtype = _read_header(file)
        except ValueError as error:
            raise ValueError(f"{path}: data is no array: {error}") from error
    right = len(shape) == 2 and shape[0] >= 1 and shape[1] == 3 * 64 * 64
    if not right or dtype != np.uint8 or fortran:
        order = ", in Fortran's order" if fortran else ""
        raise ValueError(
            f"{path}: expected data of shape (n, 12288), uint8, got {shape}, {dtype}{order}"
        )


def _map_member(path: Path, member: zipfile.ZipInfo) -> np.ndarray:
    with path.open("rb") as file:
        # a local header has 30 bytes; the last four are the lengths of the name and extra
        file.seek(member.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
        file.seek(member.header_offset + 30 + name + extra)
        shape, _, dtype = _read_header(file)
        return np.memmap(file, dtype, "r", file.tell(), shape)


def _is_unpacked(path: Path, unpacked: Path, member: zipfile.ZipInfo) -> bool:
    if not unpacked.exists():
        return False
    then, now = path.stat(), unpacked.stat()
    return now.st_size == member.file_size and now.st_mtime >= then.st_mtime


def _unpack(archive: zipfile.ZipFile, path: Path) -> None:
    with archive.open("data.npy") as packed, write_atomically(path) as file:
        shutil.copyfileobj(packed, file, 1 << 24)


@register_dataset("Photographs")
class Photographs(Dataset):
    """Random crops of photographs, box-averaged by a random integer factor.

    Files that cannot be read or are too small are skipped with a warning. If a file turns
    out to be damaged later, the next file takes its place.

    Args:
        root: a folder of images, or one with folders ``train`` and ``test`` as for
            CompressAI's ``ImageFolder``.
        transform: function of a ``PIL.Image.Image``, as in CompressAI's ``ImageFolder``.
        split: the folder to read, if ``root`` has such folders.
        size: side of the crops, in pixels.
        max_factor: largest factor to average by; 1 keeps the resolution.
        vary_colours: change brightness, contrast and white point of half of the crops, to
            augment a small set of photographs.

    Raises:
        ValueError: there is no image of at least that size, or no such split.
    """

    def __init__(
        self,
        root: str | Path,
        transform: Transform | None = None,
        split: str = "train",
        size: int = 64,
        max_factor: int = 5,
        vary_colours: bool = False,
    ):
        folder = Path(root)
        splits = [name for name in ("train", "test", split) if (folder / name).is_dir()]
        if splits:
            if split not in splits:
                raise ValueError(f"{root} has a folder {splits[0]}, but no folder {split}")
            folder /= split
        self.transform, self.size, self.max_factor = transform, size, max_factor
        self.vary_colours = vary_colours
        self.files: list[Path] = []
        self.factors: list[int] = []  # for each, the largest factor that a crop allows
        n_bytes = 0
        paths = folder.rglob("*") if folder.is_dir() else ()
        for file in sorted(f for f in paths if f.suffix.lower() in SUFFIXES):
            if not file.is_file():  # a folder, a pipe, a broken link
                log.warning("left out %s: it is no file", file)
                continue
            try:
                with Image.open(file) as image:
                    sides, mode = image.size, image.mode
            except Exception as error:  # Pillow's plugins fail in many ways
                log.warning("left out %s: it cannot be read (%s)", file, error)
                continue
            if mode.startswith(("I", "F")):
                log.warning("left out %s: it has more than 8 bits (%s)", file, mode)
                continue
            if min(sides) < size:
                log.warning("left out %s: %s x %s is less than %s", file, *sides, size)
                continue
            self.files.append(file)
            self.factors.append(min(max_factor, min(sides) // size))
            n_bytes += 3 * sides[0] * sides[1]
        if not self.files:
            raise ValueError(f"no images of at least {size} x {size} pixels in {folder}")
        self._kept: dict[int, np.ndarray] | None = {} if n_bytes < KEPT_BYTES else None
        self._damaged: set[int] = set()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        key = int(torch.randint(2**31, ()))
        image = Image.fromarray(self.crop(index, key).transpose(1, 2, 0))
        return self.transform(image) if self.transform else image

    def batch(self, indexes: Sequence[int], keys: Sequence[int]) -> Tensor:
        """Return crops, uint8, ``[n, 3, size, size]``.

        Args:
            indexes: numbers of the photographs, each in 0..len-1.
            keys: seeds of the random choices, such as factor, position and flip.
        """
        return torch.from_numpy(np.stack([self.crop(*i) for i in zip(indexes, keys)]))

    def crop(self, index: int, key: int) -> np.ndarray:
        """Return one crop, uint8, ``[3, size, size]``, see :meth:`batch`."""
        index, photograph = self._readable(index)
        rng = random.Random(key)
        factor, side = rng.randint(1, self.factors[index]), self.size
        y, x = (rng.randint(0, n - side * factor) for n in photograph.shape[:2])
        crop = photograph[y : y + side * factor, x : x + side * factor]
        if factor > 1:
            boxes = crop.reshape(side, factor, side, factor, 3)
            crop = boxes.mean((1, 3), dtype=np.float32)
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        if self.vary_colours and rng.random() < 0.5:
            contrast, brightness = rng.uniform(0.6, 1.2), rng.uniform(20, 235)
            white = np.array([rng.uniform(0.85, 1.15) for _ in range(3)], np.float32)
            crop = ((crop - crop.mean()) * contrast + brightness) * white
        levels = np.rint(crop).clip(0, 255).astype(np.uint8)
        return np.ascontiguousarray(levels.transpose(2, 0, 1))

    def _readable(self, index: int) -> tuple[int, np.ndarray]:
        """Return a photograph and its number, or the next one that is not damaged."""
        for i in (*range(index, len(self.files)), *range(index)):
            if i in self._damaged:
                continue
            try:
                return i, self._read(i)
            except Exception as error:  # as above
                self._damaged.add(i)
                log.warning("left out %s: it is damaged (%s)", self.files[i], error)
        raise ValueError(f"none of the {len(self.files)} images can be read")

    def _read(self, index: int) -> np.ndarray:
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        with Image.open(self.files[index]) as image:
            photograph = np.asarray(image.convert("RGB"))
        if self._kept is not None:
            self._kept[index] = photograph
        return photograph
