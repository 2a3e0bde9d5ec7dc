"""Version 2 of the header: its fields as bytes, and back.

After what every file has come fields with a tag and a length, so that more can be said
later without another version. A decoder may skip those it does not know whose tags are
64 and up; without the others there is no right picture.
"""

from ..bitstream.varint import read_varint, varint
from ..errors import DamagedFileError
from ..fingerprint import DIGEST_BYTES
from .header import ARITHMETICS, COLOURS, Header, Metadata, Storage

__all__ = ["VERSION", "pack", "parse"]

VERSION = 2

MAX_STAGES = 64
MAX_FIELDS = 256
MAX_INFLATED = 1 << 24

_PALETTE = 1
_ALPHA = 2
_TRANSPARENCY = 4
_MAY_BE_SKIPPED = 64
_ICC_PROFILE = 64
_ORIENTATION = 65
_EXIF = 66
_LIMITED_TO = 67


def pack(header: Header) -> bytes:
    """The header as bytes.

    Raises:
        ValueError: the model's name is too long, or empty; the ICC profile or the EXIF
            block is too long.
    """
    kind = COLOURS.index(header.colour) << 2
    if header.storage == "WebP":  # no model's name, so nothing that belongs to a model
        start = varint(0) + bytes([kind | header.webp_alpha])
        numbers = [*header.size, *header.lengths]
    else:
        name = header.model.encode()
        if not 1 <= len(name) <= 255:
            raise ValueError(f"a model's name has 1 to 255 bytes, got {header.model!r}")
        kind |= ARITHMETICS.index(header.arithmetic)
        start = varint(len(name)) + name + header.digest + bytes([kind])
        numbers = [*header.size, header.seed, len(header.lengths), *header.lengths]
    fields = []
    if header.colour == "P":
        fields.append((_PALETTE, header.palette))
    if header.transparency:
        fields.append((_TRANSPARENCY, header.transparency))
    if header.alpha:
        fields.append((_ALPHA, header.alpha))
    if header.icc_profile:
        fields.append((_ICC_PROFILE, _packed("ICC profile", header.icc_profile)))
    if header.orientation != 1:
        fields.append((_ORIENTATION, bytes([header.orientation])))
    if header.exif:
        fields.append((_EXIF, _packed("EXIF block", header.exif)))
    if header.limited_to is not None:
        fields.append((_LIMITED_TO, varint(header.limited_to)))
    packed = [varint(tag) + varint(len(data)) + data for tag, data in fields]
    return b"".join([start, *map(varint, numbers), *packed])


def parse(body: bytes) -> Header:
    """Inverse of :func:`pack`.

    Metadata stays packed: to parse a header takes no longer than its bytes say.

    Raises:
        DamagedStringError or UnicodeDecodeError: the bytes are no such header.
    """
    reader = _Reader(body)
    name_length = reader.number()
    _check(name_length <= 255, f"a model's name of {name_length} bytes")
    model = reader.take(name_length).decode()
    storage: Storage = "stages" if model else "WebP"
    digest = reader.take(DIGEST_BYTES) if model else b""
    (kind,) = reader.take(1)
    _check(kind >> 2 < len(COLOURS), f"the kind {kind}")
    colour, low = COLOURS[kind >> 2], kind & 3
    width, height = reader.number(), reader.number()
    if model:
        _check(low < len(ARITHMETICS), f"the kind {kind}")
        arithmetic, webp_alpha, seed = ARITHMETICS[low], False, reader.number()
        n_stages = reader.number()
        _check(1 <= n_stages <= MAX_STAGES, f"{n_stages} stages")
    else:
        _check(low == 0 or (low == 1 and colour in ("RGB", "L")), f"the kind {kind}")
        arithmetic, webp_alpha, seed, n_stages = ARITHMETICS[-1], bool(low), 0, 1
    lengths = tuple(reader.number() for _ in range(n_stages))
    fields = reader.fields()

    _check(width >= 1 and height >= 1, f"a picture of {width} x {height} pixels")
    _check(seed < 1 << 32, f"the seed {seed}")
    _check(model.isprintable(), "a name that cannot be printed")
    known = {
        _PALETTE,
        _ALPHA,
        _TRANSPARENCY,
        _ICC_PROFILE,
        _ORIENTATION,
        _EXIF,
        _LIMITED_TO,
    }
    needed = sorted(tag for tag in fields if tag < _MAY_BE_SKIPPED and tag not in known)
    if needed:
        raise DamagedFileError(
            f"the file has parts that this program does not know (fields {needed}): "
            "update compressai-uqdm"
        )
    palette = fields.get(_PALETTE, b"")
    _check((colour == "P") == (_PALETTE in fields), "a palette where there is none")
    _check(len(palette) % 3 == 0 and len(palette) <= 768, "a palette of no whole colours")
    _check(colour != "P" or palette != b"", "a palette without colours")
    transparency = fields.get(_TRANSPARENCY, b"")
    _check(
        len(transparency) <= len(palette) // 3 and fields.get(_TRANSPARENCY) != b"",
        "transparency of colours that are not there",
    )
    _check(
        _ALPHA not in fields
        or (bool(model) and (colour in ("RGB", "L") or bool(transparency))),
        "alpha where there is none",
    )
    _check(fields.get(_ALPHA) != b"", "an alpha channel without bytes")
    orientation = fields.get(_ORIENTATION, b"\1")
    _check(len(orientation) == 1 and 1 <= orientation[0] <= 8, "no orientation")
    limited_to = None
    if _LIMITED_TO in fields:
        limited_to, end = read_varint(fields[_LIMITED_TO], 0)
        _check(end == len(fields[_LIMITED_TO]), "a limit that is no number")
        total = sum(lengths)
        _check(limited_to < total, f"a limit to {limited_to} of {total} bytes")
    return Header(
        model=model,
        digest=digest,
        size=(width, height),
        seed=seed,
        arithmetic=arithmetic,
        lengths=lengths,
        colour=colour,
        palette=palette,
        orientation=orientation[0],
        icc_profile=_metadata("ICC profile", fields.get(_ICC_PROFILE, b"\0")),
        alpha=fields.get(_ALPHA, b""),
        exif=_metadata("EXIF block", fields.get(_EXIF, b"\0")),
        limited_to=limited_to,
        storage=storage,
        transparency=transparency,
        webp_alpha=webp_alpha,
    )


def _check(is_sound: bool, what: str) -> None:
    if not is_sound:
        raise DamagedFileError(f"the header is damaged: it tells of {what}")


class _Reader:
    """Takes bytes off the front."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def number(self) -> int:
        value, self.at = read_varint(self.data, self.at)
        return value

    def take(self, n: int) -> bytes:
        if self.at + n > len(self.data):
            raise DamagedFileError(f"the header is damaged: {n} bytes are missing")
        self.at += n
        return self.data[self.at - n : self.at]

    def fields(self) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        while self.at < len(self.data):
            tag = self.number()
            _check(tag not in found, f"the field {tag} twice")
            _check(len(found) < MAX_FIELDS, f"more than {MAX_FIELDS} fields")
            found[tag] = self.take(self.number())
        return found


def _packed(what: str, block: Metadata) -> bytes:
    """Its length, and its zlib stream."""
    if block.size > MAX_INFLATED:
        raise ValueError(
            f"the picture has an {what} of {block.size} bytes, more than the limit of "
            f"{MAX_INFLATED}: remove it first"
        )
    return varint(block.size) + block.deflated


def _metadata(what: str, data: bytes) -> Metadata:
    """Inverse of :func:`_packed`."""
    size, at = read_varint(data, 0)
    _check(size <= MAX_INFLATED, f"an {what} of {size} bytes")
    return Metadata(size, data[at:]) if size else Metadata()
