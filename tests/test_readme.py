"""The README's programs, as they stand there."""

import os
import re
import socket
import subprocess
import sys

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from PIL import Image, ImageFile

import compressai_uqdm

README = Path(__file__).parent.parent / "README.md"


def program(start: str) -> str:
    """The only one that has this in it."""
    found = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    (text,) = [text for text in found if start in text]
    return text


@pytest.mark.slow
def test_commands(photograph: Image.Image, tmp_path: Path) -> None:
    """Those of ``uqdm``, in the order of the page."""
    blocks = re.findall(r"```bash\n(.*?)```", README.read_text(), re.S)
    lines = [line for line in "".join(blocks).splitlines() if line.startswith("uqdm ")]
    assert lines[0].startswith("uqdm demo ") and len(lines) > 5
    (tmp_path / "photographs").mkdir()
    for name in ("photo", "photographs/a", "photographs/b"):
        photograph.crop((200, 100, 232, 124)).save(tmp_path / f"{name}.png")
    function = f'uqdm() {{ "{sys.executable}" -m compressai_uqdm "$@"; }}'
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
def test_first_program(photograph: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "photograph.py").write_text(program("# photograph.py"))
    photograph.crop((200, 100, 290, 170)).save(tmp_path / "some.png")
    done = subprocess.run(
        [sys.executable, "photograph.py", "some.png"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},  # the weights are in the package
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    sizes = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(sizes) == 4 and sizes == sorted(sizes)
    last = Image.open(tmp_path / "stage4.png")
    assert last.tobytes() == Image.open(tmp_path / "some.png").tobytes()


@pytest.mark.parametrize("share", [1, 0.8, 0], ids=["whole", "broken off", "nothing"])
def test_files_and_streams(
    photograph: Image.Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
) -> None:
    """Over a socket, where the first pieces are shorter than the header."""
    monkeypatch.chdir(tmp_path)
    photograph.crop((200, 100, 232, 124)).save("photo.png")

    class Connection:
        def __iter__(self) -> Iterator[bytes]:
            data = Path("photo.uqdm").read_bytes()
            here, there = socket.socketpair()
            with here, there:
                there.sendall(data[: round(share * len(data))])
                there.shutdown(socket.SHUT_WR)
                yield from iter(lambda: here.recv(20), b"")

    names: dict[str, Any] = {"connection": Connection()}
    text = program("StreamingDecoder")
    if share == 0:
        with pytest.raises(compressai_uqdm.NotYetError, match="not whole after 0 bytes"):
            exec(text, names)
        return
    exec(text, names)
    arrived = sorted(path.name for path in tmp_path.glob("arrived*.png"))
    picture = names["picture"]
    assert arrived == [f"arrived{stage}.png" for stage in range(1, picture.stages + 1)]
    assert picture.exact == (share == 1) and 0 <= picture.share < 1
    if picture.exact:
        assert picture.stages == 4
        for image in (picture.image, Image.open("arrived4.png")):
            assert image.tobytes() == Image.open("photo.png").tobytes()
    else:
        assert picture.stages == 3


def test_pillow(
    photograph: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)  # set back after it
    image = photograph.crop((200, 100, 232, 124))
    image.save("photo.png")
    whole = compressai_uqdm.encode(image)
    Path("half.uqdm").write_bytes(whole[: len(whole) // 2])
    exec(program("LOAD_TRUNCATED_IMAGES"), {})
    for name in ("coarse", "half"):
        expected = compressai_uqdm.load(f"{name}.uqdm")
        assert not expected.exact
        assert Image.open(f"{name}.png").tobytes() == expected.image.tobytes()
