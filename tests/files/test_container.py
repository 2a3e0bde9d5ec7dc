"""Headers: there and back, cut anywhere, and what is refused."""

import dataclasses
import struct
import zlib

import pytest

from hypothesis import given, settings
from hypothesis import strategies as st

from compressai_uqdm import DamagedFileError
from compressai_uqdm.bitstream.varint import varint
from compressai_uqdm.files.container import MAGIC, pack_header, parse_header
from compressai_uqdm.files.header import Header, Metadata
from compressai_uqdm.files.rate import payload_budget, truncate
from compressai_uqdm.files.v2 import VERSION


@st.composite
def headers(draw: st.DrawFn) -> Header:
    colour = draw(st.sampled_from(["RGB", "L", "P", "1"]))
    n_colours = draw(st.integers(1, 256)) if colour == "P" else 0
    lengths = tuple(draw(st.lists(st.integers(0, 2**35 - 1), min_size=1, max_size=64)))
    limits = st.integers(0, min(sum(lengths), 2**35) - 1) if any(lengths) else st.none()
    names = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=60)
    return Header(
        model=draw(names),
        digest=draw(st.binary(min_size=6, max_size=6)),
        size=(draw(st.integers(1, 10000)), draw(st.integers(1, 10000))),
        seed=draw(st.integers(0, 2**32 - 1)),
        arithmetic=draw(st.sampled_from(["float32", "float64"])),
        lengths=lengths,
        colour=colour,
        palette=bytes(draw(st.binary(min_size=3 * n_colours, max_size=3 * n_colours))),
        orientation=draw(st.integers(1, 8)),
        icc_profile=Metadata.of(draw(st.binary(max_size=300))),
        alpha=draw(st.binary(max_size=90)) if colour in ("RGB", "L") else b"",
        exif=Metadata.of(draw(st.binary(max_size=90))),
        limited_to=draw(st.none() | limits),
    )


HEADER = Header("uqdm-tiny", b"digest", (768, 512), 3, "float64", (9, 100, 20))


@settings(max_examples=100, deadline=None)
@given(header=headers(), rest=st.binary(max_size=20), data=st.data())
def test_there_and_back_and_cut_anywhere(
    header: Header, rest: bytes, data: st.DataObject
) -> None:
    packed = pack_header(header)
    assert parse_header(packed + rest) == (header, len(packed))
    cut = data.draw(st.integers(0, len(packed) - 1))
    assert parse_header(packed[:cut]) is None


@settings(max_examples=100, deadline=None)
@given(header=headers(), data=st.data())
def test_no_changed_bit_goes_unseen(header: Header, data: st.DataObject) -> None:
    packed = bytearray(pack_header(header))
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
    assert parse_header(pack_header(found[0]), max_pixels=1 << 70) is not None


def _with_checksum(body: bytes) -> bytes:
    start = MAGIC + bytes([VERSION]) + varint(len(body)) + body
    return start + struct.pack("<I", zlib.crc32(start))


def test_bytes_of_a_header() -> None:
    """What docs/format.md shows; a change makes every file unreadable."""
    header = dataclasses.replace(HEADER, orientation=6)
    assert pack_header(header)[:-4].hex(" ") == (
        "89 55 51 44 4d 0a 02 1d 09 75 71 64 6d 2d 74 69 6e 79 64 69 67 65 73 74 "
        "01 80 06 80 04 03 03 09 64 14 41 01 06"
    )
    assert int.from_bytes(pack_header(header)[-4:], "little") == zlib.crc32(
        pack_header(header)[:-4]
    )


def test_a_header_is_small() -> None:
    """With the empty lists of four stages, at most 64 bytes for 12 million pixels."""
    lengths = (1 << 22, 1 << 23, 1 << 24, 1 << 25, 1 << 22)
    header = Header("uqdm-tiny-ctx", b"digest", (4000, 3000), 0, "float64", lengths)
    assert len(pack_header(header)) + 4 <= 64


def test_other_versions_and_other_files() -> None:
    packed = bytearray(pack_header(HEADER))
    packed[len(MAGIC)] = 3
    with pytest.raises(DamagedFileError, match="version 3 .* reads version 2: update"):
        parse_header(bytes(packed))
    with pytest.raises(DamagedFileError, match=r"not a \.uqdm file"):
        parse_header(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DamagedFileError, match="transferred as text"):
        parse_header(pack_header(HEADER).replace(b"\n", b"\r\n"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (0, 5)}, "0 x 5 pixels"),
        ({"seed": 1 << 32}, "the seed"),
        ({"lengths": ()}, "0 stages"),
        ({"lengths": (1,) * 65}, "65 stages"),
        ({"colour": "P", "palette": b""}, "palette without colours"),
        ({"colour": "P", "palette": bytes(3 * 257)}, "no whole colours"),
        ({"colour": "P", "palette": bytes(3), "alpha": b"x"}, "alpha where there is none"),
        ({"colour": "1", "alpha": b"x"}, "alpha where there is none"),
        ({"model": "a\nb"}, "cannot be printed"),
        ({"limited_to": 129}, "a limit to 129 of 129 bytes"),
        ({"limited_to": (1 << 35) - 1}, "a limit to 34359738367 of 129 bytes"),
        ({"limited_to": 1 << 35}, "no number"),
        ({"lengths": (0, 0), "limited_to": 0}, "a limit to 0 of 0 bytes"),
    ],
)
def test_absurd_headers(change: dict[str, object], message: str) -> None:
    with pytest.raises(DamagedFileError, match=message):
        parse_header(pack_header(dataclasses.replace(HEADER, **change)))  # type: ignore[arg-type]


def test_a_profile_may_not_grow_beyond_what_it_says() -> None:
    header = dataclasses.replace(HEADER, icc_profile=bytes(1 << 20))
    packed = pack_header(header)
    assert parse_header(packed) is not None
    inner = packed[packed.index(b"\x09uqdm-tiny") : -4]
    at = inner.index(varint(1 << 20))

    def forged(length: int) -> bytes:
        field = varint(length) + inner[at + 3 :]
        return _with_checksum(inner[: at - 3] + bytes([64]) + varint(len(field)) + field)

    for length in (100, (1 << 20) + 1, 1 << 24):  # only who unpacks it can see
        found = parse_header(forged(length))
        assert found is not None and len(found[0].icc_profile) == length
        with pytest.raises(DamagedFileError, match=f"not the {length} bytes"):
            found[0].icc_profile.unpack()
    with pytest.raises(DamagedFileError, match="profile of 33554432 byt"):
        parse_header(forged(1 << 25))


def test_a_header_is_not_too_long() -> None:
    """An alpha channel that would make a file that nobody reads is refused at once."""
    with pytest.raises(ValueError, match="alpha channel of 16777216: cut the picture"):
        pack_header(dataclasses.replace(HEADER, alpha=bytes(1 << 24)))


def test_fields_to_come() -> None:
    """Those that may be skipped are, others are refused with the remedy."""
    packed = pack_header(HEADER)
    inner = packed[packed.index(b"\x09uqdm-tiny") : -4]
    for tag in (68, 127, 1 << 30):
        with_more = _with_checksum(inner + varint(tag) + varint(3) + b"new")
        assert parse_header(with_more) == (HEADER, len(with_more))
    for tag in (3, 63):
        with pytest.raises(DamagedFileError, match=rf"fields \[{tag}\]\): update"):
            parse_header(_with_checksum(inner + varint(tag) + varint(3) + b"new"))
    twice = inner + 2 * (varint(67) + varint(0))
    for field in (b"", b"\x80", b"\5\0", b"new"):  # of what limits, no number
        with pytest.raises(DamagedFileError, match="no number"):
            parse_header(_with_checksum(inner + varint(67) + varint(len(field)) + field))
    for damaged in (twice, inner + varint(67), inner + varint(67) + varint(9) + b"short"):
        with pytest.raises(DamagedFileError, match="is damaged"):
            parse_header(_with_checksum(damaged))


def test_room_for_strings() -> None:
    """As many bytes as there can be, with the header that tells of them, if it must."""
    for lengths in ((9, 100, 20), (9, 100, 2000), (0, 40, 70_000), (127,), (128,)):
        header = dataclasses.replace(HEADER, lengths=lengths)
        whole = len(pack_header(header)) + sum(lengths)

        def size(n: int, header: Header = header) -> int:
            return n + len(pack_header(dataclasses.replace(header, limited_to=n)))

        for limit in [*range(size(0), min(whole, 400)), *range(whole - 9, whole)]:
            n = payload_budget(header, limit)
            assert 0 <= n < sum(lengths) and size(n) <= limit < size(n + 1)
        assert (
            payload_budget(header, whole) == payload_budget(header, 1 << 62) == sum(lengths)
        )
        for limit in (0, len(pack_header(header)), size(0) - 1):
            with pytest.raises(ValueError, match=f"header alone has {size(0)}"):
                payload_budget(header, limit)


def test_too_many_pixels() -> None:
    big = pack_header(dataclasses.replace(HEADER, size=(1 << 34, 1 << 34)))
    with pytest.raises(ValueError, match=r"limit of 134217728: .*--max-pixels"):
        parse_header(big)


def test_truncate() -> None:
    packed = pack_header(HEADER)
    data = packed + bytes(129)
    assert truncate(data, stages=1) == data[: len(packed) + 9]
    assert truncate(data, stages=9) == truncate(data) == data
    assert truncate(data, max_bytes=100) == data[:100]
    assert truncate(data, bpp=0.002) == data[: int(0.002 * 768 * 512 / 8)]
    assert truncate(data, stages=2, max_bytes=60) == data[:60]
    with pytest.raises(ValueError, match=f"limit is 20 bytes, .* alone has {len(packed)}"):
        truncate(data, max_bytes=20)
    with pytest.raises(DamagedFileError, match="ends inside its header, after 30 bytes"):
        truncate(data[:30], stages=1)
    for bad in ({"stages": 0}, {"stages": -1}, {"bpp": float("nan")}, {"bpp": -1.0}):
        with pytest.raises(ValueError):
            truncate(data, **bad)  # type: ignore[arg-type]
