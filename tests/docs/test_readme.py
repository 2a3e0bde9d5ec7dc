"""The README's programs, as they stand there."""

import math
import os
import re
import subprocess
import sys

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from PIL import Image

import compressai_uqdm

README = Path(__file__).parents[2] / "README.md"


def program(start: str) -> str:
    """The only one that has this in it."""
    found = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    (text,) = [text for text in found if start in text]
    return text


@pytest.mark.slow
def test_commands(photograph: Image.Image, tmp_path: Path, python: str) -> None:
    """Those of ``uqdm``, in the order of the page."""
    blocks = re.findall(r"```bash\n(.*?)```", README.read_text(), re.S)
    commands = "".join(blocks).replace("pip install . && ", "")
    lines = [line for line in commands.splitlines() if line.startswith("uqdm ")]
    assert lines[0].startswith("uqdm demo ") and len(lines) > 5
    (tmp_path / "photographs").mkdir()
    for name in ("photo", "photographs/a", "photographs/b"):
        photograph.crop((200, 100, 232, 124)).save(tmp_path / f"{name}.png")
    function = f'uqdm() {{ "{python}" -m compressai_uqdm "$@"; }}'
    done = subprocess.run(
        ["bash", "-c", "\n".join(["set -e", function, *lines])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "coded in" in done.stdout.splitlines()[0]
    names = ["back.png", "half.png", "stages", "coded/b.uqdm"]
    names += ["uqdm-demo/friends/index.html"]
    assert all((tmp_path / name).exists() for name in names)


@pytest.mark.slow
def test_in_compressai(photograph: Image.Image, tmp_path: Path) -> None:
    """In a process of its own, in which nothing of ours was imported."""
    photograph.crop((200, 100, 290, 170)).save(tmp_path / "photo.png")
    done = subprocess.run(
        [sys.executable, "-c", program("compressai.zoo")],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},  # the weights are in the package
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    sizes = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(sizes) == 6 and sizes == sorted(sizes)


def test_in_python(
    photograph: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photograph.crop((200, 100, 232, 124)).save("photo.png")
    names: dict[str, Any] = {}
    exec(program("compressai_uqdm.save"), names)
    photo, picture = names["photo"], names["picture"]
    error = np.asarray(picture.image, float) - np.asarray(photo)
    assert 10 * math.log10(255**2 / np.square(error).mean()) >= 35
    assert not picture.exact and compressai_uqdm.load("photo.uqdm").exact
    assert Image.open("back.png").tobytes() == photo.tobytes()


def test_links() -> None:
    """Those of the repository, with the headings that they name."""
    links = re.findall(r"\]\(([\w/.-]+)(?:#([\w-]+))?\)", README.read_text())
    assert len(links) > 10
    for path, heading in links:
        assert (README.parent / path).is_file(), path
        if heading:
            text = (README.parent / path).read_text()
            titles = re.findall(r"^#+ (.*)", text, re.M)
            assert heading in [title.lower().replace(" ", "-") for title in titles]
