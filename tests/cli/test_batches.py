"""Inputs of the command: folders, devices, and those that cannot be read or kept."""

import dataclasses
import io
import os
import signal
import socket
import subprocess
import sys
import threading

from pathlib import Path

import numpy as np
import pytest

from other_user import as_a_user
from PIL import Image, features

from compressai_uqdm.cli import inputs, main
from compressai_uqdm.cli.outputs import as_bytes, not_kept
from compressai_uqdm.files.container import pack_header, parse_header

TESTS = Path(__file__).parents[1]
DATA = TESTS / "data/v2-photo-rgb.uqdm"


def run(
    *arguments: str, timeout: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "compressai_uqdm", *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


# ---- inputs that are no files, or no end of one ----


@pytest.mark.skipif(os.name != "posix", reason="makes pipes and sockets")
def test_only_files_of_a_folder_are_inputs(folder: Path) -> None:
    """What is none would block, or belongs to other programs; a broken link is told of."""
    os.mkdir("in")
    Path("in/a.uqdm").write_bytes(DATA.read_bytes())
    os.symlink("a.uqdm", "in/b.uqdm")
    os.mkfifo("in/pipe.uqdm")
    os.mkdir("in/folder.uqdm")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("in/socket.uqdm")
        done = run("info", "in")
    names = [line.split(":")[0] for line in done.stdout.splitlines() if "version" in line]
    assert (done.returncode, done.stderr, names) == (0, "", ["in/a.uqdm", "in/b.uqdm"])
    os.symlink("nowhere", "in/c.uqdm")
    os.symlink("d.uqdm", "in/d.uqdm")
    done = run("truncate", "in", "out", "--stages", "1")
    assert done.returncode == 1 and done.stderr.splitlines() == [
        "uqdm: in/c.uqdm: No such file or directory; check the name",
        "uqdm: in/d.uqdm: Too many levels of symbolic links",
    ]
    assert sorted(os.listdir("out")) == ["a.uqdm", "b.uqdm"]


@pytest.mark.skipif(os.name != "posix", reason="makes a pipe")
def test_a_pipe_that_is_named_is_an_input(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo("pipe.uqdm")
    for command in (["info"], ["truncate", "--stages", "1", "--force"]):
        writer = threading.Thread(
            target=lambda: Path("pipe.uqdm").write_bytes(DATA.read_bytes())
        )
        writer.start()
        assert main([*command, "pipe.uqdm", *["out.uqdm"] * (command != ["info"])]) == 0
        writer.join()
    assert f"{DATA.stat().st_size} bytes" in capsys.readouterr().out
    assert DATA.read_bytes().startswith(Path("out.uqdm").read_bytes())


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero")
def test_devices_without_end(folder: Path) -> None:
    for command in (
        ["info", "/dev/zero"],
        ["verify", "/dev/urandom"],
        ["decode", "/dev/zero", "out.png"],
        ["encode", "/dev/zero", "out.uqdm"],
        ["truncate", "/dev/zero", "out.uqdm", "--stages", "1"],
        ["demo", "/dev/zero"],
    ):
        done = run(*command)
        assert done.returncode == 1 and done.stderr == (
            f"uqdm: {command[1]}: a device, which may have no end: expected a file or a "
            "pipe\n"
        )
    with open("/dev/zero", "rb") as zero:
        line = [sys.executable, "-m", "compressai_uqdm", "encode", "-", "out.uqdm"]
        assert subprocess.run(line, stdin=zero, stderr=subprocess.DEVNULL).returncode == 1


def sparse(name: str, start: bytes = b"") -> str:
    """A file of 3 GiB, most of them not on the disk."""
    with open(name, "wb") as file:
        file.write(start)
        file.truncate(3 << 30)
    return name


LITTLE = (
    "import resource, sys; from compressai_uqdm.cli import run\n"
    "resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))\n"
    "run()"
)


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_large_files_that_are_not_read(folder: Path) -> None:
    """In half a GiB of memory."""
    data = DATA.read_bytes()
    for command, code, words in (
        (["info", sparse("none.uqdm")], 1, "none.uqdm: not a .uqdm file"),
        (["verify", "none.uqdm"], 1, "none.uqdm: not a .uqdm file"),
        (["encode", sparse("none.png"), "out.uqdm"], 1, "no picture that Pillow can read"),
        (["info", sparse("long.uqdm", data)], 0, f"{(3 << 30) - len(data)} bytes that"),
        (["truncate", "long.uqdm", "out.uqdm", "--stages", "6"], 0, ""),
    ):
        line = [sys.executable, "-c", LITTLE, *command]
        done = subprocess.run(line, capture_output=True, text=True, timeout=20)
        assert done.returncode == code and words in done.stdout + done.stderr, done.stderr
        assert done.stderr.count("\n") == code
    assert Path("out.uqdm").read_bytes() == data


@pytest.mark.parametrize(
    ("start", "command", "message"),
    [
        (b"", "encode - out.uqdm", "more than 1 MiB came through a pipe"),
        (b"", "info -", "not a .uqdm file"),
        (b"claims", "info -", "more than 1 MiB came through a pipe"),
        (b"claims", "decode - out.png", "more than 1 MiB came through a pipe"),
    ],
)
def test_pipes_without_end(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    start: bytes,
    command: str,
    message: str,
) -> None:
    """The limit is a smaller one here."""
    if start:
        header, _ = parse_header(DATA.read_bytes())  # type: ignore[misc]
        start = pack_header(dataclasses.replace(header, lengths=(1 << 30,)))
    monkeypatch.setattr(inputs, "STREAM_LIMIT", 1 << 20)
    reader, writer = os.pipe()

    def write() -> None:
        with open(writer, "wb") as pipe:
            try:
                pipe.write(start)
                while True:
                    pipe.write(b"y\n" * 1000)
            except BrokenPipeError:
                pass

    thread = threading.Thread(target=write)
    thread.start()
    with open(reader) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(command.split()) == 1
    thread.join()
    errors = capsys.readouterr().err
    assert errors.startswith(f"uqdm: standard input: {message}")
    assert errors.count("\n") == 1


# ---- one input that is wrong ----


@pytest.mark.slow
def test_what_is_wrong_with_one_stops_no_other(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph = Image.open("a.png")
    photograph.save("whole.webp", lossless=True)
    data = Path("a.png").read_bytes()
    Path("broken.png").write_bytes(data[:400] + bytes(40) + data[440:])
    Path("cut.png").write_bytes(data[: len(data) // 2])
    Path("empty.png").touch()
    photograph.convert("CMYK").save("print.tif")
    os.makedirs("nothing/z.png")
    names = ["broken.png", "cut.png", "empty.png", "print.tif", "nothing", "missing.png"]
    long = "n" * 300 + ".png"
    inputs = ["a.png", long, *names, "whole.webp"]
    assert main(["encode", *inputs, "out", "--stages", "1"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert sorted(line.split(": ")[1] for line in errors) == sorted([*names, long])
    assert sorted(os.listdir("out")) == ["a.uqdm", "whole.uqdm"]

    for name in ("a", "whole"):  # and of files
        Path(f"out/{name}.uqdm").write_bytes(DATA.read_bytes())
    damaged = bytearray(DATA.read_bytes())
    damaged[-50] ^= 1
    Path("out/damaged.uqdm").write_bytes(damaged)
    Path("out/short.uqdm").write_bytes(damaged[:20])
    Path("out/text.uqdm").write_text("text")
    os.mkdir("back")
    os.mkdir("back/whole.png")
    assert main(["decode", "out", "nothing", "missing.uqdm", "back"]) == 1
    assert capsys.readouterr().err.count("\n") == 6
    assert sorted(os.listdir("back")) == ["a.png", "whole.png"]


@pytest.mark.skipif(os.name != "posix", reason="changes user")
def test_files_without_permission(folder: Path, tmp_path: Path) -> None:
    """One file, and one folder, among others that can be read."""
    for name in (".", "locked", "in"):
        os.makedirs(name, exist_ok=True)
        os.chmod(name, 0o755)
    for name in ("in/a.uqdm", "in/b.uqdm", "in/c.uqdm", "locked/d.uqdm"):
        Path(name).write_bytes(DATA.read_bytes())
    os.chmod("in/b.uqdm", 0)
    os.chmod("locked", 0)
    assert main(["info", "in/a.uqdm"]) == 0  # imports what the other user may not read
    code, text, errors = as_a_user("info", "in", "locked")
    assert code == 1, errors
    os.chmod("locked", 0o755)
    assert errors.splitlines() == [
        "uqdm: locked: Permission denied",
        "uqdm: in/b.uqdm: Permission denied",
    ]
    assert "in/a.uqdm: version" in text and "in/c.uqdm: version" in text


def test_a_folder_without_inputs(folder: Path) -> None:
    """Alone it is a mistake; among others they are worked on."""
    os.mkdir("empty")
    done = run("info", "empty")
    assert done.returncode == 2 and "no .uqdm in the folder empty" in done.stderr
    done = run("info", "empty", str(DATA))
    assert done.returncode == 1 and "version 2" in done.stdout
    assert done.stderr == "uqdm: empty: a folder with no files for this command in it\n"


def test_the_output_lies_in_the_folder_of_the_inputs(folder: Path) -> None:
    os.mkdir("in")
    Path("in/a.uqdm").write_bytes(DATA.read_bytes())
    assert main(["truncate", "in", "in/out", "--stages", "1"]) == 0
    assert main(["truncate", "in", "in/out", "--stages", "1"]) == 1
    assert main(["truncate", "in", "in", "--stages", "1"]) == 1
    assert Path("in/a.uqdm").read_bytes() == DATA.read_bytes()
    assert sorted(os.listdir("in")) == ["a.uqdm", "out"]


@pytest.mark.slow
def test_pictures_of_stages_replace_none(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkdir("stages")
    Path(f"stages/{DATA.stem}.stage3.png").write_text("dear")
    assert main(["decode", str(DATA), "--progressive", "stages"]) == 1
    errors = capsys.readouterr().err
    assert "stage3.png exists: give --force" in errors and errors.count("\n") == 1
    assert os.listdir("stages") == [f"{DATA.stem}.stage3.png"]
    assert main(["decode", str(DATA), "--progressive", "stages", "--force"]) == 0
    assert len(os.listdir("stages")) == 6


# ---- launchers ----


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "RANK"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK"),
        ({"WORLD_SIZE": "2", "RANK": "one"}, "RANK"),
        ({"WORLD_SIZE": "1", "RANK": "1"}, "RANK"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR"),
    ],
)
def test_variables_of_launchers(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    name: str,
) -> None:
    """Those that no launcher sets are refused before any work."""
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert main(["info", str(DATA)]) == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and name in told.err


def test_variables_that_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, whatever RANK is."""
    for environment in ({"RANK": "3"}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "1"}):
        with monkeypatch.context() as patch:
            for variable, value in environment.items():
                patch.setenv(variable, value)
            assert main(["info", str(DATA)]) == 0


def test_the_rank_of_a_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "abc")
    assert main(["verify", str(DATA)]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("uqdm: LOCAL_RANK is 'abc'") and errors.count("\n") == 1


# ---- verify ----


@pytest.mark.slow
def test_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only a file with all bytes that it was made with, and no more, has status 0."""
    data = DATA.read_bytes()
    header, start = parse_header(data)  # type: ignore[misc]
    assert main(["encode", "a.png", "two.uqdm", "--stages", "2"]) == 0
    assert main(["encode", "a.png", "limited.uqdm", "--max-bytes", "250"]) == 0
    limited = Path("limited.uqdm").read_bytes()
    assert len(limited) == 250
    damaged = bytearray(data)
    damaged[start + 3] ^= 64
    first = start + header.lengths[0]
    capsys.readouterr()
    for name, held, words in (
        ("whole", data, ""),
        ("two", Path("two.uqdm").read_bytes(), ""),
        ("limited", limited, ""),
        ("cut-between", data[:first], "cut short: 1 of 6 stages"),
        ("cut-within", data[:-1], "cut short: 5 of 6 stages and 100% of the sixth"),
        ("header-alone", data[:start], "cut short: 0 of 6 stages"),
        ("cut-header", data[: start - 1], "ends inside its header"),
        ("limited-cut", limited[:-1], "cut short: "),
        ("limited-long", limited + b"\0", "goes on for 1 bytes after its end"),
        ("long", data + b"more", "goes on for 4 bytes after its end"),
        ("damaged", bytes(damaged), "damaged"),
        ("empty", b"", "ends inside its header, after 0 bytes"),
    ):
        Path(f"{name}.uqdm").write_bytes(held)
        assert main(["verify", f"{name}.uqdm"]) == bool(words), name
        told = capsys.readouterr()
        assert bool(told.out) != bool(told.err)
        assert words in told.err and told.err.count("\n") == bool(words), told.err
    assert main(["decode", "limited-long.uqdm", "out.png"]) == 1
    assert main(["decode", "limited-long.uqdm", "out.png", "--partial"]) == 0
    assert main(["truncate", "limited-long.uqdm", "out.uqdm", "--stages", "6"]) == 0
    assert Path("out.uqdm").read_bytes() == limited


# ---- pictures that a format does not keep ----

LOSSY = "is lossy: it does not keep every pixel of the exact picture"


def pictures() -> dict[str, Image.Image]:
    """Of all modes that come back, with noise."""
    levels = np.random.default_rng(0).integers(0, 256, (16, 24, 4), np.uint8)
    rgba = Image.fromarray(levels)
    palette = Image.fromarray(levels[..., 0] % 7)
    palette.putpalette([*range(100, 121)])
    return {
        "RGB": rgba.convert("RGB"),
        "RGBA": rgba,
        "L": rgba.getchannel(0),
        "LA": Image.merge("LA", [rgba.getchannel(0), rgba.getchannel(3)]),
        "P": palette,
        "1": Image.fromarray(levels[..., 0] > 127),
    }


@pytest.mark.parametrize(
    ("suffix", "lost"),
    [
        (".png", {}),
        (".tif", {}),
        (".webp", {"P": "does not keep the palette indices"}),
        (".jpg", {"RGB": LOSSY, "L": LOSSY, "1": LOSSY}),
        (".gif", {"RGB": LOSSY, "RGBA": LOSSY}),
        (".bmp", {}),
        (".avif", {"RGB": LOSSY, "RGBA": LOSSY, "P": LOSSY}),
        (".pdf", dict.fromkeys(("RGB", "L"), "cannot be read back")),
    ],
)
def test_what_a_format_does_not_keep(suffix: str, lost: dict[str, str]) -> None:
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    for mode, image in pictures().items():
        try:
            data = as_bytes(image, Path(f"out{suffix}"))
        except ValueError as error:
            assert "try out.png" in str(error)
            continue
        assert not_kept(image, data, exact=False) == ""
        found = not_kept(image, data, exact=True)
        assert found.startswith(lost.get(mode, "")), (mode, found)
        if mode not in lost and suffix in (".png", ".tif", ".webp"):
            assert not found, (mode, found)
            back = Image.open(io.BytesIO(data))
            if suffix != ".webp":
                assert back.mode == image.mode and back.tobytes() == image.tobytes()
            assert back.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


def test_metadata_that_a_format_does_not_keep() -> None:
    image = pictures()["RGB"]
    image.info["icc_profile"] = b"profile" * 30
    exif = Image.Exif()
    exif[271] = "maker"
    image.info["exif"] = exif.tobytes()

    def lost(name: str, exact: bool = True) -> str:
        return not_kept(image, as_bytes(image, Path(name)), exact)

    assert lost("out.png") == lost("out.webp") == lost("out.tif") == ""
    for exact in (True, False):
        assert lost("out.bmp", exact) == "does not keep the ICC profile"
    del image.info["icc_profile"]
    assert lost("out.bmp") == "does not keep the EXIF"
    # too long for JPEG, and what no program can read: neither stops the pixels
    exif[37510] = b"long" * (1 << 15)
    for block in (exif.tobytes(), b"Exif\0\0garbage!!!!!!!!"):
        image.info["exif"] = block
        assert lost("out.png") == ""
        assert lost("out.jpg", exact=False) in ("", "does not keep the EXIF")
        assert lost("out.tif") in ("", "does not keep the EXIF")


@pytest.mark.slow
def test_decode_says_that_a_format_is_lossy(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in ("jpg", "gif"):
        assert main(["decode", str(DATA), f"out.{suffix}"]) == 0
        assert capsys.readouterr().err == (
            f"uqdm: {DATA}: out.{suffix} {LOSSY}; .png does\n"
        )
    for suffix in ("png", "webp", "tif"):
        assert main(["decode", str(DATA), f"out.{suffix}"]) == 0
        assert capsys.readouterr().err == ""
        assert Image.open(f"out.{suffix}").tobytes() == Image.open("out.png").tobytes()
    # what is not exact has nothing to lose
    assert main(["decode", str(DATA), "two.jpg", "--stages", "2"]) == 0
    assert capsys.readouterr().err == ""


def test_signals_end_it_as_before(folder: Path) -> None:
    """While it waits for a pipe, too."""
    if os.name != "posix":
        pytest.skip("signals as of POSIX")
    line = [sys.executable, "-m", "compressai_uqdm", "info", "-"]
    process = subprocess.Popen(line, stdin=-1, stdout=-1, stderr=-1, text=True)
    assert process.stdin
    process.stdin.write("\x89")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] == "uqdm: terminated\n"
    assert process.returncode == 143


# ---- numbers that are large ----


def test_numbers_that_are_large(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["truncate", str(DATA), "a.uqdm", "--bpp", "1e308"]) == 0
    assert Path("a.uqdm").read_bytes() == DATA.read_bytes()
    with pytest.raises(SystemExit):  # PyTorch would crash
        main(["verify", str(DATA), "--threads", "100000"])
    assert "100000 is not in the range" in capsys.readouterr().err
