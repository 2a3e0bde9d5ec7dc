"""What a file says before its strings."""

import zlib

from dataclasses import dataclass
from typing import Literal, Self

from ..errors import DamagedFileError

__all__ = [
    "ARITHMETICS",
    "COLOURS",
    "MAGIC",
    "Arithmetic",
    "Colour",
    "Header",
    "Metadata",
    "Storage",
    "check_metadata",
]

MAGIC = b"\x89UQDM\n"
"""What every file begins with."""

Arithmetic = Literal["float32", "float64", "integer"]
Colour = Literal["RGB", "L", "P", "1"]
"""Modes of Pillow that come back as they were."""

ARITHMETICS: tuple[Arithmetic, ...] = ("float32", "float64", "integer")
COLOURS: tuple[Colour, ...] = ("RGB", "L", "P", "1")

Storage = Literal["stages", "WebP"]
"""What the strings are: those of a model's stages, or one lossless WebP stream."""


@dataclass(frozen=True)
class Metadata:
    """A block of metadata, deflated until a program asks for it.

    Args:
        size: number of its bytes, as the file claims.
        deflated: zlib stream of it.
    """

    size: int = 0
    deflated: bytes = b""

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Deflate a block; an empty one stands for none."""
        return cls(len(data), zlib.compress(data, 9)) if data else cls()

    def __len__(self) -> int:
        return self.size

    def unpack(self) -> bytes:
        """Inflate the block, which takes as much memory as it claims.

        Raises:
            DamagedFileError: it is not what it claims to be.
        """
        if not self:
            return b""
        decompressor = zlib.decompressobj()
        try:
            data = decompressor.decompress(self.deflated, self.size + 1)
        except zlib.error as error:
            raise DamagedFileError(f"the metadata is damaged: {error}") from error
        if len(data) != self.size or not decompressor.eof or decompressor.unused_data:
            raise DamagedFileError(
                f"the metadata is damaged: a block has not the {self.size} bytes that the "
                "header says"
            )
        return data


@dataclass(frozen=True)
class Header:
    """What must be known to decode a file.

    Args:
        storage: ``"stages"``, or ``"WebP"`` where the picture is stored as a lossless WebP
            stream: then there is no model, no digest and one string, without previews.
        model: name of the model, in the zoo or its owner's.
        digest: that of the model, see :mod:`.fingerprint`.
        size: (width, height) of the picture in pixels.
        seed: seed of the dither, 0..2^32-1.
        arithmetic: what the network computes with.
        lengths: bytes of the string of each stage that was encoded.
        colour: mode of the picture.
        palette: of a picture with a palette, its colours, 3 bytes each.
        transparency: of a picture with a palette, opacities of its first colours; all
            others are opaque.
        orientation: EXIF orientation, 1..8.
        icc_profile: ICC profile, or nothing.
        alpha: the alpha channel as a grayscale PNG, or nothing where all is opaque.
        webp_alpha: whether the WebP stream has an alpha channel.
        exif: EXIF, a TIFF structure, or nothing.
        limited_to: bytes of the strings that the file was made with, where a limit let
            not all of them be in it, else None.
    """

    model: str
    digest: bytes
    size: tuple[int, int]
    seed: int
    arithmetic: Arithmetic
    lengths: tuple[int, ...]
    colour: Colour = "RGB"
    palette: bytes = b""
    orientation: int = 1
    icc_profile: Metadata = Metadata()
    alpha: bytes = b""
    exif: Metadata = Metadata()
    limited_to: int | None = None
    storage: Storage = "stages"
    transparency: bytes = b""
    webp_alpha: bool = False

    @property
    def mode(self) -> str:
        """Pillow's mode of the exact picture."""
        has_alpha = (self.alpha or self.webp_alpha) and self.colour in ("RGB", "L")
        return self.colour + "A" * bool(has_alpha)

    def __post_init__(self) -> None:
        # metadata may be given as it is
        for name in ("icc_profile", "exif"):
            if isinstance(data := getattr(self, name), bytes):
                object.__setattr__(self, name, Metadata.of(data))

    @property
    def payload_bytes(self) -> int:
        """Bytes of strings that the file was made with; one that has fewer is cut short."""
        return sum(self.lengths) if self.limited_to is None else self.limited_to


def check_metadata(icc_profile: Metadata, exif: Metadata, limit: int, remedy: str) -> None:
    """Raise a ValueError where metadata is larger than a limit.

    Args:
        icc_profile: as of :class:`Header`.
        exif: likewise.
        limit: bytes of both that are allowed, unpacked.
        remedy: what the user can do.
    """
    if (size := icc_profile.size + exif.size) > limit:
        raise ValueError(
            f"the metadata has {size} bytes, more than the limit of {limit} (ICC profile "
            f"{icc_profile.size}, EXIF {exif.size}): {remedy}"
        )
