"""What becomes of damaged and forged .uqdm files.

    python eval/damage.py kodak/05.png --count 20000 --json eval/results/damage.json

Small pictures cut from a photograph, in every colour mode and arithmetic, are encoded,
damaged by a generator of fixed seed, and decoded as a stream would be, and through Pillow.
A file may be refused, or give the stages before the damage, or be taken for one that was
cut short. It may not crash, hang, take much more time or memory than an intact file, or
give pixels that are wrong and called exact. A run that was interrupted resumes.
"""

import argparse
import dataclasses
import functools
import io
import json
import math
import random
import resource
import signal
import struct
import sys
import time
import zlib

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile

from compressai_uqdm import DamagedStringError, NotYetError, StreamingDecoder, encode
from compressai_uqdm.bitstream.varint import varint
from compressai_uqdm.files.container import MAGIC, pack_header, parse_header
from compressai_uqdm.files.header import Header, Metadata
from compressai_uqdm.files.model import DEFAULT_MODEL, Codec, open_codec
from compressai_uqdm.files.v2 import VERSION

MAX_PIXELS = 1 << 11
SECONDS = 5.0
OTHER_MODEL = "uqdm-nano-ctx"
SAVED_EVERY = 250
LEAST_SECONDS = 0.02  # less is lost among what a process does besides


@dataclasses.dataclass
class Original:
    """A file, the picture of each of its stages, from none to all, and what it costs."""

    codec: Codec
    data: bytes
    header: Header
    start: int
    pictures: list[tuple[str, bytes]]
    seconds: float = 0.0
    memory: int = 0  # KiB


def pixels(image: Image.Image) -> tuple[str, bytes]:
    """Mode and colours; a palette may hold one of them twice."""
    return image.mode, image.convert("RGB").tobytes()


def original(image: Image.Image, codec: Codec, arithmetic: Any, stored: bool) -> Original:
    """The file of a picture, in stages, or as WebP where that is smaller."""
    stages = None if stored else codec.net.n_stages
    data = encode(image, codec, arithmetic=arithmetic, stages=stages)
    parsed = parse_header(data)
    assert parsed is not None
    header, start = parsed
    decoder = StreamingDecoder(codec)
    decoder.feed(data[:start])
    pictures, at = [pixels(decoder.picture().image)], start
    for length in header.lengths:
        decoder.feed(data[at : at + length])
        pictures.append(pixels(decoder.picture().image))
        at += length
    assert pictures[-1] == pixels(image) and stored == (header.storage == "WebP")
    found = Original(codec, data, header, start, pictures)
    task = functools.partial(outcome, data, found)
    found.seconds = min(timed(task)[1] for _ in range(5))
    outcome_in_pillow(data, truncated=False)
    present = forget_peak()
    task()
    found.memory = peak_memory() - present
    return found


def originals(photograph: Image.Image) -> list[Original]:
    """Files of small pictures."""
    codec, other = open_codec(DEFAULT_MODEL), open_codec(OTHER_MODEL)
    cases = [
        ((8, 8), "RGB", codec, codec.arithmetics[0]),
        ((11, 16), "L", codec, codec.arithmetics[0]),
        ((13, 9), "P", codec, codec.arithmetics[0]),
        ((16, 8), "1", codec, codec.arithmetics[0]),
        ((9, 9), "RGB", codec, codec.arithmetics[-1]),
        ((17, 10), "RGBA", codec, codec.arithmetics[0]),
        ((8, 9), "RGB", other, other.arithmetics[0]),
        ((12, 10), "P", codec, codec.arithmetics[0]),
        ((10, 10), "1", codec, codec.arithmetics[0]),
    ]
    found = []
    for i, (size, mode, codec, arithmetic) in enumerate(cases):
        image = photograph.convert("RGB").crop((40 * i, 60, 40 * i + 160, 220)).resize(size)
        if mode == "RGBA":
            image.putalpha(Image.radial_gradient("L").resize(size))
        else:
            image = image.quantize(8) if mode == "P" else image.convert(mode)
        if i == 1:
            image.info["icc_profile"] = bytes(range(256))
        if i == 5:
            exif = Image.Exif()
            exif[0x010E] = "a photograph"
            image.info["exif"] = exif.tobytes()
        found.append(original(image, codec, arithmetic, stored=i > 6))
    return found


# ---- damage of bytes ----


def block(rng: random.Random, data: bytes) -> slice:
    start = rng.randrange(len(data))
    return slice(start, min(len(data), start + rng.randrange(1, 1 + len(data) // 3)))


def flip(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 3, 4, 50))) + data[at:]


def delete(rng: random.Random, data: bytes) -> bytes:
    gone = block(rng, data)
    return data[: gone.start] + data[gone.stop :]


def overwrite(rng: random.Random, data: bytes) -> bytes:
    place = block(rng, data)
    n = place.stop - place.start
    new = rng.choice((bytes(n), b"\xff" * n, rng.randbytes(n)))
    return data[: place.start] + new + data[place.stop :]


def swap(rng: random.Random, data: bytes) -> bytes:
    a, b, c, d = sorted(rng.randrange(len(data) + 1) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


BYTEWISE = (flip, flip, cut, insert, delete, overwrite, swap)


# ---- forged files, whose header has the right checksum ----


def inner(header: bytes) -> bytes:
    """The body of a header."""
    body = header[len(MAGIC) + 1 : -4]
    return body[next(i for i, byte in enumerate(body) if byte < 128) + 1 :]


def framed(body: bytes) -> bytes:
    """The header with a body."""
    start = MAGIC + bytes([VERSION]) + varint(len(body)) + body
    return start + struct.pack("<I", zlib.crc32(start))


def body(rng: random.Random, original: Original) -> bytes:
    """Another header, damaged bytewise."""
    damaged = rng.choice(BYTEWISE)(rng, inner(original.data[: original.start]))
    return framed(damaged) + original.data[original.start :]


def field(rng: random.Random, original: Original) -> bytes:
    """Another header, one of whose fields is absurd."""
    header = original.header
    lengths = list(header.lengths)
    rng.shuffle(lengths)
    size = rng.choice(
        [
            header.size[::-1],
            (0, 5),
            (1 << 34, 1 << 34),
            (1, 1),
            (rng.randrange(1, 33), rng.randrange(1, 33)),
            (MAX_PIXELS, 1),
        ]
    )
    change: dict[str, Any] = rng.choice(
        [
            {"size": size},
            {"seed": rng.choice((1, (1 << 35) - 1, rng.randrange(1 << 32)))},
            {"arithmetic": rng.choice(("float32", "float64", "integer"))},
            {"lengths": tuple(lengths)},
            {"lengths": header.lengths[: rng.randrange(1, 5)]},
            {"lengths": tuple(rng.randrange(1 << 35) for _ in range(rng.randrange(99)))},
            {"lengths": tuple(rng.choice((0, 1, n)) for n in header.lengths)},
            {"lengths": (0,) * 64},
            {"limited_to": rng.randrange(sum(header.lengths) + 9)},
            {"colour": rng.choice(("RGB", "L", "1"))},
            {"colour": "P", "palette": rng.randbytes(3 * rng.randrange(300))},
            {"digest": rng.randbytes(6)},
            {
                "model": rng.choice(
                    ("mine", "someone/model", "/dev/zero", "\u202egnp", "uqdm")
                )
            },
            {"orientation": rng.randrange(1, 9)},
        ]
    )
    return repacked(original, **change) + original.data[original.start :]


def repacked(original: Original, **change: Any) -> bytes:
    return pack_header(dataclasses.replace(original.header, **change))


def claim(rng: random.Random, original: Original) -> bytes:
    """A header that claims much, and few bytes after it."""
    n = rng.choice((4, 7, 39, 200))
    strings = rng.choice((bytes(n), b"\xff" * n, rng.randbytes(n), original.data[-n:]))
    side = 1 << rng.randrange(3, 6)
    lengths = rng.choice(((len(strings),), (len(strings), 7, 7), (1 << 34,) * 3))
    return repacked(original, size=(side, side), lengths=lengths) + strings


def tiff(rng: random.Random) -> bytes:
    """EXIF that may harm its reader."""
    n = rng.choice((1, 3, 200))
    kind, count = rng.choice(
        ((7, 1 << 16), (2, 1 << 20), (5, 9), (13, 1), (99, 1), (10, 0))
    )
    place = rng.choice((8, 0, 1 << 31, 10 + 12 * n))
    tags = [0x0112, 0x8769, 0x8825, 0xA005, 0x927C, 0x0111, *range(0x9000, 0x9100)]
    entries = [struct.pack("<HHII", rng.choice(tags), kind, count, place) for _ in range(n)]
    following = struct.pack("<I", rng.choice((0, 8, 1 << 30)))
    start = b"II*\0\x08\0\0\0" + struct.pack("<H", n)
    return start + b"".join(entries) + following + rng.choice((b"", bytes(1 << 17)))


def chunk(kind: bytes, data: bytes) -> bytes:
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
    )


def png(rng: random.Random, size: tuple[int, int]) -> bytes:
    """An alpha channel that may harm its reader."""
    width, height = rng.choice((size, size, (1 << 30, 1 << 30), (1, 1)))
    depth, colour = rng.choice(((8, 0), (8, 0), (16, 0), (8, 3), (1, 0)))
    rows = bytes((size[0] + 1) * size[1])
    extra = rng.choice((b"zTXt", b"iCCP", b"tEXt", b"eXIf", b"acTL", b"IDAT"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
            rng.choice((0, 1, 60)) * chunk(extra, b"k\0\0" + zlib.compress(bytes(1 << 19))),
            chunk(b"IDAT", zlib.compress(rows + bytes(rng.choice((0, 0, 1 << 22))))),
            rng.choice((1, 1, 0)) * chunk(b"IEND", b""),
        ]
    )


def metadata(rng: random.Random, original: Original) -> bytes:
    """Metadata that is not what it claims, or harms its reader."""
    data = rng.choice((b"garbage!!!!!!!!", b"Exif\0\0" * 600, rng.randbytes(40), tiff(rng)))
    deflated = zlib.compress(data)
    size = rng.choice((len(data), len(data), 0, 1, 1 << 20, 1 << 24))
    damage = rng.choice((lambda _, data: data, lambda _, data: data, flip, cut, insert))
    block = Metadata(size, damage(rng, deflated))
    what = rng.choice(("exif", "exif", "icc_profile", "alpha", "unknown"))
    if what == "unknown":
        n = rng.choice((1, 300, 3000))
        fields = b"".join(varint(100 + i) + varint(3) + b"new" for i in range(n))
        start = framed(inner(original.data[: original.start]) + fields)
    elif what == "alpha":
        start = repacked(original, alpha=png(rng, original.header.size))
    else:
        start = repacked(original, **{what: block})
    return start + original.data[original.start :]


def listed(rng: random.Random, original: Original) -> bytes:
    """A file whose stage tells of values near a boundary that are not."""
    stage = rng.randrange(max(1, len(original.header.lengths) - 1))
    header, at = original.header, original.start + sum(original.header.lengths[:stage])
    entries = [rng.choice((0, 1, 5, 200, (1 << 35) - 1)) for _ in range(rng.randrange(9))]
    found = b"".join(map(varint, (len(entries), *entries)))
    strings = original.data[original.start : at] + found + original.data[at + 1 :]
    lengths = list(header.lengths)
    lengths[stage] += len(found) - 1
    return pack_header(dataclasses.replace(header, lengths=tuple(lengths))) + strings


FORGED = (body, body, field, field, claim, metadata, metadata, listed)


def damaged(rng: random.Random, files: list[Original]) -> tuple[str, bytes, Original]:
    """The kind of damage, the damaged file, and what it was made of."""
    original = rng.choice(files)
    if rng.random() < 0.5:
        forge = rng.choice(FORGED)
        return forge.__name__, forge(rng, original), original
    if rng.random() < 0.1:
        other = rng.choice(files)
        return (
            "splice",
            cut(rng, original.data) + other.data[block(rng, other.data)],
            original,
        )
    changed = rng.choice(BYTEWISE)
    data = changed(rng, original.data)
    if data and rng.random() < 0.1:
        return f"{changed.__name__} and cut", cut(rng, data), original
    return changed.__name__, data, original


# ---- outcome ----


def outcome(data: bytes, original: Original) -> str:
    """What a decoder makes of a file, in words; ``"wrong"`` is what may not be."""
    decoder = StreamingDecoder(original.codec, max_pixels=MAX_PIXELS)
    try:
        decoder.feed(data)
        picture = decoder.picture()
        refused = False
    except (ValueError, NotYetError) as error:
        if decoder.net is None or not isinstance(error, DamagedStringError):
            return "refused"
        refused = True
        try:
            picture = decoder.picture()
        except DamagedStringError:
            return "refused"
    header = decoder.header
    assert header is not None
    # nobody can tell another header with the right checksum from what was meant; of its
    # pixels, those that are called whole must be right
    same = (header.size, header.colour, header.alpha) == (
        original.header.size,
        original.header.colour,
        original.header.alpha,
    )
    right = pixels(picture.image) == original.pictures[picture.stages]
    if picture.share == 0 and picture.stages and same and not right:
        return "wrong"
    if picture.exact and pixels(picture.image)[1] != original.pictures[-1][1]:
        return "wrong"
    if refused:
        return "error, stages before it kept" if picture.stages else "refused"
    if picture.exact:
        return "exact"
    if picture.stages < len(header.lengths):
        return "cut short"
    return "coarser" if same else "wrong"


def outcome_in_pillow(data: bytes, truncated: bool) -> str:
    """What Pillow makes of it: an OSError is what its users expect."""
    ImageFile.LOAD_TRUNCATED_IMAGES = truncated
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                return "too large"
            image.getexif()
            image.load()
            image.getexif()
    except (OSError, Image.DecompressionBombError):
        return "refused"
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    return "loaded"


def timed(function: Callable[[], str]) -> tuple[str, float]:
    """What it gives, within a limit, and seconds of processor time."""

    def hangs(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGPROF, hangs)
    start = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        found = function()
    except TimeoutError:
        found = "hung"
    except Exception as error:
        found = f"crashed: {error!r}"[:200]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return found, time.process_time() - start


class Costs:
    """Time and memory of damaged files beside those of intact ones.

    Args:
        files: intact ones.
    """

    def __init__(self, files: list[Original]):
        self.files = files
        self._seconds: dict[tuple[int, int], float] = {}

    def reference(self, data: bytes, original: Original, found: str) -> float:
        """Seconds of an intact file: of as many bytes, or where it gave a picture of that
        size."""
        parsed = None if found == "refused" else parse_header(data, 1 << 70)
        if parsed is None:
            return max(LEAST_SECONDS, original.seconds)
        blocks = math.ceil(parsed[0].size[0] / 8), math.ceil(parsed[0].size[1] / 8)
        if blocks not in self._seconds:
            image = Image.effect_noise((8 * blocks[0], 8 * blocks[1]), 50).convert("RGB")
            codec = self.files[0].codec
            data = encode(image, codec)

            def intact() -> str:
                decoder = StreamingDecoder(codec)
                decoder.feed(data)
                return str(decoder.picture().exact)

            self._seconds[blocks] = min(timed(intact)[1] for _ in range(3))
        return max(LEAST_SECONDS, original.seconds, self._seconds[blocks])


def peak_memory() -> int:
    """Of the process since :func:`forget_peak`, in KiB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(status.read_text().split("VmHWM:")[1].split()[0])


def forget_peak() -> int:
    """Begin to measure the peak anew, and give the memory at present, in KiB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    return peak_memory()


def run(
    photograph: Image.Image, count: int, seed: int = 0, saved: Path | None = None
) -> dict[str, Any]:
    """Damage so many files.

    Args:
        photograph: what pictures are cut from.
        count: of files.
        seed: of the damage.
        saved: file of a run so far, to go on from.
    """
    files = originals(photograph)
    costs, loaded = Costs(files), peak_memory()
    state: dict[str, Any] = {
        "seed": seed,
        "done": 0,
        "unharmed": 0,
        "outcomes": {},
        "Pillow": {},
        "slowest": 0.0,
        "ratio": 0.0,
        "memory": 0,
        "bad": [],
    }
    if saved and saved.exists():
        before = json.loads(saved.read_text())
        state = before if before["seed"] == seed else state
    for i in range(state["done"], count):
        rng = random.Random(f"{seed} {i}")
        kind, data, original = damaged(rng, files)
        state["unharmed"] += data == original.data
        present = forget_peak()
        task = functools.partial(outcome, data, original)
        found, seconds = timed(task)
        memory = peak_memory() - present
        reference = costs.reference(data, original, found)
        for _ in range(4):  # other processes take time, too
            if seconds > 1.5 * reference:
                seconds = min(seconds, timed(task)[1])
        truncated, present = rng.random() < 0.5, forget_peak()
        in_pillow, _ = timed(functools.partial(outcome_in_pillow, data, truncated))
        memory = max(memory, peak_memory() - present)
        state["memory"] = max(state["memory"], memory)
        state["slowest"] = max(state["slowest"], seconds)
        ratio = seconds / reference
        state["ratio"] = max(state["ratio"], ratio)
        for name, what in (("outcomes", found), ("Pillow", in_pillow)):
            tally = state[name].setdefault(kind, {})
            tally[what] = tally.get(what, 0) + 1
        reasons = [w for w in (found, in_pillow) if w in ("wrong", "hung") or "crash" in w]
        if ratio > 2:
            reasons.append(f"{ratio:.1f} times the time of an intact file")
        if reasons:
            state["bad"].append({"file": i, "kind": kind, "what": reasons})
            print(f"file {i}, {kind}: {reasons}\n{data[:2000].hex()}", flush=True)
        state["done"] = i + 1
        if saved and (i + 1) % SAVED_EVERY == 0:
            saved.write_text(json.dumps(state))
            print(i + 1, totals(state["outcomes"]), file=sys.stderr, flush=True)
    return {
        "files": state["done"],
        "seed": seed,
        "unharmed": state["unharmed"],
        "outcomes": totals(state["outcomes"]),
        "by kind of damage": dict(sorted(state["outcomes"].items())),
        "through Pillow": totals(state["Pillow"]),
        "wrong, hung, crashed or slow": state["bad"],
        "slowest, seconds of CPU": round(state["slowest"], 3),
        "of an intact file, seconds of CPU": round(max(f.seconds for f in files), 3),
        "most times the CPU time of an intact file": round(state["ratio"], 2),
        "most memory of a file, MiB": round(state["memory"] / 1024, 1),
        "most memory of an intact file, MiB": round(max(f.memory for f in files) / 1024, 1),
        "memory of libraries, models and intact files, MiB": loaded >> 10,
    }


def totals(tallies: dict[str, dict[str, int]]) -> dict[str, int]:
    """Those of all kinds of damage together."""
    return dict(sum(map(Counter, tallies.values()), Counter()).most_common())


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("photograph", type=Path)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments if arguments is None else list(arguments))
    saved = options.json and options.json.with_suffix(".partial")
    found = run(Image.open(options.photograph), options.count, options.seed, saved)
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
        saved.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
