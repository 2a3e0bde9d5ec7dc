"""A file never makes a program fetch, open or run anything."""

import dataclasses
import io
import os
import subprocess
import sys

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from PIL import Image

import compressai_uqdm

from compressai_uqdm.cli import main
from compressai_uqdm.files.container import pack_header, parse_header
from compressai_uqdm.files.decoding import StreamingDecoder, decode
from compressai_uqdm.files.header import Header
from compressai_uqdm.zoo import RECIPES

DATA = Path(__file__).parents[1] / "data"
FILES = sorted(DATA.glob("v2-*.uqdm"))


def named(model: str, path: Path = DATA / "v2-photo-gray.uqdm") -> bytes:
    """A file that names a model."""
    data = path.read_bytes()
    header, start = parse_header(data)  # type: ignore[misc]
    return pack_header(dataclasses.replace(header, model=model)) + data[start:]


WATCH = """
import os, sys
import compressai_uqdm, compressai_uqdm.files.decoding, compressai_uqdm.zoo
from PIL import Image
Image.init()
data = open(sys.argv[1], "rb").read()
allowed = os.path.dirname(compressai_uqdm.__file__) + os.sep
seen = []

def watch(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        path = os.path.abspath(os.fsdecode(args[0]))
        is_code = "r" in str(args[1] or "r") and path.endswith((".py", ".pyc", ".so"))
        if not path.startswith(allowed) and not is_code:
            seen.append(f"open {path}")
    elif event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.fork",
                           "os.posix_spawn", "pickle.", "ctypes.dlopen", "os.listdir",
                           "os.remove", "os.rename", "os.mkdir", "shutil.", "urllib.")):
        seen.append(event)

sys.addaudithook(watch)
try:
    compressai_uqdm.decode(data)
except (ValueError, FileNotFoundError) as error:
    print(type(error).__name__)
print(*seen, sep="\\n")
"""


@pytest.mark.parametrize("name", ["v2-photo-rgb", "v2-nano-rgb", "named"])
def test_decoding_opens_and_fetches_nothing_but_the_package_s_files(
    name: str, tmp_path: Path
) -> None:
    path = DATA / f"{name}.uqdm"
    if name == "named":
        path = tmp_path / "named.uqdm"
        path.write_bytes(named("someone/repository"))
    done = subprocess.run(
        [sys.executable, "-c", WATCH, str(path)],
        env={**os.environ, "PYTHONPATH": str(DATA.parent.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = ["FileNotFoundError", ""] if name == "named" else [""]
    assert done.stdout.split("\n")[:-1] == expected


# ---- names that a file may not choose ----


class Server(ThreadingHTTPServer):
    """Counts what it is asked for."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)
        Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


NAMES = [
    "someone/repository",
    "justuswill/UQDM",
    "uqdm-small",
    "uqdm-big-ctx",
    "uqdm-tiny",
    "vdm-tiny",
    "no-such-model",
    "../../etc",
    "/etc/passwd",
    "file:///etc/passwd",
    "~/secret",
    "UQDM-PHOTO",
]


@pytest.mark.slow
def test_no_entry_point_looks_up_what_a_file_names(tmp_path: Path) -> None:
    """The command, the API and Pillow, with a server for the Hub, and paths."""
    server = Server()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)  # opening it would wait for ever
    program = tmp_path / "decode.py"
    program.write_text(
        "import io, sys, compressai_uqdm\n"
        "from PIL import Image\n"
        "from compressai_uqdm.cli import main\n"
        "for path in sys.argv[1:]:\n"
        "    print('-', path)\n"
        "    data = open(path, 'rb').read()\n"
        "    for read in (compressai_uqdm.decode, compressai_uqdm.load,\n"
        "                 compressai_uqdm.StreamingDecoder().feed,\n"
        "                 lambda data: Image.open(io.BytesIO(data)).load()):\n"
        "        try:\n"
        "            read(path if read is compressai_uqdm.load else data)\n"
        "        except (FileNotFoundError, OSError) as error:\n"
        "            assert 'model' in str(error) or 'weights' in str(error), error\n"
        "        else:\n"
        "            raise AssertionError(read)\n"
        "    for command in (['verify', path], ['decode', path, path + '.png']):\n"
        "        assert main(command) == 1\n"
        "    assert main(['info', path]) == 0\n"
    )
    paths = []
    for i, name in enumerate([*NAMES, str(fifo), fifo.name]):
        path = tmp_path / f"{i}.uqdm"
        path.write_bytes(named(name))
        paths.append(str(path))
    # a picture so large that a command measures how long it would take
    data = named("someone/repository")
    header, start = parse_header(data)  # type: ignore[misc]
    large = dataclasses.replace(header, size=(9000, 9000))
    Path(paths[0]).write_bytes(pack_header(large) + data[start:])
    home = str(tmp_path / "home")
    done = subprocess.run(
        [sys.executable, str(program), *paths],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(DATA.parent.parent),
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": home,
            "HOME": home,
            "COMPRESSAI_UQDM_ZOO": "",
            "OMP_NUM_THREADS": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    server.shutdown()
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert server.requests == []


def test_which_models_a_file_may_name() -> None:
    verified = {name for name, recipe in RECIPES.items() if recipe.is_verified}
    assert verified == {
        "uqdm-tiny",
        "uqdm-tiny-ctx",
        "uqdm-nano",
        "uqdm-nano-ctx",
        "uqdm-photo",
    }
    with pytest.raises(FileNotFoundError, match="no known digest.*--model uqdm-small"):
        decode(named("uqdm-small"))


def test_weights_on_this_machine_are_used(
    zoo: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of published weights is one that the user chose."""
    path = DATA / "v2-rgb.uqdm"
    header: Header
    header, _ = parse_header(path.read_bytes())  # type: ignore[misc]
    assert header.model.startswith("uqdm-tiny")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert decode(path.read_bytes()).exact


# ---- fields that do not fit the model ----


@pytest.mark.parametrize(
    "change",
    [
        {"arithmetic": "float32"},
        {"arithmetic": "float64"},
        {"lengths": (9,) * 64},
        {"digest": b"others"},
        {"model": "uqdm-nano"},
        {"model": "uqdm-nano-ctx"},
    ],
    ids=str,
)
def test_fields_that_do_not_fit_the_model(change: dict[str, Any]) -> None:
    data = (DATA / "v2-photo-rgb.uqdm").read_bytes()
    header, start = parse_header(data)  # type: ignore[misc]
    forged = pack_header(dataclasses.replace(header, **change)) + data[start:]
    with pytest.raises(compressai_uqdm.DamagedFileError):
        decode(forged)
    with pytest.raises(compressai_uqdm.DamagedFileError):
        StreamingDecoder().feed(forged)
    image = Image.open(io.BytesIO(forged))
    with pytest.raises(OSError):
        image.load()


@pytest.mark.parametrize("exif", [b"garbage!!!!!!!!", b"MM\0*\0\0", b"Exif\0\0" * 600])
def test_metadata_never_stop_a_picture(exif: bytes) -> None:
    data = (DATA / "v2-photo-rgb.uqdm").read_bytes()
    header, start = parse_header(data)  # type: ignore[misc]
    forged = pack_header(dataclasses.replace(header, exif=exif)) + data[start:]
    expected = Image.open(DATA / "v2-photo-rgb.png").tobytes()
    assert decode(forged).image.tobytes() == expected
    image = Image.open(io.BytesIO(forged))
    assert image.tobytes() == expected


# ---- pictures to encode ----


@pytest.mark.skipif(os.name != "posix", reason="a shell's script in place of Ghostscript")
@pytest.mark.parametrize("side", [16, 4000])  # of large pictures, a part is coded before
def test_no_picture_runs_a_program(
    side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/was-run\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    picture = tmp_path / "a.png"  # whatever its name
    picture.write_text(
        f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 {side} {side}\n%%EndComments\n"
    )
    assert main(["encode", str(picture), str(tmp_path / "x.uqdm")]) == 1
    assert main(["demo", str(picture), "--output", str(tmp_path / "demo")]) == 1
    with Image.open(picture) as image, pytest.raises(ValueError, match="PostScript"):
        compressai_uqdm.encode(image)
    assert not (tmp_path / "was-run").exists()
