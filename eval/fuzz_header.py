"""A coverage-guided fuzzer on the header parser (``pip install atheris``).

    python eval/fuzz_header.py -max_total_time=600 -rss_limit_mb=1024

Every input is tried as it is, and as the body of a header whose checksum is right. What
is parsed must come back from being written.
"""

import struct
import sys
import zlib

import atheris

with atheris.instrument_imports(include=["compressai_uqdm.files"]):
    from compressai_uqdm.files.container import MAGIC, pack_header, parse_header
    from compressai_uqdm.files.v2 import VERSION
from compressai_uqdm import DamagedStringError
from compressai_uqdm.files.header import Header
from compressai_uqdm.varint import varint

LIMIT = 1 << 20


def parse(data: bytes) -> Header | None:
    try:
        found = parse_header(data, LIMIT)
    except DamagedStringError:
        return None
    except ValueError as error:  # nothing else may come
        assert "more than the limit" in str(error)
        return None
    if found is None:
        return None
    header, length = found
    assert length <= len(data) and header.size[0] * header.size[1] <= LIMIT
    assert parse_header(pack_header(header), LIMIT) == (header, len(pack_header(header)))
    return header


def test_one_input(data: bytes) -> None:
    parse(data)
    start = MAGIC + bytes([VERSION]) + varint(len(data)) + data
    parse(start + struct.pack("<I", zlib.crc32(start)))


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
