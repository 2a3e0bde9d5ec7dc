"""What is kept bit by bit, and what is refused: depth, palette indices, EXIF blocks."""

import io
import struct

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from PIL import ExifTags, Image, features

import compressai_uqdm

from compressai_uqdm.files import exif
from compressai_uqdm.files.decoding import Picture, decode
from compressai_uqdm.files.encoding import encode
from compressai_uqdm.files.pictures import distinct_colours, to_planes

CASES = Path(__file__).parent / "data/cases"
ORIENTATION = ExifTags.Base.Orientation


def there_and_back(image: Image.Image, **options: object) -> Picture:
    return decode(encode(image, **options))  # type: ignore[arg-type]


def as_file(image: Image.Image, kind: str = "PNG", **options: object) -> Image.Image:
    """As it is when opened from a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


# ---- depth ----


def pnm(text: bytes) -> Image.Image:
    return Image.open(io.BytesIO(text))


def deep_sgi() -> Image.Image:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "SGI", bpc=2)
    return Image.open(file)


def deep_jpeg_2000(bits: int) -> Image.Image:
    """A file that says it has so many bits: Pillow writes colours of 8 bits alone."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (1, 2, 3)).save(file, "JPEG2000", no_jp2=True)
    data = bytearray(file.getvalue())
    at = data.index(b"\xff\x51") + 2 + 38
    for i in range(3):
        assert data[at + 3 * i] == 7
        data[at + 3 * i] = bits - 1
    return Image.open(io.BytesIO(bytes(data)))


def deep_avif(flag: int) -> Image.Image:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (1, 2, 3)).save(file, "AVIF")
    data = bytearray(file.getvalue())
    image = Image.open(io.BytesIO(bytes(data)))
    data[data.index(b"av1C") + 6] |= flag
    image.fp = io.BytesIO(bytes(data))  # the decoder would refuse what contradicts itself
    return image


DEEP = {
    "P6 of 16 bits": lambda: Image.open(CASES / "deep.ppm"),
    "P6 of 10 bits": lambda: Image.open(CASES / "P6-1023.ppm"),
    "P3 of 16 bits": lambda: pnm(b"P3\n2 1\n65535\n1 2 3 4 5 6\n"),
    "P6 of 9 bits": lambda: pnm(b"P6 1 1 256\n\0\1\0\1\0\1"),
    "P5 of 10 bits": lambda: pnm(b"P5 1 1 1023\n\0\1"),
    "SGI of 16 bits": deep_sgi,
    "JPEG 2000 of 12 bits": lambda: deep_jpeg_2000(12),
    "JPEG 2000 of 16 bits": lambda: deep_jpeg_2000(16),
    "AVIF of 10 bits": lambda: deep_avif(0x40),
    "AVIF of 12 bits": lambda: deep_avif(0x60),
}


@pytest.mark.parametrize("name", DEEP)
def test_more_than_8_bits_are_refused(name: str) -> None:
    if "AVIF" in name and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    with pytest.raises(ValueError, match="expected 8 bits per channel, got a picture with"):
        to_planes(DEEP[name]())


def test_8_bits_and_fewer_are_not() -> None:
    image = Image.linear_gradient("L").resize((16, 16)).convert("RGB")
    kinds = ["PNG", "PPM", "SGI", "JPEG2000", "TIFF", "BMP", "TGA"]
    kinds += ["AVIF"] * features.check("avif")
    for kind in kinds:
        to_planes(as_file(image, kind))
    shallow = pnm(b"P6 2 1 15\n\0\1\2\17\16\15")
    assert to_planes(shallow).levels.ravel().tolist() == [0, 17, 34, 255, 238, 221]


# ---- palettes ----


def with_palette(
    palette: list[int] | None, indexes: list[int], **info: object
) -> Image.Image:
    image = Image.new("P", (len(indexes), 3))
    image.putdata(indexes * 3)
    if palette is not None:
        image.putpalette(palette)
    image.info.update(info)
    return image


def test_the_handed_mask() -> None:
    mask = Image.open(CASES / "mask-duplicate.png")
    back = there_and_back(mask)
    assert back.exact and back.image.mode == "P"
    assert np.array_equal(np.asarray(back.image), np.asarray(mask))
    assert back.image.getpalette() == mask.getpalette()


BLACKS = [0, 0, 0] * 256
PALETTES: dict[str, Image.Image] = {
    "all colours the same": with_palette(BLACKS, list(range(256))),
    "all white": with_palette([255] * 768, list(range(256))),
    "none": with_palette(None, [0, 1, 2, 200, 255]),
    "shorter than the indices": with_palette([9, 9, 9, 8, 8, 8], [0, 1, 2, 3, 250]),
    "near colours taken": with_palette([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0], [3, 2, 1, 0]),
    "one transparent": with_palette([1, 2, 3] * 4, [0, 1, 2, 3], transparency=2),
    "opacities": with_palette([1, 2, 3] * 4, [0, 1, 2, 3], transparency=b"\0\x80\xff"),
    "opacities of colours beyond": with_palette(
        [1, 2, 3], [0, 0, 0], transparency=b"\x10\x80\xff\0\0"
    ),
}


@pytest.mark.parametrize("name", PALETTES)
@pytest.mark.parametrize("stages", [None, 6])
def test_indices_come_back(name: str, stages: int | None) -> None:
    image = PALETTES[name]
    back = there_and_back(image, stages=stages)
    assert back.exact and back.image.mode == "P"
    assert np.array_equal(np.asarray(back.image), np.asarray(image))
    assert back.image.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()
    given = image.getpalette() or []
    assert (back.image.getpalette() or [])[: len(given)] == given
    through_pillow = io.BytesIO()
    image.save(through_pillow, "UQDM")
    again = Image.open(through_pillow)
    assert again.mode == "P" and np.array_equal(np.asarray(again), np.asarray(image))


def test_a_palette_of_random_colours_with_repetitions() -> None:
    rng = np.random.default_rng(0)
    for n_colours in (1, 2, 5, 90, 256):
        palette = rng.integers(0, 3, (n_colours, 3), np.uint8) * 127
        colours = distinct_colours(palette.tobytes())
        assert len({tuple(c) for c in colours.tolist()}) == n_colours
        assert np.abs(colours.astype(int) - palette).max() <= 7
        _, first = np.unique(palette, axis=0, return_index=True)
        assert np.array_equal(colours[first], palette[first])


def test_a_palette_of_opacities() -> None:
    image = Image.new("P", (2, 2))
    image.putpalette([1, 2, 3, 4, 5, 6, 7, 8], "RGBA")
    image.putdata([0, 1, 1, 0])
    back = there_and_back(image).image
    assert back.tobytes() == image.tobytes()
    assert back.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


# ---- EXIF ----


def jpeg(block: bytes) -> Image.Image:
    return as_file(
        Image.new("RGB", (16, 8), (9, 200, 30)), "JPEG", exif=b"Exif\0\0" + block
    )


CAMERA_FILES = sorted(CASES.glob("*.jpg")) + [CASES / "orientation-rational.png"]


@pytest.mark.parametrize("path", CAMERA_FILES, ids=lambda path: path.stem)
def test_the_raw_block_is_kept(path: Path) -> None:
    image = Image.open(path)
    raw = image.info["exif"]
    for asked_before in (False, True):
        if asked_before:
            image.getexif().get_ifd(ExifTags.IFD.Exif)
            image.getexif().get_ifd(ExifTags.IFD.IFD1)
        back = there_and_back(image, stages=1).image
        if exif.orientation_of(image) == exif.read_orientation(exif.without_prefix(raw)):
            assert back.info["exif"] == raw
        assert exif.orientation_of(back) == exif.orientation_of(image)
        saved = io.BytesIO()
        image.save(saved, "UQDM", stages=1)
        with Image.open(saved) as opened:
            assert opened.info["exif"] == back.info["exif"]


@pytest.mark.parametrize(
    ("kind", "value"), [("f", 6.0), ("d", 6.0), ("B", 6), ("I", 6), ("h", 6), ("H", 6)]
)
def test_orientations_of_any_type(kind: str, value: float) -> None:
    types = {"f": 11, "d": 12, "B": 1, "I": 4, "h": 8, "H": 3}
    data = struct.pack("<" + kind, value)
    inline = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", 26)
    block = struct.pack("<2sHIHHHI", b"II", 42, 8, 1, ORIENTATION, types[kind], 1)
    block += inline + bytes(4) + data
    back = there_and_back(jpeg(block), stages=1).image
    assert exif.orientation_of(back) == 6


@pytest.mark.parametrize("value", [0, 9, 65535, -1, "six", (6, 1), None, float("nan"), 6.5])
def test_orientations_that_are_none(value: object) -> None:
    image = Image.new("RGB", (8, 8))
    image.getexif()[ORIENTATION] = value
    assert exif.orientation_of(image) == (6 if value == (6, 1) else 1)
    assert there_and_back(image, stages=1).exact is False


def test_what_a_program_changes_is_kept() -> None:
    image = Image.open(CASES / "exif-resolution-0-0.jpg")
    image.getexif()[ExifTags.Base.Artist] = "Somebody"
    back = there_and_back(image, stages=1).image
    assert back.getexif()[ExifTags.Base.Artist] == "Somebody"
    deep = Image.new("RGB", (8, 8))
    deep.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 400
    back = there_and_back(deep, stages=1).image
    asked = back.getexif().get_ifd(ExifTags.IFD.Exif)
    assert asked[ExifTags.Base.ISOSpeedRatings] == 400


def test_a_program_that_turns_a_picture_keeps_the_rest_of_the_block() -> None:
    image = Image.open(CASES / "exif-resolution-0-0.jpg")
    raw = image.info["exif"]
    image.getexif()[ORIENTATION] = 8
    back = there_and_back(image, stages=1).image
    assert back.getexif()[ORIENTATION] == 8
    assert len(back.info["exif"]) >= len(raw)  # with its thumbnail


def test_asking_changes_nothing_of_a_program_s_exif() -> None:
    image = Image.open(CASES / "exif-resolution-0-0.jpg")
    before = image.getexif().tobytes()
    exif.block_of(image)
    assert image.getexif().tobytes() == before


def blocks() -> Iterator[bytes]:
    yield b""
    for order, start in (("<", b"II*\0"), (">", b"MM\0*")):
        make = struct.Struct(order + "I").pack
        entry = struct.pack(order + "HHIHH", 0x10F, 2, 3, 0x4142, 0)
        yield start + make(8) + struct.pack(order + "H", 0) + make(0)
        yield start + make(9) + b"x" + struct.pack(order + "H", 1) + entry + make(0)
        yield start + make(8) + struct.pack(order + "H", 1) + entry  # no next directory
        turned = struct.pack(order + "HHIHH", ORIENTATION, 3, 1, 3, 0)
        yield start + make(8) + struct.pack(order + "H", 2) + entry + turned + make(0)


@pytest.mark.parametrize("block", list(blocks()), ids=lambda block: block.hex())
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_put_into_blocks(block: bytes, orientation: int) -> None:
    changed = exif.with_orientation(block, orientation)
    assert exif.read_orientation(changed) == orientation
    parsed = Image.Exif()
    parsed.load(b"Exif\0\0" + changed)
    assert parsed[ORIENTATION] == orientation
    if 0x10F.to_bytes(2, "little") in block or 0x10F.to_bytes(2, "big") in block:
        assert parsed[0x10F] in ("AB", "BA")
    assert exif.with_orientation(changed, orientation) == changed


@pytest.mark.parametrize("block", [b"garbage!!!!!!!!", b"II*\0\xff\xff\xff\xff", b"MM\0*"])
def test_blocks_that_are_none_are_replaced(block: bytes) -> None:
    assert exif.read_orientation(block) == 1
    assert exif.read_orientation(exif.with_orientation(block, 5)) == 5


def test_opening_parses_no_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.open(CASES / "orientation-float.jpg"), stages=1)

    def fail(*_: object) -> None:
        raise AssertionError("EXIF was parsed")

    monkeypatch.setattr(Image.Exif, "load", fail)
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.info["exif"].startswith(b"Exif\0\0")
    assert compressai_uqdm.decode(data).image.size == image.size
