"""Pillow's plugin of .uqdm files, which importing this module registers.

``import compressai_uqdm`` is enough, as is PyTorch's own import: when Pillow first opens or
saves a picture, :mod:`.plugin` imports this. ``Image.open`` and ``Image.save`` then know
the files, and so do libraries that work through Pillow.

Opening reads the header; PyTorch is imported when the picture is loaded, or saved. Options
of ``Image.save`` are those of :func:`.encode`, ``exif`` and ``icc_profile``; as with other
formats, it ignores those it does not know, and of an animation saves one frame, unless
all are asked for, which is refused.
"""

import inspect
import warnings

from typing import IO, TYPE_CHECKING, Any

from PIL import ExifTags, Image, ImageFile, ImagePalette, UnidentifiedImageError

from .files.header import MAGIC

if TYPE_CHECKING:
    from .files.header import Header

__all__ = ["FORMAT", "MIME", "UqdmImageFile"]

FORMAT = "UQDM"
MIME = "image/x-uqdm"


class UqdmImageFile(ImageFile.ImageFile):
    """A picture in a .uqdm file.

    Where a file is shorter than it was made, or damaged, loading it raises an OSError, or
    with ``ImageFile.LOAD_TRUNCATED_IMAGES`` gives the picture so far. One that is not exact
    has the mode of the original all the same, for that is known before it is decoded: its
    shades are dithered where that mode has few, :func:`.load` gives them.
    """

    format = FORMAT
    format_description = "UQDM, progressive to lossless"
    _header: "Header | None" = None  # until the picture is loaded
    _start = 0

    def _open(self) -> None:
        from .checks import MAX_METADATA
        from .files.container import read_header
        from .files.pictures import describe

        assert self.fp is not None
        try:
            # how large a picture may be, Image.open checks
            header, data = read_header(self.fp, 1 << 70, MAX_METADATA)
            self._mode = header.mode
            describe(self, header)
        except ValueError as error:
            raise UnidentifiedImageError(str(error)) from error
        self._header, self._start, self._size = header, len(data), header.size
        if header.colour == "P":
            self.palette = ImagePalette.raw("RGB", header.palette)
        self.tile = []  # nothing for Pillow's own decoders

    def load(self) -> Any:
        """Decode the picture, once.

        Raises:
            OSError: it is cut short, damaged or closed, or its model is not there.
        """
        if self._header is not None:
            if self.fp is None:
                raise OSError("cannot load this image: its file has been closed")
            image = self._decode(self._header, self.fp)
            self.im, self._mode, self.palette = image.im, image.mode, image.palette
            self._header, self.readonly = None, 0
            if self._exclusive_fp:
                self.fp.close()
            self.fp = None
        return super().load()

    def getexif(self) -> Image.Exif:
        """Return the EXIF tags, none where the block is damaged.

        The block itself stays in ``info["exif"]`` as the file has it.
        """
        try:
            return super().getexif()
        except Exception as error:  # Pillow's parser fails in many ways
            message = f"the EXIF block is damaged and is left unread: {error}"
            warnings.warn(message, UserWarning, stacklevel=2)
            return super().getexif()  # empty: Pillow reads the block only once

    def _decode(self, header: "Header", fp: IO[bytes]) -> Image.Image:
        fp.seek(0)
        data = fp.read()
        partial = ImageFile.LOAD_TRUNCATED_IMAGES
        length = self._start + header.payload_bytes
        if len(data) < length and not partial:
            raise OSError(
                f"image file is truncated: {len(data)} of its {length} bytes are there. "
                "Set ImageFile.LOAD_TRUNCATED_IMAGES to have the picture so far"
            )
        from .files.decoding import decode
        from .files.pictures import describe

        pixels = self.width * self.height
        try:
            picture = decode(data, partial=partial, max_pixels=pixels)
        except (ValueError, FileNotFoundError) as error:
            raise OSError(str(error)) from error
        if header.colour == "1" and not picture.exact:
            return picture.image.convert("1")
        if header.colour == "P" and not picture.exact:
            colours = Image.new("P", (1, 1))
            colours.putpalette(header.palette)
            image = picture.image.convert("RGB").quantize(palette=colours)
            describe(image, header)
            return image
        return picture.image


def _accept(prefix: bytes) -> bool:
    # also of a file that was transferred as text, to say so
    return prefix.startswith(MAGIC.rstrip())


def _block(name: str, value: Any) -> bytes:
    """Metadata that a program gives, as bytes."""
    if isinstance(value, Image.Exif):
        try:
            return value.tobytes()
        except Exception as error:  # of many kinds
            raise ValueError(
                f"cannot write this EXIF ({type(error).__name__}: {error}): correct the "
                "values of its tags"
            ) from error
    if not isinstance(value, (bytes, bytearray, memoryview, type(None))):
        raise ValueError(f"{name} must be bytes, got {type(value).__name__}")
    return bytes(value or b"")


def _save(image: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    from .files import exif
    from .files.encoding import encode
    from .files.pictures import check_depth

    check_depth(image)  # of a copy, the file is not known
    given: dict[str, Any] = image.encoderinfo
    frame = image.copy()
    for name in given.keys() & {"exif", "icc_profile"}:
        frame.info[name] = _block(name, given[name])
    if "exif" not in given:  # a copy lacks what a program has changed
        frame.info["exif"] = exif.block_of(image)
        if exif.orientation_of(frame) != exif.orientation_of(image):
            frame.getexif()[ExifTags.Base.Orientation] = exif.orientation_of(image)
    known = inspect.signature(encode).parameters.keys() - {"image"}
    fp.write(encode(frame, **{name: given[name] for name in given.keys() & known}))


def _save_all(image: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    raise ValueError(
        "a .uqdm file holds one picture: leave save_all and append_images out, and save "
        "each frame in a file of its own"
    )


Image.register_open(FORMAT, UqdmImageFile, _accept)
Image.register_save(FORMAT, _save)
Image.register_save_all(FORMAT, _save_all)
Image.register_extension(FORMAT, ".uqdm")
Image.register_mime(FORMAT, MIME)
