"""Every bad input of the command line with its message: ``docs/messages.md`` has them.

    UPDATE_MESSAGES=1 pytest tests/cli/test_cli_errors.py

writes that page anew; without it, the page must be what the command says.
"""

import dataclasses
import os
import re

from collections.abc import Callable
from pathlib import Path

import pytest

from PIL import Image

from compressai_uqdm.cli import main
from compressai_uqdm.files.container import pack_header, parse_header

PAGE = Path(__file__).parents[2] / "docs/messages.md"

HEAD = """\
# What the command says

Bad inputs of `uqdm`, each with its message on standard error. The exit code is 2 where the
command line is wrong, and nothing is done; it is 1 where an input is wrong: the others are
worked on, and each that failed has a line. With 0, something was done, if not all that was
wanted. Dots stand for numbers that other weights or another version would change.
`tests/cli/test_cli_errors.py` makes this page.
"""


def prepare(photograph: Image.Image) -> None:
    """The files that lines below name, in this folder."""
    rgb = photograph.crop((100, 100, 124, 116))
    rgb.save("photo.png")
    rgb.convert("CMYK").save("print.tif")
    rgb.save("profile.tif", icc_profile=bytes(1 << 21))
    Image.new("I;16", (4, 4)).save("deep.png")
    rgb.save("moving.gif", save_all=True, append_images=[rgb.rotate(90)])
    Path("text.png").write_text("no picture")
    Path("old.uqdm").write_text("dear to someone")
    os.mkdir("empty")
    assert main(["encode", "photo.png", "photo.uqdm"]) == 0
    transparent = rgb.copy()
    transparent.putalpha(Image.radial_gradient("L").resize(rgb.size))
    transparent.save("alpha.png")
    assert main(["encode", "alpha.png", "alpha.uqdm", "--stages", "1"]) == 0
    photograph.resize((160, 120)).save("flat.jpg", quality=30)

    data = Path("photo.uqdm").read_bytes()
    found = parse_header(data)
    assert found is not None
    header, start = found
    Path("header.uqdm").write_bytes(data[: start - 5])
    half = start + header.lengths[0] + header.lengths[1] // 2
    Path("short.uqdm").write_bytes(data[:half])
    assert main(["encode", "photo.png", "limited.uqdm", "--max-bytes", str(half)]) == 0
    Path("long.uqdm").write_bytes(data + b"more")
    damaged = bytearray(data)
    damaged[-50] ^= 1
    Path("damaged.uqdm").write_bytes(damaged)
    Path("version99.uqdm").write_bytes(data[:6] + bytes([99]) + data[7:])
    Path("text.uqdm").write_bytes(data.replace(b"\n", b"\r\n"))
    changes: dict[str, dict[str, object]] = {
        "mine": {"model": "mine"},
        "hub": {"model": "someone/mine"},
        "weights": {"digest": b"abcdef"},
        "huge": {"size": (99999, 99999)},
        "wide": {"size": (9999, 9999)},
        "profile": {"icc_profile": bytes(1 << 21)},
    }
    for name, change in changes.items():
        other = pack_header(dataclasses.replace(header, **change))  # type: ignore[arg-type]
        Path(f"{name}.uqdm").write_bytes(other + data[start:])


SECTIONS: dict[str, list[str]] = {
    "The command line": [
        "enocde photo.png new.uqdm",
        "encode",
        "encode photo.png",
        "encode photo.png new.uqdm --stages 0",
        "encode photo.png new.uqdm --stages many",
        "encode photo.png new.uqdm --bpp -1",
        "encode photo.png new.uqdm --seed -1",
        "encode photo.png new.uqdm --min-qsnr 40",
        "encode photo.png new.uqdm --arithmetic float16",
        "encode photo.png new.uqdm --max-bytes",
        "encode photo.png new.png",
        "encode photo.png deep.png solo.uqdm",
        "encode photo.png deep.png old.uqdm",
        "encode photo.png - new",
        "encode empty new",
        "decode photo.uqdm new.uqdm",
        "decode photo.uqdm new.xyz",
        "truncate photo.uqdm new.uqdm",
    ],
    "Names of inputs and outputs": [
        "encode nothing.png new.uqdm",
        "encode photo.png no/folder/new.uqdm",
        "encode photo.png empty.uqdm/new.uqdm",
        "encode photo.png old.uqdm",
        "encode photo.png photo.png new",
        "encode empty text.png new",
    ],
    "Pictures": [
        "encode text.png new.uqdm",
        "encode deep.png new.uqdm",
        "encode print.tif new.uqdm",
        "encode moving.gif new.uqdm",
        "encode photo.png new.uqdm --max-pixels 100",
        "encode profile.tif new.uqdm",
        "encode flat.jpg new.uqdm",
        "decode alpha.uqdm new.jpg",
        "decode photo.uqdm new.jpg",
    ],
    "Limits": [
        "encode photo.png new.uqdm --stages 9",
        "encode photo.png new.uqdm --max-bytes 9",
        "encode photo.png new.uqdm --bpp nan",
        "encode photo.png new.uqdm --min-psnr 60 --max-bytes 300",
        "truncate photo.uqdm new.uqdm --max-bytes 1000000",
        "truncate photo.uqdm new.uqdm --bpp 0.001",
        "decode photo.uqdm new.png --stages 9",
    ],
    "Models and devices": [
        "encode photo.png new.uqdm --model mine",
        "encode photo.png new.uqdm --model text.png",
        "encode photo.png new.uqdm --device abacus",
        "encode photo.png new.uqdm --arithmetic float32",
        "decode photo.uqdm new.png --reconstruction ancestral",
        "decode mine.uqdm new.png",
        "decode hub.uqdm new.png",
        "decode weights.uqdm new.png",
    ],
    "Files": [
        "decode photo.png new.png",
        "decode text.uqdm new.png",
        "decode version99.uqdm new.png",
        "decode header.uqdm new.png",
        "decode huge.uqdm new.png",
        "decode wide.uqdm new.png",
        "decode profile.uqdm new.png",
        "decode short.uqdm new.png",
        "decode limited.uqdm new.png",
        "decode damaged.uqdm new.png",
        "decode damaged.uqdm new.png --partial",
        "decode long.uqdm new.png",
        "verify damaged.uqdm",
        "verify short.uqdm",
        "info text.png",
    ],
    "The demonstration": ["demo text.png", "demo --output .", "demo --output old.uqdm"],
}

VARIES = (
    r"\d+\.\d\d(?= dB of)",
    r"(?<=it has )\d+",
    r"(?<=here it is )[0-9a-f]{12}",
    r"(?<=alone has )\d+",
    r"(?<=inside its header, after )\d+",
    r"\d+%(?= of the second)",
    r"(?<=made to a limit, with )\d+",
    r"(?<=this program reads version )[^:]+",
)
"""What other weights or another version would change."""


def said(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code, and all lines on standard error."""
    for left in Path.cwd().glob("new*"):
        if left.is_file():
            left.unlink()
    try:
        code = main(line.split())
    except SystemExit as error:
        code = int(str(error.code))
    text = capsys.readouterr().err
    assert "Traceback" not in text and text.endswith("\n"), line
    for one in text.splitlines():
        assert re.match(r"uqdm( \w+)?: ", one), one
    for pattern in VARIES:
        text = re.sub(pattern, "...", text)
    return code, text


def page(say: Callable[[str], tuple[int, str]]) -> str:
    parts = [HEAD]
    for title, lines in SECTIONS.items():
        parts.append(
            f"\n## {title}\n\n| `uqdm ...` | exit | message |\n| --- | --- | --- |\n"
        )
        for line in lines:
            code, text = say(line)
            cells = "<br>".join(f"`{one}`" for one in text.splitlines())
            parts.append(f"| `{line}` | {code} | {cells} |\n")
    return "".join(parts)


@pytest.mark.slow
def test_messages(
    tmp_path: Path,
    photograph: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(photograph)
    capsys.readouterr()
    found = page(lambda line: said(line, capsys))
    if os.environ.get("UPDATE_MESSAGES"):
        PAGE.write_text(found)
    assert found.splitlines() == PAGE.read_text().splitlines()
