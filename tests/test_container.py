"""Headers: there and back, cut anywhere, and what is refused."""

import dataclasses
import struct
import zlib

import pytest

from hypothesis import given, settings
from hypothesis import strategies as st

from compressai_uqdm import DamagedFileError
from compressai_uqdm.container import MAGIC, VERSION, Header, parse_header, truncate
from compressai_uqdm.varint import varint


@st.composite
def headers(draw: st.DrawFn) -> Header:
    colour = draw(st.sampled_from(["RGB", "L", "P", "1"]))
    n_colours = draw(st.integers(1, 256)) if colour == "P" else 0
    names = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=60)
    return Header(
        model=draw(names),
        digest=draw(st.binary(min_size=6, max_size=6)),
        size=(draw(st.integers(1, 10000)), draw(st.integers(1, 10000))),
        seed=draw(st.integers(0, 2**32 - 1)),
        arithmetic=draw(st.sampled_from(["float32", "float64"])),
        overlap=draw(st.integers(0, 32)),
        lengths=tuple(draw(st.lists(st.integers(0, 2**35 - 1), min_size=1, max_size=64))),
        colour=colour,
        palette=bytes(draw(st.binary(min_size=3 * n_colours, max_size=3 * n_colours))),
        orientation=draw(st.integers(1, 8)),
        icc_profile=draw(st.binary(max_size=300)),
    )


HEADER = Header("uqdm-tiny", b"digest", (768, 512), 3, "float64", 16, (9, 100, 20))


@settings(max_examples=100, deadline=None)
@given(header=headers(), rest=st.binary(max_size=20), data=st.data())
def test_there_and_back_and_cut_anywhere(
    header: Header, rest: bytes, data: st.DataObject
) -> None:
    packed = header.pack()
    assert parse_header(packed + rest) == (header, len(packed))
    cut = data.draw(st.integers(0, len(packed) - 1))
    assert parse_header(packed[:cut]) is None


@settings(max_examples=100, deadline=None)
@given(header=headers(), data=st.data())
def test_no_changed_bit_goes_unseen(header: Header, data: st.DataObject) -> None:
    packed = bytearray(header.pack())
    bit = data.draw(st.integers(0, 8 * len(packed) - 1))
    packed[bit // 8] ^= 1 << bit % 8
    try:
        assert parse_header(bytes(packed)) is None  # its length was changed
    except DamagedFileError:
        pass


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=80))
def test_any_body_with_the_right_checksum(body: bytes) -> None:
    """It is refused, or can be written again."""
    try:
        found = parse_header(_with_checksum(body), max_pixels=1 << 70)
    except DamagedFileError:
        return
    assert found is not None
    assert parse_header(found[0].pack(), max_pixels=1 << 70) is not None


def _with_checksum(body: bytes) -> bytes:
    start = MAGIC + bytes([VERSION]) + varint(len(body)) + body
    return start + struct.pack("<I", zlib.crc32(start))


def test_bytes_of_a_header() -> None:
    """What docs/format.md shows; a change makes every file unreadable."""
    header = dataclasses.replace(HEADER, icc_profile=b"", orientation=6)
    assert header.pack()[:-4].hex(" ") == (
        "89 55 51 44 4d 0a 01 1b 09 75 71 64 6d 2d 74 69 6e 79 64 69 67 65 73 74 "
        "80 06 80 04 03 10 29 03 09 64 14"
    )
    assert int.from_bytes(header.pack()[-4:], "little") == zlib.crc32(header.pack()[:-4])


def test_a_header_is_small() -> None:
    """With the empty lists of four stages, at most 64 bytes for 12 million pixels."""
    lengths = (1 << 22, 1 << 23, 1 << 24, 1 << 25, 1 << 22)
    header = Header("uqdm-tiny-ctx", b"digest", (4000, 3000), 0, "float64", 16, lengths)
    assert len(header.pack()) + 4 <= 64


def test_other_versions_and_other_files() -> None:
    packed = bytearray(HEADER.pack())
    packed[len(MAGIC)] = 2
    with pytest.raises(DamagedFileError, match="version 2 .* reads version 1: update"):
        parse_header(bytes(packed))
    with pytest.raises(DamagedFileError, match=r"not a \.uqdm file"):
        parse_header(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DamagedFileError, match="transferred as text"):
        parse_header(HEADER.pack().replace(b"\n", b"\r\n"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (0, 5)}, "0 x 5 pixels"),
        ({"overlap": 33}, "overlap of 33"),
        ({"seed": 1 << 32}, "the seed"),
        ({"lengths": ()}, "0 stages"),
        ({"lengths": (1,) * 65}, "65 stages"),
        ({"colour": "P", "palette": b""}, "palette without colours"),
        ({"colour": "P", "palette": bytes(3 * 257)}, "257 colours"),
        ({"model": "a\nb"}, "cannot be printed"),
    ],
)
def test_absurd_headers(change: dict[str, object], message: str) -> None:
    with pytest.raises(DamagedFileError, match=message):
        parse_header(dataclasses.replace(HEADER, **change).pack())  # type: ignore[arg-type]


def test_a_profile_may_not_grow_beyond_what_it_says() -> None:
    header = dataclasses.replace(HEADER, icc_profile=bytes(1 << 20))
    packed = header.pack()
    assert parse_header(packed) is not None
    inner = packed[packed.index(b"\x09uqdm-tiny") : -4]
    at = inner.index(varint(1 << 20))
    forged = inner[:at] + varint(100) + inner[at + 3 :]
    with pytest.raises(DamagedFileError, match="another length"):
        parse_header(_with_checksum(forged))
    with pytest.raises(DamagedFileError, match="profile of 33554432 bytes"):
        parse_header(_with_checksum(inner[:at] + varint(1 << 25) + inner[at + 3 :]))


def test_too_many_pixels() -> None:
    big = dataclasses.replace(HEADER, size=(1 << 34, 1 << 34)).pack()
    with pytest.raises(ValueError, match=r"limit of 134217728: .*--max-pixels"):
        parse_header(big)


def test_truncate() -> None:
    packed = HEADER.pack()
    data = packed + bytes(129)
    assert truncate(data, stage=1) == data[: len(packed) + 9]
    assert truncate(data, stage=9) == truncate(data) == data
    assert truncate(data, max_bytes=100) == data[:100]
    assert truncate(data, bpp=0.002) == data[: int(0.002 * 768 * 512 / 8)]
    assert truncate(data, stage=2, max_bytes=60) == data[:60]
    with pytest.raises(ValueError, match=f"limit is 20 bytes, .* alone has {len(packed)}"):
        truncate(data, max_bytes=20)
    with pytest.raises(DamagedFileError, match="ends inside its header, after 30 bytes"):
        truncate(data[:30], stage=1)
    for bad in ({"stage": 0}, {"stage": -1}, {"bpp": float("nan")}, {"bpp": -1.0}):
        with pytest.raises(ValueError):
            truncate(data, **bad)  # type: ignore[arg-type]
