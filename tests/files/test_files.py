"""Pictures in files: there and back, cut anywhere, on any machine, and what is refused."""

import dataclasses
import io
import os
import subprocess
import sys

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from PIL import Image

import compressai_uqdm

from compressai_uqdm import (
    DamagedFileError,
    DamagedStringError,
    NotYetError,
    StreamingDecoder,
)
from compressai_uqdm.atomic import write_atomically
from compressai_uqdm.families.uqdm import latent
from compressai_uqdm.files.container import pack_header, parse_header
from compressai_uqdm.files.decoding import Picture, decode
from compressai_uqdm.files.encoding import QualityWarning, encode
from compressai_uqdm.files.model import Codec, open_codec

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def codec() -> Codec:
    return open_codec("uqdm-nano-ctx")


@pytest.fixture(scope="module")
def image(photograph: Image.Image) -> Image.Image:
    return photograph.crop((100, 100, 124, 120))


@pytest.fixture(scope="module")
def data(image: Image.Image, codec: Codec) -> bytes:
    return encode(image, codec)


def psnr(image: Image.Image, other: Image.Image) -> float:
    difference = np.subtract(*(np.array(i.convert("RGB"), float) for i in (image, other)))
    mse = float((difference**2).mean())
    return 10 * float(np.log10(255**2 / mse)) if mse else float("inf")


def starts(data: bytes) -> list[int]:
    """Where the header ends, and every stage."""
    found = parse_header(data)
    assert found is not None
    header, start = found
    return [start + sum(header.lengths[:stage]) for stage in range(len(header.lengths) + 1)]


# ---- there and back ----


@pytest.mark.parametrize("path", sorted(DATA.glob("*.uqdm")), ids=lambda path: path.stem)
def test_files_of_earlier_versions(path: Path, request: pytest.FixtureRequest) -> None:
    """Kept in tests/data with their pictures; never to be made anew."""
    if not {"nano", "photo"} & set(path.stem.split("-")):  # of uqdm-tiny
        request.getfixturevalue("zoo")
    picture = compressai_uqdm.load(path)
    expected = Image.open(path.with_suffix(".png"))
    assert picture.image.size == expected.size and not picture.damage
    assert picture.image.getexif().get(274) == expected.getexif().get(274)
    assert picture.image.info.get("icc_profile") == expected.info.get("icc_profile")
    if picture.exact:
        assert picture.image.mode == expected.mode
        assert psnr(picture.image, expected) == float("inf")
    else:  # a level may be rounded otherwise elsewhere; no integer of the stream may
        assert psnr(picture.image, expected) > 60


def test_there_are_files_of_earlier_versions() -> None:
    assert len(list(DATA.glob("*.uqdm"))) >= 4


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
@pytest.mark.parametrize("size", [(1, 1), (3, 70), (65, 9)], ids=str)
def test_modes_and_sizes(
    codec: Codec, photograph: Image.Image, mode: str, size: tuple[int, int]
) -> None:
    image = photograph.crop((200, 120, 200 + size[0], 120 + size[1]))
    image = image.quantize(7) if mode == "P" else image.convert(mode)
    picture = decode(encode(image, codec), model=codec)
    assert picture.exact and picture.stages == 4 and not picture.damage
    assert picture.image.mode == mode and picture.image.size == size
    assert picture.image.convert("RGB").tobytes() == image.convert("RGB").tobytes()


@pytest.mark.slow
def test_several_windows(codec: Codec, photograph: Image.Image) -> None:
    image = photograph.crop((200, 120, 265, 184))
    picture = decode(encode(image, codec), model=codec)
    assert picture.image.tobytes() == image.tobytes()


def test_indexes_beyond_a_palette(codec: Codec) -> None:
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    picture = decode(encode(image, codec), model=codec)
    assert picture.image.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    assert picture.image.convert("RGB").getpixel((3, 2)) == (0, 0, 0)


def as_file(image: Image.Image, kind: str = "PNG", **options: object) -> Image.Image:
    """As it is when opened from a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def test_profile_and_orientation_are_kept(codec: Codec, image: Image.Image) -> None:
    exif = Image.Exif()
    exif[274] = 6
    original = as_file(image, icc_profile=bytes(range(256)) * 9, exif=exif)
    for stage in (1, 4):
        decoded = decode(encode(original, codec, stages=stage), model=codec).image
        assert decoded.info["icc_profile"] == bytes(range(256)) * 9
        assert decoded.getexif()[274] == 6 and decoded.size == original.size


def test_save_and_load(tmp_path: Path, image: Image.Image) -> None:
    path = tmp_path / "a.uqdm"
    compressai_uqdm.save(image, path, stages=2)
    picture = compressai_uqdm.load(path)
    assert isinstance(picture, compressai_uqdm.Picture)
    assert (picture.stages, picture.exact, picture.share) == (2, False, 0)
    assert os.listdir(tmp_path) == ["a.uqdm"]


def test_size_over_the_strings(data: bytes, image: Image.Image, codec: Codec) -> None:
    """At most 64 bytes more than the model's own strings."""
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    codec.net.quality = 4
    strings = codec.net.compress(x)["strings"]
    assert len(data) - sum(len(stage[0]) for stage in strings) <= 64


def png16(channels: int) -> Image.Image:
    """A PNG with 16 bits per channel, which Pillow cannot write in colour."""
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + crc

    header = struct.pack(">IIBBBBB", 2, 2, 16, 0 if channels == 1 else 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(4 * channels)) * 2)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows)
    return Image.open(io.BytesIO(file + chunk(b"IEND", b"")))


# ---- transparency and EXIF ----


def transparent(photograph: Image.Image) -> dict[str, tuple[Image.Image, str]]:
    """Pictures, each with the mode in which it comes back."""
    rgb = photograph.crop((200, 120, 223, 137))
    shape = Image.radial_gradient("L").resize(rgb.size)
    whole = Image.new("L", rgb.size, 255)
    gray, palette = rgb.convert("L"), rgb.quantize(9)
    rgba, opaque, la, opaque_la = rgb.copy(), rgb.copy(), gray.copy(), gray.copy()
    for image, alpha in ((rgba, shape), (opaque, whole), (la, shape), (opaque_la, whole)):
        image.putalpha(alpha)
    hidden = Image.new("RGBA", rgb.size, (9, 8, 7, 0))
    some = bytes([0, 100, *[255] * 7])
    return {
        "RGBA": (rgba, "RGBA"),
        "colours that cannot be seen": (hidden, "RGBA"),
        "LA": (la, "LA"),
        "opaque RGBA": (opaque, "RGB"),
        "opaque LA": (opaque_la, "L"),
        "tRNS RGB": (as_file(rgb, transparency=rgb.getpixel((3, 3))), "RGBA"),
        "tRNS L": (as_file(gray, transparency=gray.getpixel((3, 3))), "LA"),
        "tRNS 1": (as_file(gray.convert("1"), transparency=0), "LA"),
        "tRNS P": (as_file(palette, transparency=some), "P"),
        "opaque tRNS P": (as_file(palette, transparency=bytes([255] * 9)), "P"),
        "GIF": (as_file(palette, "GIF", transparency=2), "P"),
    }


@pytest.mark.parametrize("name", transparent(Image.new("RGB", (320, 240))))
def test_alpha_channels(codec: Codec, photograph: Image.Image, name: str) -> None:
    """Every pixel comes back with its colour and how much it covers, at every stage."""
    image, mode = transparent(photograph)[name]
    data = encode(image, codec)
    exact = decode(data, model=codec).image
    assert exact.mode == mode
    assert exact.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()
    first = decode(data, model=codec, stages=1).image
    assert first.has_transparency_data == exact.has_transparency_data
    alphas = [i.convert("RGBA").getchannel("A").tobytes() for i in (first, image)]
    assert alphas[0] == alphas[1]
    if "opaque" in name:
        header = parse_header(data)
        assert header is not None and header[0].alpha == b""


@pytest.mark.parametrize("alpha", ["none", "another size", "RGB", "cut"])
def test_alpha_channels_that_are_damaged(codec: Codec, data: bytes, alpha: str) -> None:
    """A header that was made to deceive, with the right checksum."""
    file = io.BytesIO()
    mode, size = "RGB" if alpha == "RGB" else "L", (24, 20)
    Image.new(mode, (9999, 9999) if alpha == "another size" else size).save(file, "PNG")
    png = {"none": b"GIF89a", "cut": file.getvalue()[:50]}.get(alpha, file.getvalue())
    header, start = parse_header(data)  # type: ignore[misc]
    forged = pack_header(dataclasses.replace(header, alpha=png)) + data[start:]
    with pytest.raises(DamagedFileError, match="alpha channel is not that of the pict"):
        decode(forged, model=codec)


def camera(image: Image.Image) -> Image.Image:
    """As a camera writes it."""
    exif = Image.Exif()
    exif.update({271: "Maker", 274: 6})
    exif.get_ifd(0x8769)[0x829A] = 0.004
    exif.get_ifd(0x8825)[1] = "N"
    return as_file(image, "JPEG", exif=exif, quality=95)


def test_exif_is_kept(codec: Codec, image: Image.Image) -> None:
    original = camera(image)
    for stage in (1, 4):
        decoded = decode(encode(original, codec, stages=stage), model=codec).image
        assert decoded.info["exif"] == original.info["exif"]
        again = as_file(decoded, exif=decoded.info["exif"])
        assert again.getexif().get_ifd(0x8769) == {0x829A: 0.004}
        assert again.getexif()[274] == 6 and again.getexif()[271] == "Maker"
    # what a program changes in memory counts
    original.getexif()[274] = 1
    decoded = decode(encode(original, codec, stages=1), model=codec).image
    assert decoded.getexif()[274] == 1 and decoded.getexif()[271] == "Maker"
    header, start = parse_header(encode(image, codec, stages=1))  # type: ignore[misc]
    assert not header.exif


@pytest.mark.parametrize("block", [b"nothing of the kind", b"MM\0*\0\0", b"II*\0"])
def test_exif_that_cannot_be_read_is_kept(
    codec: Codec, image: Image.Image, block: bytes
) -> None:
    broken = as_file(image, "PNG", exif=b"Exif\0\0" + block)
    picture = decode(encode(broken, codec), model=codec).image
    assert picture.tobytes() == image.tobytes()
    assert picture.info["exif"] == b"Exif\0\0" + block


def test_headers_have_a_limit(codec: Codec) -> None:
    image = Image.new("RGB", (1, 1))
    image.info["icc_profile"] = bytes(1 << 25)
    with pytest.raises(ValueError, match="has 33554432 bytes, .*ICC profile.* remove it"):
        encode(image, codec)
    with pytest.raises(ValueError, match="ICC profile of 33554432 bytes, .* remove it"):
        encode(image, codec, max_metadata=1 << 30)


# ---- refused pictures ----


def refused() -> dict[str, tuple[Image.Image, str]]:
    rgb = Image.new("RGB", (4, 4))
    frames = {"save_all": True, "append_images": [Image.new("RGB", (4, 4), "red")]}
    return {
        "16-bit gray": (png16(1), "8 bits per channel"),
        "16-bit RGB": (png16(3), "8 bits per channel"),
        "I": (Image.new("I", (4, 4)), "8 bits per channel"),
        "F": (Image.new("F", (4, 4)), "8 bits per channel"),
        "CMYK": (rgb.convert("CMYK"), "got mode CMYK"),
        "YCbCr": (rgb.convert("YCbCr"), "got mode YCbCr"),
        "animation": (as_file(rgb, "GIF", **frames), "2 frames"),
        "animated PNG": (as_file(rgb, **frames), "2 frames"),
        "empty": (Image.new("RGB", (0, 4)), "0 x 4 pixels"),
    }


@pytest.mark.parametrize("name", refused())
def test_refused_pictures(codec: Codec, name: str) -> None:
    image, message = refused()[name]
    with pytest.raises(ValueError, match=message):
        encode(image, codec)


# ---- limits ----


def test_limits(codec: Codec, image: Image.Image, data: bytes) -> None:
    ends = starts(data)
    for limit in (ends[0], ends[0] + 7, ends[2] - 2, ends[4] + 1, 10**6):
        cut = encode(image, codec, max_bytes=limit)
        assert len(cut) <= limit
        # the header tells of the stages that were encoded; what follows is the same
        start = starts(cut)[0]
        assert data[ends[0] :].startswith(cut[start:])
        assert len(cut) in (limit, len(data))
    bpp = 5.0
    assert len(encode(image, codec, bpp=bpp)) == int(bpp * 24 * 20 / 8)
    two = encode(image, codec, stages=2)
    assert decode(two, model=codec).stages == 2
    assert decode(two, model=codec).image.tobytes() == (
        decode(data, model=codec, stages=2).image.tobytes()
    )
    for bad, message in (
        ({"max_bytes": 20}, "the file's header alone"),
        ({"stages": 5}, r"1\.\.4"),
        ({"stages": 0}, r"1\.\.4"),
        ({"seed": -1}, "seed"),
        ({"bpp": float("nan")}, "bits per pixel"),
        ({"min_psnr": float("nan")}, "min_psnr"),
    ):
        with pytest.raises(ValueError, match=message):
            encode(image, codec, **bad)  # type: ignore[arg-type]


def test_files_made_to_a_limit_say_so(
    codec: Codec, image: Image.Image, data: bytes
) -> None:
    """And no others do: those are what they were before files could say it."""
    header, start = parse_header(data)  # type: ignore[misc]
    assert header.limited_to is None
    assert encode(image, codec, max_bytes=len(data)) == data
    coarse, _ = parse_header(encode(image, codec, stages=1))  # type: ignore[misc]
    assert coarse.limited_to is None

    least = len(pack_header(dataclasses.replace(coarse, limited_to=0)))
    limits = {*range(least, least + 3), *range(least + 125, least + 132)}
    for end in starts(data)[1:]:
        limits |= {end - 1, end, end + 1}
    for limit in sorted(limits - {len(data), len(data) + 1}):
        limited = encode(image, codec, max_bytes=limit)
        header, start = parse_header(limited)  # type: ignore[misc]
        assert limit - 1 <= len(limited) <= limit
        assert header.limited_to == header.payload_bytes == len(limited) - start
        # a reader that does not know of it sees the same picture
        before = pack_header(dataclasses.replace(header, limited_to=None))
        _same(
            decode(limited, model=codec),
            decode(before + limited[start:], model=codec),
        )
    with pytest.raises(ValueError, match=f"header alone has {least}"):
        encode(image, codec, max_bytes=least - 1)


def test_a_few_bytes_less_would_take_more(codec: Codec, image: Image.Image) -> None:
    """A stage's last bytes bring no quality, but fewer than it takes to say so."""
    for stages in (1, 2):
        whole = encode(image, codec, stages=stages)
        reached = psnr(decode(whole, model=codec).image, image) - 1e-3
        for limits in ({}, {"max_bytes": len(whole)}):
            assert encode(image, codec, min_psnr=reached, **limits) == whole


@pytest.mark.parametrize("wanted", [18.0, 25.0, 40.0, 90.0])
def test_wanted_quality(
    codec: Codec, image: Image.Image, data: bytes, wanted: float
) -> None:
    """It is reached, and not by much more than the bytes that it takes."""
    file = encode(image, codec, min_psnr=wanted)
    picture = decode(file, model=codec)
    assert psnr(picture.image, image) >= wanted
    ends = starts(file)
    step = max((b - a) // 16 + 8 for a, b in zip(ends, ends[1:]))
    shorter = file[: max(len(file) - step, ends[0])]
    assert psnr(decode(shorter, model=codec).image, image) < wanted
    with pytest.warns(QualityWarning, match=f"dB of the {wanted:g} wanted"):
        both = encode(image, codec, min_psnr=wanted, max_bytes=len(file) - 10)
    assert len(both) == len(file) - 10


# ---- any beginning ----


def test_any_beginning_decodes(codec: Codec, image: Image.Image, data: bytes) -> None:
    ends = starts(data)
    best, stages = 0.0, 0
    for n in [*range(ends[0], len(data), 40), len(data)]:
        picture = decode(data[:n], model=codec)
        quality = psnr(picture.image, image)
        assert picture.stages == sum(end <= n for end in ends[1:]) >= stages
        assert picture.exact == (n == len(data)) and 0 <= picture.share < 1
        assert picture.image.size == image.size and not picture.damage
        assert quality > best - 1.0, f"{n} bytes: {quality:.2f} dB after {best:.2f}"
        best, stages = max(best, quality), picture.stages
    for n in range(0, ends[0], 5):
        with pytest.raises(DamagedFileError, match=f"inside its header, after {n} bytes"):
            decode(data[:n], model=codec)


def test_a_cut_stage_is_better_than_none(codec: Codec, photograph: Image.Image) -> None:
    """Half of a stage's bytes bring a good part of what the stage brings."""
    image = photograph.crop((200, 160, 248, 208))
    data = encode(image, codec)
    ends = starts(data)
    for stage in (2, 3):
        before, between, after = (
            psnr(decode(data[:n], model=codec).image, image)
            for n in (ends[stage - 1], sum(ends[stage - 1 : stage + 1]) // 2, ends[stage])
        )
        assert between > before + 0.25 * (after - before)


@pytest.mark.parametrize("model", ["uqdm-nano-ctx", "uqdm-photo"])
def test_copies_of_a_decoder_go_on_apart(image: Image.Image, model: str) -> None:
    codec = open_codec(model)
    data = encode(image, codec)
    header, first, second, *_ = starts(data)
    early = StreamingDecoder(codec).copy()  # before anything has come
    decoder = StreamingDecoder(codec)
    decoder.feed(data[: first + 9])
    one, other = decoder.copy(), decoder.copy()
    assert one.feed(data[first + 9 :]) == codec.net.n_stages
    assert other.feed(data[first + 9 : second - 1]) == 1
    early.feed(data[: header + 5])
    ends = {one: len(data), other: second - 1, decoder: first + 9, early: header + 5}
    for each, end in ends.items():
        assert each.picture().image.tobytes() == decode(data[:end]).image.tobytes()
    assert one.picture().exact


def test_byte_by_byte_as_at_once(codec: Codec, data: bytes) -> None:
    decoder = StreamingDecoder(codec)
    ends = starts(data)
    for n in range(len(data)):
        assert decoder.feed(data[n : n + 1]) == sum(end <= n + 1 for end in ends[1:])
        if n + 1 in (ends[0], ends[0] + 30, ends[2], ends[3] + 99, len(data)):
            _same(decoder.picture(), decode(data[: n + 1], model=codec))
            _same(
                decoder.picture("flow_based"),
                decode(data[: n + 1], model=codec, reconstruction="flow_based"),
            )


def test_no_picture_before_the_header(codec: Codec, data: bytes) -> None:
    """That is no damage, and no obstacle to what comes next."""
    decoder = StreamingDecoder(codec)
    for n in range(starts(data)[0]):
        assert decoder.feed(data[:0] if n == 0 else data[n - 1 : n]) == 0
        with pytest.raises(NotYetError, match=f"not whole after {n} bytes"):
            decoder.picture()
        assert decoder.header is None
    assert decoder.feed(data[n:]) == 4
    assert decoder.picture().exact


def test_what_feed_refused_has_no_picture(codec: Codec, data: bytes) -> None:
    """Not even one to come: the error is the same again."""
    for decoder, bad, kind, message in (
        (StreamingDecoder(codec), b"GIF89a", DamagedFileError, "not a .uqdm file"),
        (StreamingDecoder(codec, max_pixels=479), data, ValueError, "limit of 479"),
        (StreamingDecoder("no.pt"), data, FileNotFoundError, r"no model 'no\.pt'"),
    ):
        for call in (lambda: decoder.feed(bad), decoder.picture, decoder.picture):  # noqa: B023
            with pytest.raises(kind, match=message):
                call()


def test_whole_stages_are_decoded_once(
    codec: Codec, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that asks at every new stage takes a pass more for each, at the most."""
    passes = 0
    predict = latent.predict

    def counted(*arguments: Any) -> Any:
        nonlocal passes
        passes += 1
        return predict(*arguments)

    monkeypatch.setattr(latent, "predict", counted)
    assert decode(data, model=codec).exact
    at_once = passes
    assert at_once == 3
    # a picture of the third stage, before the pixels, takes one that they do not
    for cuts, more in ((starts(data), 1), (range(16, len(data), 16), 5)):
        passes = 0
        decoder, shown = StreamingDecoder(codec), []
        for start, end in zip([0, *cuts], [*cuts, len(data)]):
            if decoder.feed(data[start:end]) > len(shown):
                shown.append(decoder.picture())
        assert [picture.stages for picture in shown] == [1, 2, 3, 4]
        assert passes <= at_once + more


def _same(a: Picture, b: Picture) -> None:
    assert a.image.tobytes() == b.image.tobytes()
    fields = [(p.stages, p.share, p.exact, p.damage) for p in (a, b)]
    assert fields[0] == fields[1]


def test_decoders_take_turns(codec: Codec, photograph: Image.Image) -> None:
    """Of other pictures and arithmetics, with one model between them."""
    images = [photograph.crop((60 * i, 0, 60 * i + 20, 16)) for i in range(3)]
    files = [
        encode(image, codec, seed=i, arithmetic=("float64", "float32", "float64")[i])
        for i, image in enumerate(images)
    ]
    decoders = [StreamingDecoder(codec) for _ in images]
    for n in range(0, max(map(len, files)), 50):
        for decoder, file in zip(decoders, files):
            decoder.feed(file[n : n + 50])
            if n and n % 400 == 0:
                decoder.picture()
    for decoder, image in zip(decoders, images):
        assert decoder.picture().image.tobytes() == image.tobytes()


# ---- damage and other models ----


def test_damage(codec: Codec, data: bytes) -> None:
    for stage, place in enumerate(starts(data)[:-1], 1):
        damaged = bytearray(data)
        damaged[place + 9] ^= 1
        with pytest.raises(DamagedStringError, match=f"stage {stage} is damaged"):
            decode(bytes(damaged), model=codec)
        picture = decode(bytes(damaged), model=codec, partial=True)
        assert picture.stages == stage - 1 and f"stage {stage}" in picture.damage
        assert not picture.exact
        if stage > 1:
            expected = decode(data, model=codec, stages=stage - 1).image
            assert picture.image.tobytes() == expected.tobytes()
    with pytest.raises(DamagedFileError, match="goes on for 3 bytes after its end"):
        decode(data + b"abc", model=codec)
    assert decode(data + b"abc", model=codec, partial=True).exact


def test_a_damaged_decoder_stays_so(codec: Codec, data: bytes) -> None:
    decoder = StreamingDecoder(codec)
    ends = starts(data)
    decoder.feed(data[: ends[2]])
    with pytest.raises(DamagedStringError):
        decoder.feed(bytes(len(data)))
    with pytest.raises(DamagedStringError):
        decoder.feed(data[ends[2] :])
    assert decoder.picture().stages == 2


def test_colours_that_the_header_denies(codec: Codec, data: bytes) -> None:
    header, start = parse_header(data)  # type: ignore[misc]
    for change in ({"colour": "L"}, {"colour": "1"}, {"colour": "P", "palette": b"abc"}):
        forged = pack_header(dataclasses.replace(header, **change)) + data[start:]  # type: ignore[arg-type]
        with pytest.raises(DamagedFileError, match="palette|grays|colours"):
            decode(forged, model=codec)


def test_other_weights_and_models(codec: Codec, data: bytes, tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError, match="other weights or tables of uqdm-nano-ctx"):
        decode(data, model=open_codec("uqdm-nano"))
    with pytest.raises(DamagedFileError, match="other weights"):
        decode(data, model=open_codec("uqdm-nano"), partial=True)
    header, start = parse_header(data)  # type: ignore[misc]
    for name in ("mine", "vdm-tiny", "/etc/passwd"):
        other = pack_header(dataclasses.replace(header, model=name)) + data[start:]
        with pytest.raises(FileNotFoundError, match="not in the zoo: give its checkpoint"):
            decode(other)
    path = tmp_path / "mine"
    torch.save(codec.net.state_dict(), path)
    assert decode(data, model=str(path)).exact
    with pytest.raises(FileNotFoundError, match="no model 'nothing': expected"):
        encode(Image.new("RGB", (4, 4)), "nothing")


def test_pixels_are_counted_before_memory_is_taken(codec: Codec, data: bytes) -> None:
    """10^20 pixels would be refused by the machine, if anything asked for them."""
    header, start = parse_header(data)  # type: ignore[misc]
    huge = pack_header(dataclasses.replace(header, size=(10**10, 10**10))) + data[start:]
    with pytest.raises(ValueError, match="raise the limit"):
        decode(huge, model=codec)
    with pytest.raises(ValueError, match="24 x 20 pixels, more than the limit of 479"):
        decode(data, model=codec, max_pixels=479)


@pytest.mark.slow
def test_some_of_the_damaged_files(photograph: Image.Image) -> None:
    """All of them: eval/damage.py."""
    import importlib.util

    script = Path(__file__).parents[2] / "eval/damage.py"
    spec = importlib.util.spec_from_file_location("damage", script)
    assert spec and spec.loader
    damage = importlib.util.module_from_spec(spec)
    sys.modules["damage"] = damage
    spec.loader.exec_module(damage)
    found = damage.run(photograph, 250, seed=1)
    allowed = {"refused", "error, stages before it kept", "cut short", "exact", "coarser"}
    assert set(found["outcomes"]) <= allowed, found
    assert found["outcomes"]["error, stages before it kept"] > 20


# ---- on any machine ----

ENCODE = """
import sys
from pathlib import Path
from PIL import Image
from compressai_uqdm import save
for path in map(Path, sys.argv[1:]):
    save(Image.open(path), path.with_suffix(".uqdm"), path.stem.split("_")[0])
"""

OTHERWISE = """
import sys, torch
from PIL import Image
from compressai_uqdm import load
from compressai_uqdm.families.uqdm import windowed
threads, batch, mkldnn, layout = sys.argv[1:5]
torch.set_num_threads(int(threads))
torch.backends.mkldnn.enabled = mkldnn == "oneDNN"
windowed.BATCH["cpu"] = int(batch)
if layout == "contiguous":  # and not channels-last, as networks are computed
    torch.nn.modules.module.register_module_forward_pre_hook(
        lambda layer, inputs: tuple(
            t.contiguous() if isinstance(t, torch.Tensor) else t for t in inputs
        )
    )
for path in sys.argv[5:]:
    picture, original = load(path), Image.open(path.replace(".uqdm", ".png"))
    assert picture.exact and not picture.damage, path
    assert picture.image.mode == original.mode, path
    assert picture.image.convert("RGB").tobytes() == original.convert("RGB").tobytes(), path
"""


@pytest.mark.slow
def test_other_settings(photograph: Image.Image, tmp_path: Path) -> None:
    """Encoded with one thread, decoded with two, other batches, kernels and layouts.

    Of every model in the package, and every kind of picture.
    """
    names = {"uqdm-nano_RGB": 40, "uqdm-photo_RGB": 66, "uqdm-nano-ctx_RGB": 66}
    names |= {f"uqdm-nano-ctx_{mode}": 20 for mode in "L1P"}
    for name, side in names.items():
        image, mode = photograph.crop((100, 100, 100 + side, 130)), name.split("_")[1]
        image = image.quantize(7) if mode == "P" else image.convert(mode)
        image.save(tmp_path / f"{name}.png")
    run(tmp_path, ENCODE, *(f"{name}.png" for name in names), threads="1")
    for settings in (
        ("2", "1", "oneDNN", "channels-last"),
        ("1", "3", "no oneDNN", "channels-last"),
        ("2", "4", "no oneDNN", "contiguous"),
    ):
        files = (f"{name}.uqdm" for name in names)
        run(tmp_path, OTHERWISE, *settings, *files, threads=settings[0])


def run(folder: Path, script: str, *arguments: str, threads: str) -> None:
    subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": threads},
        check=True,
    )


# ---- writing ----


def test_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(KeyboardInterrupt), write_atomically(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    with write_atomically(path) as file:
        file.write(b"all")
        assert not path.exists()
    assert path.read_bytes() == b"all" and path.stat().st_mode & 0o777 == 0o644
    link = tmp_path / "link"
    link.symlink_to(path)
    with write_atomically(link) as file:
        file.write(b"new")
    assert link.is_symlink() and path.read_bytes() == b"new"


def test_devices_are_written_and_not_replaced() -> None:
    with write_atomically(Path("/dev/null")) as file:
        file.write(b"gone")
    assert not Path("/dev/null").is_file()
