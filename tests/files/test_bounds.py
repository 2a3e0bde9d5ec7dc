"""What hostile files cost: time and memory follow their bytes, not what they claim.

Time and memory are limits of the system for a process of its own, and no measurements.
"""

import dataclasses
import io
import os
import struct
import subprocess
import zlib

from pathlib import Path

import numpy as np
import pytest

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compressai_uqdm import DamagedFileError, DamagedStringError, decode, encode
from compressai_uqdm.bitstream.range_coder import (
    StageDecoder,
    StreamDecoder,
    StreamEncoder,
    TruncatedStageDecoder,
    Written,
)
from compressai_uqdm.bitstream.varint import varint
from compressai_uqdm.checks import MAX_METADATA
from compressai_uqdm.cli import main
from compressai_uqdm.families.dct.coefficient_prior import CoefficientPrior
from compressai_uqdm.families.dct.coefficient_scales import scale_table
from compressai_uqdm.files.container import MAGIC, pack_header, parse_header, read_header
from compressai_uqdm.files.header import Header, Metadata
from compressai_uqdm.files.model import open_codec
from compressai_uqdm.files.png import bare_png
from compressai_uqdm.files.rate import truncate
from compressai_uqdm.files.v2 import VERSION
from compressai_uqdm.quantization.dither import dither
from compressai_uqdm.quantization.lattice import LATTICE, least_bytes, split_dither

HEADER = Header("uqdm-photo", b"digest", (40, 30), 3, "integer", (9, 100, 20))


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """A noisy picture: not stored as WebP."""
    levels = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    return Image.fromarray(levels)


@pytest.fixture(scope="module")
def data(image: Image.Image) -> bytes:
    return encode(image)


def with_body(body: bytes) -> bytes:
    """The header with a body, and the right checksum."""
    start = MAGIC + bytes([VERSION]) + varint(len(body)) + body
    return start + struct.pack("<I", zlib.crc32(start))


def body_of(header: Header) -> bytes:
    packed = pack_header(header)
    return packed[packed.index(varint(len(header.model)) + header.model.encode()) : -4]


# ---- in little memory and time ----

LIMITED = """
import io, resource, sys
from pathlib import Path
from PIL import Image
from compressai_uqdm import decode
from compressai_uqdm.files.container import parse_header

def tries(data):
    outcomes = []
    for task in (
        lambda: parse_header(data, 1 << 60),
        lambda: Image.open(io.BytesIO(data)),
        lambda: decode(data, max_pixels=1 << 60),
    ):
        try:
            task()
            outcomes.append("done")
        except (ValueError, OSError) as error:
            outcomes.append(f"{type(error).__name__}: {error}")
    return "; ".join(outcomes)

for path in sys.argv[3:]:  # models and libraries first
    if path.endswith("intact.uqdm"):
        assert tries(Path(path).read_bytes()) == "done; done; done"
status = Path("/proc/self/status").read_text()
memory = 1024 * int(status.split("VmSize:")[1].split()[0]) + (int(sys.argv[1]) << 20)
used = resource.getrusage(resource.RUSAGE_SELF)
seconds = int(used.ru_utime + used.ru_stime) + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
for path in sys.argv[3:]:
    print(tries(Path(path).read_bytes()), flush=True)
"""


def limited(
    python: str, folder: Path, files: dict[str, bytes], memory: int, seconds: int
) -> dict[str, str]:
    """What becomes of files in so many MiB more than intact ones take, and seconds."""
    for name, content in files.items():
        (folder / f"{name}.uqdm").write_bytes(content)
    paths = [str(folder / f"{name}.uqdm") for name in files]
    done = subprocess.run(
        [python, "-c", LIMITED, str(memory), str(seconds), *paths],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return dict(zip(files, done.stdout.splitlines(), strict=True))


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="limits of memory are Linux's"
)


@needs_proc
def test_a_claim_costs_no_more_than_its_bytes(
    python: str, tmp_path: Path, data: bytes, image: Image.Image
) -> None:
    header, start = parse_header(data)  # type: ignore[misc]
    nano = encode(image, "uqdm-nano")
    nano_header, _ = parse_header(nano)  # type: ignore[misc]
    files = {"intact": data, "nano-intact": nano}
    for side, n in ((2048, 43), (2048, 67), (8192, 43), (8192, 1031), (11585, 2103)):
        for name, byte in (("zeros", 0), ("ones", 255)):
            string = (b"\x3f" * bool(byte) + bytes([byte]) * n)[:n]
            claim = dataclasses.replace(header, size=(side, side), lengths=(len(string),))
            files[f"{side}-{n}-{name}"] = pack_header(claim) + string
    # the network of a published model takes seconds for 1024 x 1024 pixels before a symbol
    for size in ((1024, 1024), (1 << 20, 1), (1, 1 << 20)):
        claim = dataclasses.replace(nano_header, size=size, lengths=(47, 7, 7, 7, 7))
        files[f"nano-{size[0]}"] = pack_header(claim) + bytes(75)
    found = limited(python, tmp_path, files, memory=200, seconds=15)
    for name, outcome in found.items():
        if "intact" not in name:
            assert "Damaged" in outcome.split("; ")[-1], (name, outcome)
    assert "stage 1 of a picture of 2048 x 2048 pixels takes" in found["2048-43-zeros"]
    assert "string of stage 1 is damaged" in found["2048-67-zeros"]


@needs_proc
def test_metadata_costs_no_more_than_its_bytes(
    python: str, tmp_path: Path, data: bytes
) -> None:
    """Directories that point at one block, prefixes without end, bombs in an alpha PNG."""
    header, start = parse_header(data)  # type: ignore[misc]
    tags = b"".join(
        struct.pack("<HHII", 0x9000 + i, 7, (1 << 24) - 4000, 4000) for i in range(200)
    )
    shared_block = b"II*\0\x08\0\0\0" + struct.pack("<H", 200) + tags + bytes(4)
    changes = {
        "shared": {"exif": shared_block.ljust(1 << 24, b"\0")},
        "prefixes": {"exif": b"Exif\0\0" * 600_000},
        "profile": {"icc_profile": bytes(1 << 24)},
        "half-each": {"icc_profile": bytes(1 << 19), "exif": bytes((1 << 19) + 1)},
        "claimed": {"exif": Metadata(1 << 20, zlib.compress(b"little"))},
        "no-stream": {"icc_profile": Metadata(1 << 20, b"none")},
        "within": {"exif": shared_block.ljust(1 << 20, b"\0")},
    }
    files = {"intact": data}
    for name, change in changes.items():
        forged = dataclasses.replace(header, **change)  # type: ignore[arg-type]
        files[name] = pack_header(forged) + data[start:]
    files["fields"] = (
        with_body(
            body_of(header)
            + b"".join(varint(i) + varint(0) for i in range(1 << 10, 1 << 19))
        )
        + data[start:]
    )
    found = limited(python, tmp_path, files, memory=100, seconds=15)
    for name in ("shared", "prefixes", "profile", "half-each"):
        parsed, opened, decoded = found[name].split("; ")
        assert parsed == "done"
        assert "UnidentifiedImageError: the metadata has" in opened
        assert "more than the limit of 1048576 (ICC profile " in decoded
    for name in ("claimed", "no-stream"):
        parsed, opened, decoded = found[name].split("; ")
        assert parsed == "done" and "metadata is damaged" in opened
        assert decoded.startswith("DamagedFileError: the metadata is damaged")
    assert found["within"] == "done; done; done"
    assert "more than 256 fields" in found["fields"].split("; ")[-1]


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(size: tuple[int, int], before: bytes = b"", pixels: bytes | None = None) -> bytes:
    rows = bytes((size[0] + 1) * size[1]) if pixels is None else pixels
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)),
            before,
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


@needs_proc
def test_an_alpha_channel_costs_no_more_than_its_picture(
    python: str, tmp_path: Path, data: bytes
) -> None:
    header, start = parse_header(data)  # type: ignore[misc]
    bomb = zlib.compress(bytes((1 << 20) - 9))
    size = header.size
    channels = {
        "texts": png(size, 60 * chunk(b"zTXt", b"k\0\0" + bomb)),
        "more-texts": png(size, 600 * chunk(b"iTXt", b"k\0\1\0\0\0" + bomb)),
        "profiles": png(size, 600 * chunk(b"iCCP", b"k\0\0" + bomb)),
        "pixels": png(size, pixels=bytes(1 << 27)),
        "size": png((1 << 30, 1 << 30), pixels=b""),
        "nothing": b"PNG",
        "endless": b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", (1 << 32) - 1, b"zTXt"),
    }
    files = {"intact": data}
    for name, alpha in channels.items():
        forged = pack_header(dataclasses.replace(header, alpha=alpha))
        files[name] = forged + data[start:]
    found = limited(python, tmp_path, files, memory=100, seconds=15)
    for name in ("texts", "more-texts", "profiles", "pixels"):
        assert found[name] == "done; done; done", (name, found[name])
    for name in ("size", "nothing", "endless"):
        assert "the alpha channel is not that of the picture" in found[name], name


def test_an_alpha_channel_has_no_metadata(image: Image.Image) -> None:
    """It once had the ICC profile of the picture a second time."""
    described = image.copy()
    described.putalpha(100)
    described.info["icc_profile"] = np.random.default_rng(0).bytes(5000)
    header, _ = parse_header(encode(described, stages=1))  # type: ignore[misc]
    assert len(header.icc_profile) == 5000 and len(header.alpha) < 200
    assert bare_png(header.alpha) == header.alpha
    assert bare_png(png((3, 2), chunk(b"tEXt", b"a\0b"))) == png((3, 2))


# ---- the limit of metadata ----


def test_metadata_has_a_limit_that_an_option_raises(
    image: Image.Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = np.random.default_rng(0).bytes(MAX_METADATA + 1)
    print_profile = image.copy()
    print_profile.info["icc_profile"] = profile
    message = "metadata has 1048577 bytes, .* of 1048576 .*profile 1048577, EXIF 0.*remove"
    with pytest.raises(ValueError, match=message):
        encode(print_profile)
    data = encode(print_profile, max_metadata=2 << 20)
    with pytest.raises(
        ValueError, match=r"raise the limit \(--max-metadata\) if you trust"
    ):
        decode(data)
    with pytest.raises(OSError, match="metadata has 1048577 bytes"):
        Image.open(io.BytesIO(data))
    picture = decode(data, max_metadata=2 << 20)
    assert picture.exact and picture.image.info["icc_profile"] == profile
    # nothing is unpacked by those that need none of it
    assert len(truncate(data, stages=1)) < len(data)
    (tmp_path / "big.uqdm").write_bytes(data)
    assert main(["info", str(tmp_path / "big.uqdm")]) == 0
    assert "ICC profile of 1048577 bytes" in capsys.readouterr().out
    arguments = ["decode", str(tmp_path / "big.uqdm"), str(tmp_path / "big.png")]
    assert main(arguments) == 1 and "--max-metadata" in capsys.readouterr().err
    assert main([*arguments, "--max-metadata", "2000000"]) == 0
    # Pillow reads no larger profile of a PNG, but any of a TIFF
    print_profile.save(tmp_path / "big.tif", icc_profile=profile)
    arguments = ["encode", str(tmp_path / "big.tif"), str(tmp_path / "again.uqdm")]
    assert main(arguments) == 1 and "ICC profile 1048577" in capsys.readouterr().err
    assert main([*arguments, "--max-metadata", "2000000"]) == 0


def test_metadata_within_the_limit_needs_no_option(image: Image.Image) -> None:
    """Profiles of printing presses have half a MiB and more."""
    described = image.copy()
    described.info["icc_profile"] = np.random.default_rng(1).bytes(MAX_METADATA)
    found = decode(encode(described, stages=1)).image.info["icc_profile"]
    assert found == described.info["icc_profile"]


# ---- headers ----


class Counted(io.RawIOBase):
    """A file that gives a few bytes at a time, and counts them."""

    def __init__(self, data: bytes, at_once: int, then: bytes = b""):
        self.data, self.at_once, self.count = data, at_once, 0
        self.then = then

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        size = min(size, self.at_once) if size >= 0 else self.at_once
        found = self.data[self.count : self.count + size] or self.then[:size]
        self.count += len(found)
        return found


@pytest.mark.parametrize("at_once", [1, 7, 1 << 20])
@pytest.mark.parametrize("n", [0, 90, 300, 20_000])
def test_no_more_is_read_than_the_header(at_once: int, n: int) -> None:
    """Of a pipe, what follows stays in it."""
    header = dataclasses.replace(HEADER, icc_profile=np.random.default_rng(0).bytes(n))
    packed = pack_header(header)
    file = Counted(packed + b"strings of the stages", at_once)
    assert read_header(file) == (header, packed) and file.count == len(packed)
    for end in {0, 1, 6, 7, 8, 11, 12, 13, len(packed) // 2, len(packed) - 1}:
        message = f"ends inside its header, after {end} bytes"
        with pytest.raises(DamagedFileError, match=message):
            read_header(Counted(packed[:end], at_once))


def test_files_without_end() -> None:
    with (
        open("/dev/zero", "rb") as file,
        pytest.raises(DamagedFileError, match="not a .uq"),
    ):
        read_header(file)
    file = Counted(b"", 1 << 30, then=b"\x89" * (1 << 16))
    with pytest.raises(DamagedFileError, match=r"not a \.uqdm file"):
        read_header(file)
    assert file.count <= 64
    # a header says how long it is, at most 16 MiB
    start = MAGIC + bytes([VERSION]) + varint(1 << 24)
    file = Counted(start, 1 << 30, then=bytes(1 << 16))
    with pytest.raises(DamagedFileError, match="checksum"):
        read_header(file)
    assert file.count == len(start) + (1 << 24) + 4
    with pytest.raises(DamagedFileError, match="would have 16777217 bytes"):
        read_header(Counted(start[:7] + varint((1 << 24) + 1), 99))


def test_a_sparse_file_is_not_read(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "sparse.uqdm"
    path.write_bytes(data)
    os.truncate(path, 3 << 30)
    with path.open("rb") as file:
        header, start = read_header(file)
        assert file.tell() == len(start) < 100 and header.size == (11, 9)
    with Image.open(path) as opened:
        assert opened.size == (11, 9)
    path.write_bytes(data[:12])
    os.truncate(path, 3 << 30)
    with pytest.raises(OSError, match=r"cannot identify|checksum"):
        Image.open(path)


def fields(*pairs: tuple[int, bytes]) -> bytes:
    return b"".join(varint(tag) + varint(len(data)) + data for tag, data in pairs)


def named(name: bytes) -> bytes:
    return varint(len(name)) + name + body_of(HEADER)[1 + len(HEADER.model) :]


ABSURD = {
    "a tag twice": (body_of(HEADER) + fields((100, b"a"), (100, b"b")), "field 100 twice"),
    "EXIF twice": (body_of(HEADER) + fields((66, b"\0"), (66, b"\0")), "field 66 twice"),
    "too many fields": (
        body_of(HEADER) + fields(*((100 + i, b"") for i in range(257))),
        "more than 256 fields",
    ),
    "a long name": (named(b"n" * 256), "name of 256 bytes"),
    "a control character": (named(b"a\x1b[2Jb"), "cannot be printed"),
    "text from right to left": (named("uqdm\u202egnp".encode()), "cannot be printed"),
    "no width": (named("uqdm\u200b".encode()), "cannot be printed"),
    "a line end": (named("a\u2028b".encode()), "cannot be printed"),
    "no UTF-8": (named(b"\xff\xfe"), "damaged"),
    "a surrogate": (named(b"\xed\xa0\x80"), "damaged"),
    "a number without end": (body_of(HEADER) + b"\xff" * 9, "no number"),
    "a field longer than all": (body_of(HEADER) + varint(100) + varint(1 << 34), "missing"),
    "EXIF of 4 GiB": (body_of(HEADER) + fields((66, varint(1 << 32))), "EXIF block of"),
    "EXIF without a size": (body_of(HEADER) + fields((66, b"")), "no number"),
    "a profile without a size": (body_of(HEADER) + fields((64, b"\x80")), "no number"),
    "orientation 9": (body_of(HEADER) + fields((65, b"\x09")), "no orientation"),
    "two orientations": (body_of(HEADER) + fields((65, b"\1\1")), "no orientation"),
    "nothing": (b"", "damaged"),
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_headers_are_damaged_files(name: str) -> None:
    body, message = ABSURD[name]
    for data in (with_body(body), with_body(body) + bytes(99)):
        with pytest.raises(DamagedFileError, match=message):
            parse_header(data)
        with pytest.raises(DamagedFileError, match=message):
            decode(data)
        with pytest.raises(OSError):
            Image.open(io.BytesIO(data))


def test_numbers_may_be_longer_than_they_need(data: bytes) -> None:
    """Nothing is gained by it, and nothing harmed."""
    body = body_of(HEADER)
    at = 1 + len(HEADER.model) + 6 + 1
    assert body[at] == 40
    found = parse_header(with_body(body[:at] + b"\xa8\x80\x80\x80\0" + body[at + 1 :]))
    assert found is not None and found[0] == HEADER


@pytest.mark.parametrize("lengths", [(0,) * 6, (0,), (1, 2, 3), (3,), (7, 0)], ids=str)
def test_strings_of_no_such_length(data: bytes, lengths: tuple[int, ...]) -> None:
    header, start = parse_header(data)  # type: ignore[misc]
    forged = pack_header(dataclasses.replace(header, lengths=lengths))
    forged += data[start : start + sum(lengths)]
    with pytest.raises(DamagedStringError, match="stage"):
        decode(forged)
    with pytest.raises(OSError), Image.open(io.BytesIO(forged)) as opened:
        opened.load()


@pytest.mark.parametrize(
    "change",
    [
        {"lengths": (0,) * 64},
        {"lengths": ((1 << 35) - 1,) * 64},
        {"arithmetic": "float64"},
        {"digest": b"others"},
        {"seed": 1},
        {"size": (9, 11)},
        {"colour": "L"},
        {"colour": "1"},
        {"colour": "P", "palette": b"abc"},
    ],
    ids=str,
)
def test_other_claims_are_damaged_files(data: bytes, change: dict[str, object]) -> None:
    header, start = parse_header(data)  # type: ignore[misc]
    forged = pack_header(dataclasses.replace(header, **change)) + data[start:]  # type: ignore[arg-type]
    with pytest.raises(DamagedStringError):
        decode(forged)
    with pytest.raises(OSError), Image.open(io.BytesIO(forged)) as opened:
        opened.load()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_of_a_forged_header(draw: st.DataObject) -> None:
    """It is refused as a damaged file, or as too large, and nothing else."""
    header = dataclasses.replace(
        HEADER,
        exif=draw.draw(st.binary(max_size=9)),
        icc_profile=draw.draw(st.binary(max_size=9)),
        alpha=draw.draw(st.binary(max_size=9)),
        orientation=draw.draw(st.integers(1, 8)),
        limited_to=draw.draw(st.none() | st.integers(0, 128)),
    )
    body = bytearray(body_of(header))
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(body) - 1))
        new = draw.draw(st.binary(max_size=5))
        body[at : at + draw.draw(st.integers(0, 3))] = new
        body = body or bytearray(b"\0")
    data = with_body(bytes(body))
    try:
        found = parse_header(data, 1 << 20, 1 << 20)
    except DamagedFileError:
        return
    except ValueError as error:
        assert "more than the limit" in str(error)
        return
    assert found is not None
    assert parse_header(pack_header(found[0]), 1 << 20) is not None
    for block in (found[0].icc_profile, found[0].exif):
        try:
            assert len(block.unpack()) == len(block)
        except DamagedFileError:
            pass


# ---- streams ----


def test_a_decoder_stops_where_the_words_end() -> None:
    """2^28 symbols of a byte each would take a GiB, and minutes."""
    for words in (bytes(4), bytes(400)):
        for decoder in (StreamDecoder([words + b"crc"]), stage_decoder(words + b"crc")):
            with pytest.raises(DamagedStringError):
                decoder.code_uniform(None, 1 << 28, 256)
    decoder = TruncatedStageDecoder([], Written(), bytes(400))
    found, there = decoder.code_uniform(None, 1 << 16, 256)
    assert decoder.n_decoded == there.sum() <= 400 and not found[~there].any()


def stage_decoder(string: bytes) -> StageDecoder:
    return StageDecoder([string], Written())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    counts=st.lists(st.integers(0, 9000), min_size=1, max_size=4),
    rare=st.sampled_from([0.0, 0.001, 0.3]),
)
def test_what_was_encoded_is_never_past_the_words(
    seed: int, counts: list[int], rare: float
) -> None:
    """Also of symbols that cost next to nothing, of empty stages, of any length."""
    rng = np.random.default_rng(seed)
    tables = np.array([[(1 << 24) - 3 - 2, 1, 1], [0, 0, (1 << 24) - 3]], np.float32)
    stages = []
    encoder = StreamEncoder()
    for count in counts:
        weights = tables[rng.integers(0, 2, count)]
        symbols = weights.argmax(1) if count else np.zeros(0, np.int64)
        symbols = np.where(rng.random(count) < rare, rng.integers(0, 3, count), symbols)
        encoder.encode(symbols, weights)
        encoder.end_stage(symbols)
        stages.append((symbols, weights))
    strings, written = encoder.segments(), Written()
    whole = StreamDecoder(strings)
    for i, (symbols, weights) in enumerate(stages):
        assert np.array_equal(whole.decode(weights), symbols)
        whole.end_stage(symbols)
        stage = StageDecoder(strings[: i + 1], written)
        assert np.array_equal(stage.decode(weights), symbols)
        stage.end_stage(symbols)
        written = stage.written


@pytest.mark.parametrize("name", ["uqdm-photo", "uqdm-nano", "uqdm-nano-ctx"])
def test_values_take_a_bit_where_cells_meet(name: str) -> None:
    """What least_bytes() rests on, of every scale that a table has."""
    prior = open_codec(name).net.latent_priors[0]
    table = scale_table() if isinstance(prior, CoefficientPrior) else prior.table
    for R in np.unique(table.half_widths):
        edge = table.weights(int(R))[:, 0]  # j = -16
        assert edge.max() + 1 <= 2**23 + 1


def test_no_seed_has_few_values_where_cells_meet() -> None:
    for n in (1, 1000, 4096, 10_000, 100_000):
        for seed in (*range(60), 2**32 - 1):
            j, _ = split_dither(dither(seed, 0, (1, 1, n)))
            bits = int((j == -LATTICE // 2).sum())
            assert least_bytes(n) <= bits / 8, (n, seed)


@pytest.mark.parametrize("name", ["uqdm-photo", "uqdm-nano"])
def test_flat_pictures_are_larger_than_the_least(name: str) -> None:
    """Those that code to the fewest bytes, and strips, whose blocks are not whole."""
    codec = open_codec(name)
    sides = [(1, 1), (64, 64), (9, 300)] + [(700, 640)] * (name == "uqdm-photo")
    for size in sides:
        for level in (0, 128):
            flat = Image.new("RGB", size, (level,) * 3)
            header, _ = parse_header(encode(flat, codec, stages=1))  # type: ignore[misc]
            assert header.lengths[0] >= codec.net.least_bytes(size[::-1])
