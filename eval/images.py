"""Sets of images to evaluate on: a folder, or an array in a NumPy file."""

import hashlib

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from PIL import Image, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS

__all__ = ["MIN_SIDE", "ImageSet", "InputError", "read_image"]

MIN_SIDE = 32
"""Smallest side of an image: that of CIFAR-10, the smallest set in the paper."""


class InputError(ValueError):
    """Input that cannot be evaluated; the message names it."""


@dataclass(frozen=True)
class ImageSet:
    """RGB images of 8 bits with names, read when asked for.

    Args:
        path: a folder of images (it is searched with its subfolders), an ``.npy`` file of
            ``[n, H, W, 3]``, or an ``.npz`` file in the layout of ImageNet 64x64, whose
            array ``data`` is ``[n, 12288]``, channel by channel; both uint8.
        first: take only that many.

    Raises:
        InputError: it is none of these, an image cannot be read or is smaller than 32x32,
            or there are fewer than ``first``.
    """

    path: Path
    first: int | None = None

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise InputError(f"no folder or file of images at {self.path}")
        if self.first is not None and not 1 <= self.first <= self._available:
            raise InputError(
                f"asked for the first {self.first} images of {self.path}, which has "
                f"{self._available}"
            )
        _ = self._scan  # reads and so checks every image

    @property
    def name(self) -> str:
        path = self.path.resolve()
        return path.name if path.is_dir() else path.stem

    @property
    def names(self) -> list[str]:
        """A name per image, unique in the set."""
        if self.path.is_dir():
            files = self._files[: self.first]
            return [file.relative_to(self.path).as_posix() for file in files]
        return [f"{i:05d}" for i in range(len(self))]

    @property
    def digest(self) -> str:
        """SHA-256 over names, sizes and pixels."""
        return self._scan[0]

    @property
    def smallest_side(self) -> int:
        """Of all images, in pixels."""
        return self._scan[1]

    def __len__(self) -> int:
        return self._available if self.first is None else self.first

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> np.ndarray:
        """The image at place i, uint8, ``[H, W, 3]``."""
        if self.path.is_dir():
            image, source = read_image(self._files[i]), f"{self._files[i]}"
        else:
            image, source = self._array[i], f"image {i} of {self.path}"
        if min(image.shape[:2]) < MIN_SIDE:
            raise InputError(
                f"{source} is too small: {image.shape[1]}x{image.shape[0]} pixels, "
                f"expected at least {MIN_SIDE}x{MIN_SIDE}"
            )
        return image

    def describe(self) -> dict[str, str | int]:
        """What a result file says about its images."""
        return {"name": self.name, "count": len(self), "digest": self.digest}

    @cached_property
    def _scan(self) -> tuple[str, int]:
        total, sides = hashlib.sha256(), []
        for name, image in zip(self.names, self):
            total.update(f"{name} {image.shape} ".encode())
            total.update(image.tobytes())
            sides.append(min(image.shape[:2]))
        return total.hexdigest(), min(sides)

    @property
    def _available(self) -> int:
        return len(self._files if self.path.is_dir() else self._array)

    @cached_property
    def _files(self) -> list[Path]:
        found = [f for f in self.path.rglob("*") if f.suffix.lower() in IMG_EXTENSIONS]
        if not found:
            expected = ", ".join(IMG_EXTENSIONS)
            raise InputError(f"no images in the folder {self.path}; expected {expected}")
        return sorted(found)

    @cached_property
    def _array(self) -> np.ndarray:
        layouts = {
            ".npy": "an array uint8 [n, H, W, 3]",
            ".npz": "an array named data, uint8 [n, 12288], as ImageNet 64x64 has it",
        }
        suffix = self.path.suffix
        if suffix not in layouts:
            raise InputError(f"{self.path} is not a folder, an .npy or an .npz file")
        try:
            loaded = np.load(self.path)
            arrays = dict(loaded) if suffix == ".npz" else {"data": loaded}
        except (ValueError, OSError, EOFError) as error:
            raise InputError(f"{self.path} cannot be read as {suffix}: {error}") from error
        data = arrays.get("data")
        if suffix == ".npz" and data is not None and data.shape[1:] == (3 * 64 * 64,):
            data = data.reshape(-1, 3, 64, 64).transpose(0, 2, 3, 1)
        elif suffix == ".npz":
            data = None
        fits = data is not None and data.ndim == 4 and data.shape[3] == 3
        if data is None or not fits or data.dtype != np.uint8 or not len(data):
            found = ", ".join(f"{k} {a.dtype} {list(a.shape)}" for k, a in arrays.items())
            raise InputError(f"{self.path}: expected {layouts[suffix]}, got {found}")
        return data


def read_image(file: Path) -> np.ndarray:
    """An image in RGB, uint8, ``[H, W, 3]``.

    Raises:
        InputError: it cannot be read, or has more than 8 bits per value.
    """
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise InputError(f"{file} has more than 8 bits per value ({image.mode})")
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InputError(f"{file} cannot be read as an image: {error}") from error
