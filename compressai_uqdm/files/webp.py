"""Pictures that are stored as lossless WebP streams.

Screenshots, drawings and flat pictures repeat themselves, which WebP's back-references
catch and a model of photographs does not: it takes 4 to 20 times as many bytes.
"""

import io
import struct
import zlib

import numpy as np

from PIL import Image, WebPImagePlugin, features

from ..errors import DamagedFileError

__all__ = ["decode_webp", "encode_webp", "is_graphic"]

FLAT_SHARE = 0.5
"""Share of pixels equal to their left or upper neighbour from which on a picture is a
graphic."""

FEW_COLOURS, FEW_GRAYS = 256, 48
"""Colours, or shades of gray, up to which it is one."""

SAMPLE = 1 << 16
"""Pixels, about, to count colours in."""

MOST_PIXELS = 178_956_970
"""Pixels of a stored picture at most: by default Pillow's WebP decoder takes no more."""

_RIFF = struct.Struct("<4sI4s4sI")
_CRC_BYTES = 3


def is_graphic(levels: np.ndarray) -> bool:
    """Whether lossless WebP is worth a try; takes milliseconds.

    Args:
        levels: RGB, uint8 ``[H, W, 3]``.
    """
    n_pixels = levels[..., 0].size
    along_rows = (levels[:, 1:] == levels[:, :-1]).all(-1).sum()
    along_columns = (levels[1:] == levels[:-1]).all(-1).sum()
    if max(along_rows, along_columns) >= FLAT_SHARE * n_pixels:
        return True
    sample = levels[:: -(-n_pixels // SAMPLE)].reshape(-1, 3)
    n_colours = len(np.unique(sample @ [1 << 16, 1 << 8, 1]))
    is_gray = bool((sample == sample[:, :1]).all())
    # of few pixels, few colours say nothing
    few = min(FEW_GRAYS if is_gray else FEW_COLOURS, len(sample) // 8)
    return n_colours <= few


def encode_webp(
    levels: np.ndarray, alpha: np.ndarray | None = None, quick: bool = False
) -> bytes | None:
    """Encode a picture as a lossless WebP stream.

    Args:
        levels: RGB, uint8 ``[H, W, 3]``.
        alpha: opacity, uint8 ``[H, W]``.
        quick: take a twentieth of the time, for up to a tenth more bytes; else the stream
            is the smallest that Pillow's encoder makes.

    Returns:
        the VP8L stream, without the RIFF header around it, and a checksum of 3 bytes; None
        where WebP cannot hold the picture, or Pillow lacks it.
    """
    if not features.check("webp") or levels[..., 0].size > MOST_PIXELS:
        return None
    pixels = levels if alpha is None else np.dstack([levels, alpha])
    image = Image.fromarray(np.ascontiguousarray(pixels))
    streams = []
    # of one colour, the fastest method makes the smallest stream
    for method, quality in [(1, 50)] if quick else [(0, 100), (6, 100)]:
        options = {"lossless": True, "exact": True, "method": method, "quality": quality}
        file = io.BytesIO()
        try:
            image.save(file, "WEBP", **options)
        except (OSError, ValueError):  # more than 16383 pixels a side
            return None
        _, _, _, kind, length = _RIFF.unpack_from(file.getbuffer())
        assert kind == b"VP8L"
        streams.append(file.getvalue()[_RIFF.size :][:length])
    stream = min(streams, key=len)
    return stream + _checksum(pixels, stream)


def decode_webp(
    string: bytes, size: tuple[int, int], has_alpha: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode what :func:`encode_webp` returned.

    Args:
        string: the stream and its checksum.
        size: (width, height).
        has_alpha: whether it has an alpha channel.

    Returns:
        levels, uint8 ``[H, W, 3]``, and the opacities, uint8 ``[H, W]``, or None.

    Raises:
        DamagedFileError: it is not the stream of such a picture.
        ValueError: Pillow was built without WebP, or its limit of pixels is lower.
    """
    if not features.check("webp"):
        raise ValueError(
            "the picture is stored as lossless WebP, and Pillow was built without it: "
            "install a Pillow that has it (features.check('webp'))"
        )
    stream, checksum = string[:-_CRC_BYTES], string[-_CRC_BYTES:]
    length = len(stream) + len(stream) % 2
    header = _RIFF.pack(b"RIFF", 12 + length, b"WEBP", b"VP8L", len(stream))
    try:
        if _size_of(stream) != size:  # before it takes memory
            raise ValueError(f"a picture of {_size_of(stream)} pixels")
        file = io.BytesIO(header + stream.ljust(length, b"\0"))
        # not Image.open, which warns of large pictures
        image = WebPImagePlugin.WebPImageFile(file)
        pixels = np.array(image.convert("RGBA" if has_alpha else "RGB"))
    except Image.DecompressionBombError as error:
        raise ValueError(f"{error} Raise PIL.Image.MAX_IMAGE_PIXELS") from error
    except Exception as error:  # Pillow's are of many kinds
        text = f"{type(error).__name__}: {error}"
        raise DamagedFileError(f"the stored WebP stream is damaged: {text}") from error
    if _checksum(pixels, stream) != checksum:
        raise DamagedFileError(
            "the stored WebP stream is damaged: its checksum does not match"
        )
    return pixels[..., :3], pixels[..., 3] if has_alpha else None


def _size_of(stream: bytes) -> tuple[int, int]:
    """(width, height) in the header of a VP8L stream."""
    signature, bits = struct.unpack_from("<BI", stream)
    if signature != 0x2F:
        raise ValueError("no VP8L stream")
    return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)


def _checksum(pixels: np.ndarray, stream: bytes) -> bytes:
    crc = zlib.crc32(np.ascontiguousarray(pixels).data)
    return zlib.crc32(stream, crc).to_bytes(4, "little")[:_CRC_BYTES]
