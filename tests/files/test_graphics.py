"""Graphics, which an exact file holds as a lossless WebP stream."""

import dataclasses
import io
import os
import random
import subprocess
import sys
import warnings

from pathlib import Path

import graphics
import numpy as np
import pytest

from PIL import Image, ImageFile

from compressai_uqdm import DamagedFileError, StreamingDecoder, decode, encode
from compressai_uqdm.files import webp
from compressai_uqdm.files.container import pack_header, parse_header
from compressai_uqdm.files.header import Header
from compressai_uqdm.files.model import open_codec
from compressai_uqdm.files.rate import truncate
from compressai_uqdm.files.webp import decode_webp, encode_webp, is_graphic

ROOT = Path(__file__).parents[2]


def header_of(data: bytes) -> tuple[Header, int]:
    found = parse_header(data)
    assert found is not None
    return found


def is_stored(data: bytes) -> bool:
    return header_of(data)[0].storage == "WebP"


def page(mode: str = "RGB", size: tuple[int, int] = (97, 60)) -> Image.Image:
    """A crop of a page of text."""
    image = graphics.text_page().crop((20, 10, 20 + size[0], 10 + size[1]))
    if mode == "P":
        return image.quantize(6)
    image = image.convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").resize(size))
    return image


@pytest.fixture(scope="module")
def stored() -> bytes:
    data = encode(page())
    assert is_stored(data)
    return data


# ---- sizes ----


@pytest.mark.parametrize("name", graphics.PICTURES)
def test_bytes_beside_lossless_webp(name: str) -> None:
    image = graphics.PICTURES[name]()
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=True, quality=100, method=6)
    data = encode(image)
    assert is_stored(data) and len(data) <= 1.05 * len(file.getvalue())
    picture = decode(data)
    assert picture.exact and picture.image.tobytes() == image.tobytes()


def test_photographs_are_not_tried(photograph: Image.Image) -> None:
    for image in (photograph, photograph.convert("L").convert("RGB")):
        assert not is_graphic(np.asarray(image))
    assert not is_stored(encode(photograph.crop((0, 0, 64, 48))))


def test_a_graphic_that_the_model_codes_as_well_keeps_its_stages(
    photograph: Image.Image,
) -> None:
    """Half of it flat, so it is tried; the other half a photograph."""
    photo = np.asarray(photograph.crop((40, 60, 168, 156)))
    levels = np.concatenate([np.full((100, 128, 3), 77, np.uint8), photo])
    assert is_graphic(levels)
    data = encode(Image.fromarray(levels))
    assert not is_stored(data)
    assert np.array_equal(np.asarray(decode(data).image), levels)


@pytest.mark.parametrize(
    "limit",
    [
        {"stages": 6},
        {"stages": 1},
        {"min_psnr": 30},
        {"max_bytes": 900},
        {"bpp": 100},
        {"model": "uqdm-nano-ctx"},
    ],
    ids=str,
)
def test_limits_and_other_models_keep_the_stages(limit: dict[str, object]) -> None:
    data = encode(page(), **limit)  # type: ignore[arg-type]
    assert not is_stored(data) and decode(data).image.size == (97, 60)


# ---- kinds of pictures ----


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA"])
def test_modes(mode: str) -> None:
    image = page(mode)
    data = encode(image)
    assert is_stored(data)
    picture = decode(data)
    assert picture.exact and picture.stages == 1 and picture.image.mode == mode
    assert picture.image.tobytes() == image.tobytes()
    file = io.BytesIO()
    image.save(file, "UQDM")
    assert file.getvalue() == data
    with Image.open(file) as opened:
        assert opened.mode == mode and opened.size == image.size  # before it is decoded
        assert opened.tobytes() == image.tobytes()


def test_colours_that_cannot_be_seen() -> None:
    image = page().convert("RGBA")
    image.putalpha(0)
    data = encode(image)
    assert is_stored(data) and decode(data).image.tobytes() == image.tobytes()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (16, 16), (7, 9)], ids=str)
def test_sizes(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (1, 2, 3))
    assert decode(encode(image)).image.tobytes() == image.tobytes()


def test_pictures_too_wide_for_webp() -> None:
    image = Image.new("RGB", (16390, 2), (1, 2, 3))
    data = encode(image)
    assert not is_stored(data) and decode(data).image.tobytes() == image.tobytes()


def test_profile_exif_and_orientation_are_kept() -> None:
    image = page()
    image.info["icc_profile"] = b"a profile"
    image.getexif()[274] = 6
    back = decode(encode(image)).image
    assert back.info["icc_profile"] == b"a profile" and back.getexif()[274] == 6


# ---- parts of a file, and damage ----


def test_as_bytes_arrive(stored: bytes) -> None:
    _, start = header_of(stored)
    shares: list[float] = []
    decoder = StreamingDecoder(progress=shares.append)
    for i in range(len(stored)):
        assert decoder.feed(stored[i : i + 1]) == int(i + 1 == len(stored))
        if i + 1 >= start and i % 50 == 0 and i + 1 < len(stored):
            early = decoder.picture()
            assert early.stages == 0 and not early.exact
            assert early.image.getcolors() == [(97 * 60, (128, 128, 128))]
    assert decoder.exact and decoder.picture().image.tobytes() == page().tobytes()
    assert shares[-1] == 1 and decoder.net is None
    assert decoder.copy().picture().image.tobytes() == page().tobytes()


def test_cut_and_lengthened(stored: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = decode(stored[:-1])
    assert not cut.exact and cut.stages == 0 and 0.9 < cut.share < 1
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(stored[:-1])).load()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert Image.open(io.BytesIO(stored[:-1])).convert("L").getextrema() == (128, 128)
    with pytest.raises(DamagedFileError, match="goes on for 3 bytes"):
        decode(stored + b"abc")
    assert decode(stored + b"abc", partial=True).image.tobytes() == page().tobytes()
    assert truncate(stored, stages=1) == stored
    with pytest.raises(ValueError, match="encode the picture again, with this limit"):
        truncate(stored, max_bytes=len(stored) - 1)


def test_damage_is_found(stored: bytes) -> None:
    _, start = header_of(stored)
    rng = random.Random(0)
    for _ in range(300):
        damaged = bytearray(stored)
        for _ in range(rng.choice((1, 1, 2, 9))):
            damaged[rng.randrange(start, len(stored))] ^= 1 << rng.randrange(8)
        if damaged == stored:
            continue
        with pytest.raises(DamagedFileError, match="stored WebP stream is damaged"):
            decode(bytes(damaged))
        with pytest.raises(OSError, match="stored WebP stream is damaged"):
            Image.open(io.BytesIO(bytes(damaged))).load()


def test_headers_that_contradict_the_stream(stored: bytes) -> None:
    header, start = header_of(stored)
    for change in (
        {"size": (97, 61)},
        {"size": (9000, 9000)},
        {"webp_alpha": True},
        {"colour": "L"},  # whose picture is gray, and its text is
        {"lengths": (0,)},
        {"lengths": (3,)},
    ):
        forged = pack_header(dataclasses.replace(header, **change)) + stored[start:]  # type: ignore[arg-type]
        if change.get("colour") == "L":
            assert decode(forged).image.mode == "L"
            continue
        with pytest.raises(DamagedFileError):
            decode(forged)


def test_streams_that_are_none() -> None:
    string = encode_webp(np.zeros((4, 4, 3), np.uint8))
    assert string is not None
    assert decode_webp(string, (4, 4), False)[0].shape == (4, 4, 3)
    for other in (b"", b"abc", b"\x2f" * 9, string[:-1], string[1:]):
        with pytest.raises(DamagedFileError):
            decode_webp(other, (4, 4), False)


# ---- the command ----


def test_the_command_says_so(stored: bytes, tmp_path: Path) -> None:
    page().save(tmp_path / "page.png")

    def uqdm(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "compressai_uqdm", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    said = uqdm("encode", "page.png", "page.uqdm")
    assert "stored as lossless WebP, exact" in said
    assert (tmp_path / "page.uqdm").read_bytes() == stored
    assert "lossless WebP" in uqdm("info", "page.uqdm")
    assert "exact" in uqdm("verify", "page.uqdm")
    assert uqdm("decode", "page.uqdm", "back.png", "--progressive", "stages") == ""
    assert Image.open(tmp_path / "back.png").tobytes() == page().tobytes()
    assert [path.name for path in (tmp_path / "stages").iterdir()] == ["page.stage1.png"]


def test_the_default_model_is_the_one_of_graphics() -> None:
    assert is_stored(encode(page(), open_codec("uqdm-photo")))


def test_pillow_s_limit_of_pixels(stored: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings of large pictures may be errors, and are none of damage."""
    n_pixels = 97 * 60
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", n_pixels // 2 + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(stored).exact
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with pytest.raises(ValueError, match="MAX_IMAGE_PIXELS") as raised:
        decode(stored)
        pytest.skip("this Pillow has no limit there")
    assert not isinstance(raised.value, DamagedFileError)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(webp, "MOST_PIXELS", n_pixels - 1)  # what all can decode
    assert not is_stored(encode(page()))
