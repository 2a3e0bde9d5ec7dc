"""A coverage-guided fuzzer on the header parser (``pip install atheris``).

    python eval/fuzz_header.py -max_total_time=600 -rss_limit_mb=1024

Every input is tried as it is, and as the body of a header whose checksum is right; as bytes
and as a file. What is parsed must come back from being written, and its metadata takes no
more memory than it claims.
"""

import io
import struct
import sys
import zlib

import atheris

with atheris.instrument_imports(include=["compressai_uqdm.files"]):
    from compressai_uqdm.files.container import (
        MAGIC,
        pack_header,
        parse_header,
        read_header,
    )
    from compressai_uqdm.files.exif import read_orientation, with_orientation
    from compressai_uqdm.files.png import bare_png
    from compressai_uqdm.files.v2 import VERSION
from compressai_uqdm import DamagedStringError
from compressai_uqdm.bitstream.varint import varint

LIMIT = 1 << 20


def parse(data: bytes) -> None:
    try:
        found = parse_header(data, LIMIT, LIMIT)
    except DamagedStringError:
        return
    except ValueError as error:  # nothing else may come
        assert "more than the limit" in str(error)
        return
    if found is None:
        return
    header, length = found
    assert length <= len(data) and header.size[0] * header.size[1] <= LIMIT
    packed = pack_header(header)
    assert parse_header(packed, LIMIT) == (header, len(packed))
    assert read_header(io.BytesIO(data)) == (header, data[:length])
    for block in (header.icc_profile, header.exif):
        try:
            unpacked = block.unpack()
        except DamagedStringError:
            continue
        assert len(unpacked) == len(block) <= LIMIT
        read_orientation(unpacked)
        assert read_orientation(with_orientation(unpacked, 6)) == 6
    try:
        assert len(bare_png(header.alpha)) <= len(header.alpha)
    except DamagedStringError:
        pass


def test_one_input(data: bytes) -> None:
    parse(data)
    start = MAGIC + bytes([VERSION]) + varint(len(data)) + data
    parse(start + struct.pack("<I", zlib.crc32(start)))


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
