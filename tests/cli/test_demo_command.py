"""``uqdm demo``: what it writes, and what it opens."""

import base64
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import time

from pathlib import Path
from typing import Any

import numpy as np
import pexpect
import pytest

from PIL import Image

from compressai_uqdm import load
from compressai_uqdm.cli import main
from compressai_uqdm.cli.demo import PHOTO


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture_of(folder: str) -> dict[str, Any]:
    """What the page has of the picture, after a check that it needs nothing else."""
    text = Path(folder, "index.html").read_text()
    start, data = text.split('<script type="application/json" id="data">')
    data, end = data.split("</script>", 1)
    assert not re.search(r"@import|url\(|<link|<iframe|(src|href)=", start)
    assert not re.search(r"@import|url\(|<link|<iframe|(src|href)=\"", end)
    (picture,) = json.loads(data)["pictures"]
    assert isinstance(picture, dict)
    return picture


def embedded(source: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))


@pytest.mark.slow
def test_packaged_photograph(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    names = ["friends.uqdm", "index.html", *(f"stage{n}.png" for n in range(1, 7))]
    assert sorted(path.name for path in Path("uqdm-demo/friends").iterdir()) == names
    size = Path("uqdm-demo/friends/friends.uqdm").stat().st_size
    (line,) = re.findall("without loss, in bytes: (.*)", told.out)
    listed = dict(re.findall(r"(\S[^,]*) ([\d,]+)(?:, |$)", line))
    kinds = [".uqdm", "PNG", "WebP", "JPEG 2000"]
    if importlib.util.find_spec("pillow_jxl"):
        kinds.append("JPEG XL")
    assert list(listed) == kinds
    ours, *others = (int(number.replace(",", "")) for number in listed.values())
    assert ours == size
    assert all(0.7 < other / size < 1.5 for other in others)  # with their lossless modes
    for text in ("stage1.png: from the first ", ", exact\n", "384 x 256"):
        assert text in told.out
    assert f"stage6.png: from the first {size:,} bytes of friends.uqdm, " in told.out
    assert (
        "Aitzol Berasategi, CC BY 4.0" in Path("uqdm-demo/friends/index.html").read_text()
    )

    steps = picture_of("uqdm-demo/friends")["steps"]
    sizes = [step["size"] for step in steps]
    assert len(sizes) == 24 and sizes == sorted(sizes) and sizes[-1] == size
    whole = load("uqdm-demo/friends/friends.uqdm").image
    assert whole.tobytes() == Image.open(PHOTO).convert("RGB").tobytes()
    assert embedded(steps[-1]["src"]).tobytes() == whole.tobytes()
    assert Image.open("uqdm-demo/friends/stage6.png").tobytes() == whole.tobytes()
    second = Image.open("uqdm-demo/friends/stage2.png")
    assert embedded(steps[7]["src"]).tobytes() == second.tobytes()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="xdg-open opens pages on Linux")
@pytest.mark.parametrize("has_display", [False, True])
@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_browser_opens_where_it_can_be_seen(
    folder: Path, photograph: Image.Image, python: str, has_display: bool, is_terminal: bool
) -> None:
    photograph.crop((200, 100, 216, 108)).save("mine.png")
    os.mkdir("bin")
    Path("bin/xdg-open").write_text(f'#!/bin/sh\necho "$1" >> "{folder}/opened"\n')
    os.chmod("bin/xdg-open", 0o755)
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    env = {name: value for name, value in os.environ.items() if name not in displays}
    env["PATH"] = f"{folder}/bin{os.pathsep}{env['PATH']}"
    if has_display:
        env["DISPLAY"] = ":0"
    command = ["-m", "compressai_uqdm", "demo", "mine.png"]
    if is_terminal:
        child = pexpect.spawn(sys.executable, command, env=env, timeout=120)
        out = child.read().decode()
        child.close()
        assert child.exitstatus == 0, out
    else:
        done = subprocess.run([python, *command], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    opened = Path("opened")
    if has_display and is_terminal:
        for _ in range(100):  # nobody waits for a browser
            if opened.exists():
                break
            time.sleep(0.1)
        assert opened.read_text() == f"{Path('uqdm-demo/mine/index.html').resolve()}\n"
    else:
        assert not opened.exists()


def test_a_named_photograph(photograph: Image.Image) -> None:
    """As a telephone holds it: the page and the file have it upright."""
    exif = Image.Exif()
    exif[274] = 6
    crop = photograph.crop((200, 100, 248, 132))
    crop.save("mine.png", exif=exif)
    assert main(["demo", "mine.png", "--output", "shown"]) == 0
    upright = load("shown/mine.uqdm").image
    assert upright.getexif().get(274, 1) == 1
    assert (np.asarray(upright) == np.rot90(np.asarray(crop), -1)).all()
    picture = picture_of("shown")
    assert picture["name"] == "mine"
    assert embedded(picture["steps"][-1]["src"]).size == (32, 48)
    assert "Berasategi" not in Path("shown/index.html").read_text()


def test_a_photograph_in_gray(
    photograph: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other files are not made to hold three colours where there is one."""
    gray = photograph.crop((200, 100, 248, 132)).convert("L")
    gray.save("mine.png", optimize=True)
    assert main(["demo", "mine.png"]) == 0
    assert load("uqdm-demo/mine/mine.uqdm").image.tobytes() == gray.tobytes()
    assert f"PNG {Path('mine.png').stat().st_size:,}," in capsys.readouterr().out
    # what is there is kept, unless it is to be replaced
    assert main(["demo", "mine.png"]) == 1
    assert "uqdm-demo/mine has files in it: give --force" in capsys.readouterr().err
    assert main(["demo", "mine.png", "--force"]) == 0
    last = embedded(picture_of("uqdm-demo/mine")["steps"][-1]["src"])
    assert last.convert("L").tobytes() == gray.tobytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.png", "nothing.png: No such file or directory; check the name"),
        ("text.png", "text.png: no picture that Pillow can read"),
        ("deep.png", "deep.png: expected 8 bits per channel"),
    ],
)
def test_what_is_no_photograph(
    capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    Path("text.png").write_text("text")
    Image.new("I;16", (4, 4)).save("deep.png")
    assert main(["demo", name]) == 1
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not Path("uqdm-demo").exists()
