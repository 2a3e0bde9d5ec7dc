"""What is kept bit by bit, and what is refused: depth, palette indices, EXIF blocks."""

import io
import struct
import warnings
import zlib

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, features

import compressai_uqdm

from compressai_uqdm.files import exif
from compressai_uqdm.files.decoding import Picture, decode
from compressai_uqdm.files.encoding import encode
from compressai_uqdm.files.pictures import distinct_colours, to_planes

CASES = Path(__file__).parents[1] / "data/cases"
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


def deep_png(bits: int = 16) -> bytes:
    """A PNG in RGB, 2 x 2."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    header = struct.pack(">IIBBBBB", 2, 2, bits, 2, 0, 0, 0)
    rows = zlib.compress(bytes(2 * (1 + 6 * bits // 8)))
    for kind, data in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        parts += [struct.pack(">I", len(data)), kind, data, crc]
    return b"".join(parts)


def in_icons(kind: str, png: bytes) -> Image.Image:
    if kind == "ICO":
        entry = struct.pack("<BBBBHHII", 2, 2, 0, 0, 1, 32, len(png), 22)
        return Image.open(io.BytesIO(struct.pack("<HHH", 0, 1, 1) + entry + png))
    data = b"icp6" + struct.pack(">I", 8 + len(png)) + png
    return Image.open(io.BytesIO(b"icns" + struct.pack(">I", 8 + len(data)) + data))


def deep_tiff(*reds: int) -> Image.Image:
    """With a palette of 16 bits a colour, as all of TIFF's are."""
    image = Image.new("P", (2, 2))
    image.putpalette([17, 0, 0, 34, 0, 0, 51, 0, 0, 68, 0, 0])
    file = io.BytesIO()
    image.save(file, "TIFF")
    before = struct.pack("<4H", *(256 * red for red in (17, 34, 51, 68)))
    assert before in file.getvalue()
    return Image.open(
        io.BytesIO(file.getvalue().replace(before, struct.pack("<4H", *reds)))
    )


DEEP = {
    "PNG": lambda: Image.open(io.BytesIO(deep_png())),
    "PNG in ICO": lambda: in_icons("ICO", deep_png()),
    "PNG in ICNS": lambda: in_icons("ICNS", deep_png()),
    "palette of TIFF": lambda: deep_tiff(257, 512, 300, 0),
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
    for text in (b"P1\n2 1\n1 0\n", b"P4\n2 1\n\x80"):
        assert to_planes(pnm(text)).levels[..., 0].tolist() == [[0, 255]]
    for icon in ("ICO", "ICNS"):
        to_planes(in_icons(icon, deep_png(8)))
    to_planes(deep_tiff(257, 512, 65280, 65535))
    shallow = pnm(b"P6 2 1 15\n\0\1\2\17\16\15")
    assert to_planes(shallow).levels.ravel().tolist() == [0, 17, 34, 255, 238, 221]


def test_depth_of_a_file_that_is_closed(tmp_path: Path) -> None:
    png, icon = tmp_path / "16.png", tmp_path / "16.ico"
    png.write_bytes(deep_png())
    file = in_icons("ICO", deep_png()).fp
    assert file is not None
    file.seek(0)
    icon.write_bytes(file.read())
    for path in (png, icon, CASES / "deep.ppm"):
        image = Image.open(path)
        with pytest.raises(ValueError, match="expected 8 bits per channel"):
            image.save(tmp_path / "x.uqdm")  # Pillow loads it, and closes it
        with pytest.raises(ValueError, match="expected 8 bits per channel"):
            encode(image)
        assert not (tmp_path / "x.uqdm").exists()
        image.convert("RGB").save(tmp_path / "x.uqdm")  # as the message says
        (tmp_path / "x.uqdm").unlink()


def test_a_file_that_is_replaced_by_another_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (3, 3)).save(path)
    image = Image.open(path)
    image.load()
    for data in (deep_png(), b"nothing"):
        path.write_bytes(data)
        to_planes(image)
    path.unlink()
    to_planes(image)


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


def test_opacities_of_a_palette_and_of_the_picture() -> None:
    """Those of the picture override, as in Pillow."""
    for given in (1, b"\0\x80"):
        image = Image.new("P", (3, 1))
        image.putpalette([1, 2, 3, 40, 5, 6, 7, 80, 9, 9, 9, 70], "RGBA")
        image.putdata([0, 1, 2])
        image.info["transparency"] = given
        back = there_and_back(image).image
        assert back.mode == "P" and back.tobytes() == image.tobytes()
        assert back.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


def test_a_transparent_colour_that_no_pixel_has() -> None:
    image = with_palette([1, 2, 3] * 4, [0, 1, 3], transparency=2)
    for stages in (None, 6):
        assert there_and_back(image, stages=stages).image.info["transparency"] == 2


@pytest.mark.parametrize(
    ("mode", "given"),
    [("RGB", b"\0\1\2"), ("RGB", (1, 2)), ("RGB", None), ("L", (1, 2)), ("P", "x")],
)
def test_transparent_colours_that_are_none(mode: str, given: object) -> None:
    image = Image.new(mode, (4, 4))
    image.info["transparency"] = given
    with pytest.raises(ValueError, match="expected a transparent colour of mode"):
        to_planes(image)


def test_icons_whose_palette_pillow_loses() -> None:
    palette = Image.new("P", (64, 64))
    palette.putpalette([9, 8, 7] * 4)
    with pytest.raises(ValueError, match="expected a palette"):
        to_planes(as_file(palette, "ICNS"))


# ---- metadata ----


@pytest.mark.parametrize("name", ["icc_profile", "exif"])
@pytest.mark.parametrize("value", ["text", 5, (1, 2), np.zeros(3)])
def test_metadata_of_another_type_stops_no_picture(name: str, value: object) -> None:
    image = Image.new("RGB", (4, 4))
    image.info[name] = value
    assert name not in there_and_back(image).image.info
    with pytest.raises(ValueError, match=f"{name} must be bytes"):
        image.save(io.BytesIO(), "UQDM", **{name: value})


def test_a_profile_in_a_tiff_may_be_text() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[34675], tags.tagtype[34675] = "a profile", 2  # type: ignore[assignment]
    image = as_file(Image.new("RGB", (4, 4)), "TIFF", tiffinfo=tags)
    assert isinstance(image.info["icc_profile"], str)
    assert there_and_back(image).exact


def test_exif_that_cannot_be_written() -> None:
    for tag, value in ((274, b"\6"), (282, "x"), (1 << 16, 5)):
        wrong = Image.Exif()
        wrong[tag] = value
        with pytest.raises(ValueError, match="cannot write this EXIF"):
            Image.new("RGB", (4, 4)).save(io.BytesIO(), "UQDM", exif=wrong)


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


@pytest.mark.parametrize("block", [b"garbage!!!!!!!!", b"II*\0\xff\xff\xff\xff", b"MM\0*"])
def test_damaged_blocks_stop_no_program(block: bytes) -> None:
    picture = Image.new("RGB", (8, 8), "teal")
    picture.info["exif"] = block
    image = Image.open(io.BytesIO(encode(picture, stages=1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not image.getexif()
        assert ImageOps.exif_transpose(image).size == (8, 8)
    assert image.info["exif"] == b"Exif\0\0" + block


def test_opening_parses_no_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.open(CASES / "orientation-float.jpg"), stages=1)

    def fail(*_: object) -> None:
        raise AssertionError("EXIF was parsed")

    monkeypatch.setattr(Image.Exif, "load", fail)
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.info["exif"].startswith(b"Exif\0\0")
    assert compressai_uqdm.decode(data).image.size == image.size
