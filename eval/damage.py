"""What becomes of damaged .uqdm files.

    python eval/damage.py kodak/05.png --count 20000 --json eval/results/damage.json

Small pictures cut from a photograph, in every colour mode and arithmetic, are encoded,
damaged by a generator of fixed seed, and decoded as a stream would be. A file may be
refused, or give the stages before the damage, or be taken for one that was cut short; it
may not crash, hang, take much memory, or give pixels that are wrong and called whole.
"""

import argparse
import dataclasses
import json
import random
import resource
import signal
import struct
import sys
import time
import zlib

from collections import Counter
from pathlib import Path

from PIL import Image

from compressai_uqdm import DamagedStringError, NotYetError, StreamingDecoder, encode
from compressai_uqdm.files.container import MAGIC, pack_header, parse_header
from compressai_uqdm.files.header import Header
from compressai_uqdm.files.model import DEFAULT_MODEL, Codec, open_codec
from compressai_uqdm.files.v2 import VERSION
from compressai_uqdm.varint import varint

MAX_PIXELS = 1 << 11
SECONDS = 5.0


@dataclasses.dataclass
class Original:
    """A file, and the picture of each of its stages, from none to all."""

    data: bytes
    header: Header
    start: int
    pictures: list[tuple[str, bytes]]


def pixels(image: Image.Image) -> tuple[str, bytes]:
    """Mode and colours; a palette may hold one of them twice."""
    return image.mode, image.convert("RGB").tobytes()


def originals(photograph: Image.Image, codec: Codec) -> list[Original]:
    """Files of small pictures."""
    first, last = codec.arithmetics[0], codec.arithmetics[-1]
    cases = [
        ((8, 8), "RGB", first),
        ((11, 16), "L", first),
        ((13, 9), "P", first),
        ((16, 8), "1", first),
        ((9, 9), "RGB", last),
    ]
    found = []
    for i, (size, mode, arithmetic) in enumerate(cases):
        image = photograph.convert("RGB").crop((40 * i, 60, 40 * i + 160, 220)).resize(size)
        image = image.quantize(8) if mode == "P" else image.convert(mode)
        if i == 1:
            image.info["icc_profile"] = bytes(range(256))
        data = encode(image, codec, arithmetic=arithmetic)
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
        assert pictures[-1] == pixels(image)
        found.append(Original(data, header, start, pictures))
    return found


# ---- damage ----


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


def body(rng: random.Random, original: Original) -> bytes:
    """Another header, with the right checksum, damaged bytewise."""
    start = original.data[: original.start - 4]
    inner = start[start.index(bytes([len(original.header.model)])) :]
    damage = rng.choice((flip, cut, insert, delete, overwrite, swap))
    inner = damage(rng, inner)
    start = MAGIC + bytes([VERSION]) + varint(len(inner)) + inner
    return start + struct.pack("<I", zlib.crc32(start)) + original.data[original.start :]


def field(rng: random.Random, original: Original) -> bytes:
    """Another header, with the right checksum, one of whose fields is absurd."""
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
    change = rng.choice(
        [
            {"size": size},
            {"seed": rng.choice((1, (1 << 35) - 1, rng.randrange(1 << 32)))},
            {"arithmetic": rng.choice(("float32", "float64"))},
            {"lengths": tuple(lengths)},
            {"lengths": header.lengths[: rng.randrange(1, 5)]},
            {"lengths": tuple(rng.randrange(1 << 35) for _ in range(rng.randrange(99)))},
            {"lengths": tuple(rng.choice((0, 1, n)) for n in header.lengths)},
            {"colour": rng.choice(("RGB", "L", "1"))},
            {"colour": "P", "palette": rng.randbytes(3 * rng.randrange(300))},
            {"digest": rng.randbytes(6)},
            {"orientation": rng.randrange(1, 9)},
            {"icc_profile": bytes(rng.choice((1, 1 << 20)))},
        ]
    )
    return (
        pack_header(dataclasses.replace(header, **change)) + original.data[original.start :]
    )


def listed(rng: random.Random, original: Original) -> bytes:
    """A file whose stage tells of values near a boundary that are not."""
    stage = rng.randrange(len(original.header.lengths) - 1)
    header, at = original.header, original.start + sum(original.header.lengths[:stage])
    entries = [rng.choice((0, 1, 5, 200, (1 << 35) - 1)) for _ in range(rng.randrange(9))]
    found = b"".join(map(varint, (len(entries), *entries)))
    strings = original.data[original.start : at] + found + original.data[at + 1 :]
    lengths = list(header.lengths)
    lengths[stage] += len(found) - 1
    return pack_header(dataclasses.replace(header, lengths=tuple(lengths))) + strings


def damaged(rng: random.Random, original: Original) -> tuple[str, bytes]:
    """The kind of damage, and the damaged file."""
    kinds = (flip, flip, cut, insert, delete, overwrite, swap, body, field, listed)
    changed = rng.choice(kinds)
    if changed in (body, field, listed):
        return changed.__name__, changed(rng, original)  # type: ignore[arg-type]
    data = changed(rng, original.data)  # type: ignore[arg-type]
    if data and rng.random() < 0.1:
        return f"{changed.__name__} and cut", cut(rng, data)
    return changed.__name__, data


# ---- outcome ----


def outcome(data: bytes, original: Original, codec: Codec) -> str:
    """What a decoder makes of a file: one word; ``"wrong"`` is the one that may not be."""
    decoder = StreamingDecoder(codec, max_pixels=MAX_PIXELS)
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
    same = (header.size, header.colour) == (original.header.size, original.header.colour)
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


def run(photograph: Image.Image, count: int, seed: int = 0) -> dict[str, object]:
    """Damage so many files."""
    codec = open_codec(DEFAULT_MODEL)
    files = originals(photograph, codec)
    loaded = peak_memory()
    rng = random.Random(seed)
    outcomes: dict[str, Counter[str]] = {}
    slowest, unharmed = 0.0, 0

    def hangs(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGPROF, hangs)
    for i in range(count):
        original = rng.choice(files)
        kind, data = damaged(rng, original)
        unharmed += data == original.data
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            found = outcome(data, original, codec)
        except TimeoutError:
            found = "hung"
        except Exception as error:
            found = f"crashed: {error!r}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        slowest = max(slowest, time.process_time() - start)
        outcomes.setdefault(kind, Counter())[found] += 1
        if found in ("wrong", "hung") or found.startswith("crashed"):
            print(f"file {i}, {kind}: {found}\n{data.hex()}", flush=True)
        if i % 1000 == 999:
            total = sum(outcomes.values(), Counter())
            print(i + 1, dict(total), file=sys.stderr, flush=True)
    return {
        "files": count,
        "seed": seed,
        "unharmed": unharmed,
        "outcomes": dict(sum(outcomes.values(), Counter()).most_common()),
        "by kind of damage": {kind: dict(outcomes[kind]) for kind in sorted(outcomes)},
        "slowest, seconds of CPU": round(slowest, 3),
        "peak memory of the process, MiB": peak_memory() >> 10,
        "of these, libraries and model, MiB": loaded >> 10,
    }


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("photograph", type=Path)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = run(Image.open(options.photograph), options.count, options.seed)
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
