"""Writing the outputs of a command, and what a picture format does not keep."""

import io
import sys

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import (
    write_atomically,
)
from .paths import naming_errors, picture_format
from .terminal import STANDARD

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["as_bytes", "not_kept", "write"]


# ---- writing ----


def write(target: Path, data: bytes, replace: bool = False) -> None:
    """Write a file, whole or not at all, or all of it into a pipe or a device.

    Raises:
        FileExistsError: there is a file of that name, perhaps since a moment ago, and it
            is not to be replaced.
        OSError: it cannot be written; the error names the target.
    """
    with naming_errors(target):
        if target == STANDARD:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        with write_atomically(target, replace) as file:
            file.write(data)


def as_bytes(image: "Image.Image", target: Path) -> bytes:
    """Encode a picture with its ICC profile and EXIF, without loss where the format can.

    Raises:
        ValueError: the format cannot hold it.
    """
    kinds = {"exif": image.info.get("exif"), "icc_profile": image.info.get("icc_profile")}
    options: dict[str, Any] = {name: data for name, data in kinds.items() if data}
    kind = picture_format(target)
    if kind == "WEBP":
        options |= {"lossless": True, "exact": True}
    while True:
        file = io.BytesIO()
        try:
            image.save(file, kind, **options)
            return file.getvalue()
        except Exception as error:  # as of an alpha channel in JPEG
            # EXIF that cannot be read, or is too long for JPEG, is no reason
            if options.pop("exif", None) is None:
                name = target.with_suffix(".png").name
                raise ValueError(f"{error}: try {name}") from error


def not_kept(image: "Image.Image", data: bytes, exact: bool) -> str:
    """Say what of a picture its file loses, by reading that back; nothing if nothing.

    Formats differ by mode and by version of Pillow, so there is no list of lossy ones.

    Args:
        image: the picture.
        data: the file.
        exact: whether its pixels are those of the original: else they have none to lose.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as found:
            found.load()
    except Exception:  # as of a PDF, which Pillow only writes
        return "cannot be read back: it may not keep every pixel" * exact
    if exact and not _has_pixels(found, image):
        return "is lossy: it does not keep every pixel of the exact picture"
    if exact and image.mode == "P" and not _has_indices(found, image):
        return "does not keep the palette indices of the exact picture"
    if image.info.get("icc_profile") != found.info.get("icc_profile"):
        return "does not keep the ICC profile"
    return "does not keep the EXIF" * (not _has_exif(found, image))


def _has_pixels(found: "Image.Image", image: "Image.Image") -> bool:
    if found.size != image.size:
        return False
    return found.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


def _has_indices(found: "Image.Image", image: "Image.Image") -> bool:
    return found.mode == "P" and found.tobytes() == image.tobytes()


def _has_exif(found: "Image.Image", image: "Image.Image") -> bool:
    block = image.info.get("exif")
    if not block or found.info.get("exif") == block:
        return True
    try:
        return bool(found.getexif())  # TIFF has its own way
    except Exception:  # Pillow's are of many kinds
        return False
