"""What the command writes: all bytes or an error, in files, pipes and standard streams."""

import contextlib
import dataclasses
import errno
import fcntl
import io
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time

from collections.abc import Iterator
from pathlib import Path

import pytest

from other_user import as_a_user
from PIL import Image

from compressai_uqdm.atomic import write_atomically
from compressai_uqdm.cli import main
from compressai_uqdm.files import encoding
from compressai_uqdm.files.container import pack_header, parse_header
from compressai_uqdm.files.rate import truncate

pytestmark = pytest.mark.skipif(os.name != "posix", reason="descriptors as of POSIX")

DATA = Path(__file__).parents[1] / "data/v2-photo-rgb.uqdm"
PROGRAM = [sys.executable, "-m", "compressai_uqdm"]
CUT = ["truncate", str(DATA), "--stages", "5"]  # takes no network, so a moment


@pytest.fixture(scope="module")
def expected() -> bytes:
    """What the command CUT writes."""
    data = truncate(DATA.read_bytes(), stages=5)
    assert 4096 > len(data) > 1024
    return data


@pytest.fixture
def large(folder: Path) -> str:
    """A file with more in it than a pipe holds, for commands that do not decode."""
    header, _ = parse_header(DATA.read_bytes())  # type: ignore[misc]
    header = dataclasses.replace(header, lengths=(1 << 20,) * 6)
    Path("large.uqdm").write_bytes(pack_header(header) + bytes(6 << 20))
    return "large.uqdm"


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run([*PROGRAM, *arguments], **options)  # type: ignore[call-overload,no-any-return]


def cut(output: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    return run("truncate", str(DATA), output, "--stages", "5", **options)


def in_shell(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = f'exec "$@" {redirection}'
    command = ["sh", "-c", script, "sh", *PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def failed_in_one_line(done: subprocess.CompletedProcess[bytes], *words: str) -> None:
    message = done.stderr.decode()
    assert done.returncode == 1 and message.count("\n") == 1, message
    assert message.startswith("uqdm: ") and "Traceback" not in message
    assert all(word in message for word in words), message


# ---- pipes and devices by their paths ----


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_by_its_path(folder: Path, expected: bytes, name: str) -> None:
    """Nothing but the file is in it, into a pipe, a file and a socket."""
    if not Path(name).parent.exists():
        pytest.skip(f"no {name}")
    done = cut(name)
    assert done.returncode == 0 and done.stdout == expected and done.stderr == b""
    with open("out", "wb") as file:
        file.write(b"before")
        file.flush()
        assert cut(name, stdout=file).returncode == 0
    assert Path("out").read_bytes() == b"before" + expected
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert cut(name, stdout=theirs).returncode == 0
        theirs.close()
        assert ours.makefile("rb").read() == expected


def test_other_descriptors(folder: Path, expected: bytes) -> None:
    """As a shell gives for ``>(wc -c)``, and for ``5>file``."""
    reader, writer = os.pipe()
    done = cut(f"/dev/fd/{writer}", pass_fds=[writer])
    os.close(writer)
    assert done.returncode == 0, done.stderr
    with open(reader, "rb") as pipe:
        assert pipe.read() == expected
    with open("five", "wb") as file:
        done = cut(f"/dev/fd/{file.fileno()}", pass_fds=[file.fileno()])
    assert done.returncode == 0 and Path("five").read_bytes() == expected


def test_named_pipe(folder: Path, expected: bytes) -> None:
    os.mkfifo("pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(Path("pipe").read_bytes()))
    reader.start()
    assert cut("pipe").returncode == 0
    reader.join()
    assert got == [expected] and stat.S_ISFIFO(os.stat("pipe").st_mode)


def test_a_named_pipe_whose_reader_goes(folder: Path, large: str) -> None:
    """It is that input's error."""
    os.mkfifo("pipe")
    command = [*PROGRAM, "truncate", large, "pipe", "--stages", "5"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    with open("pipe", "rb") as pipe:
        pipe.read(10)
    message = process.communicate()[1].decode()
    assert process.returncode == 1
    assert message == f"uqdm: {large}: Broken pipe: pipe\n"


def test_devices(folder: Path) -> None:
    assert cut("/dev/null").returncode == 0
    failed_in_one_line(cut("/dev/full"), "No space left on device: /dev/full")
    failed_in_one_line(cut("-", stdout=open("/dev/full", "wb")), "No space left on device")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        failed_in_one_line(cut("socket"), "socket is a socket: expected the name of a file")


@pytest.mark.slow
def test_pictures_through_pipes_by_path(folder: Path, python: str) -> None:
    """The report of an encoder is not in the pipe; a decoder writes PNG."""
    command = [python, *PROGRAM[1:]]
    line = [*command, "encode", "a.png", "/dev/stdout"]
    done = subprocess.run(line, capture_output=True)
    assert done.returncode == 0 and done.stdout.startswith(b"\x89UQDM")
    Path("a.uqdm").write_bytes(done.stdout)
    assert main(["verify", "a.uqdm"]) == 0
    done = subprocess.run(
        [*command, "decode", "a.uqdm", "/dev/stdout"], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    picture = Image.open(io.BytesIO(done.stdout))
    assert picture.format == "PNG"
    assert picture.tobytes() == Image.open("a.png").tobytes()


# ---- closed streams ----


@pytest.mark.parametrize(
    ("closed", "arguments", "code", "message"),
    [
        (">&-", [*CUT, "out"], 0, ""),
        ("2>&-", [*CUT, "out"], 0, ""),
        ("<&-", [*CUT, "out"], 0, ""),
        ("<&- >&- 2>&-", [*CUT, "out"], 0, ""),
        (">&-", [*CUT, "-"], 1, "standard output is closed"),
        (">&-", [*CUT, "/dev/stdout"], 1, "standard output is closed"),
        ("<&-", ["truncate", "-", "out", "--stages", "5"], 1, "standard input: closed"),
        ("<&-", ["info", "-"], 1, "standard input: closed"),
        ("<&-", ["decode", "-", "out.png"], 1, "standard input: closed"),
        ("<&-", ["encode", "-", "out.uqdm"], 1, "standard input: closed"),
        ("<&-", ["demo", "-"], 1, "standard input: closed"),
        (">&-", ["info", str(DATA)], 1, "standard output is closed"),
        ("2>&-", ["info", str(DATA)], 0, ""),
        ("2>&-", ["info", "nothing"], 1, ""),
        ("2>&-", ["encode"], 2, ""),
    ],
)
def test_closed_streams(
    folder: Path,
    expected: bytes,
    closed: str,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    done = in_shell(closed, *arguments)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == bool(message) and message in done.stderr
    if arguments[-1] == "out" and not code:
        assert Path("out").read_bytes() == expected


@pytest.mark.slow
def test_closed_streams_of_a_network(folder: Path) -> None:
    """What libraries print goes nowhere, and not into the file that is written."""
    assert main(["encode", "a.png", "a.uqdm"]) == 0
    command = 'OMP_DISPLAY_ENV=true "$@" <&- >&- 2>&-'
    for arguments, code in (
        (["encode", "a.png", "missing", "out"], 1),
        (["verify", "a.uqdm"], 0),
        (["decode", "a.uqdm", "out/a.png"], 0),
    ):
        line = ["sh", "-c", command, "sh", *PROGRAM, *arguments]
        assert subprocess.run(line).returncode == code
    assert Path("out/a.uqdm").read_bytes() == Path("a.uqdm").read_bytes()
    assert Image.open("out/a.png").tobytes() == Image.open("a.png").tobytes()


# ---- all bytes, or an error ----

LIMITED = (
    "import resource, signal, sys; from compressai_uqdm.cli import run\n"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))\n"
    "run()"
)
"""A limit on the size of files stands in for a disk with no room."""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("text", [False, True])
def test_no_room(folder: Path, unbuffered: str, text: bool) -> None:
    command = ["info", *4 * [str(DATA)]] if text else [*CUT, "-"]
    with open("out", "wb") as file:
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, *command],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=file,
            stderr=subprocess.PIPE,
        )
    assert os.path.getsize("out") == 700
    failed_in_one_line(done, "File too large: standard output")


def test_no_room_for_a_file(folder: Path) -> None:
    line = [sys.executable, "-c", LIMITED, *CUT, "out.uqdm"]
    done = subprocess.run(line, stderr=subprocess.PIPE)
    failed_in_one_line(done, "File too large: out.uqdm")
    assert os.listdir(".") == ["a.png"]


def reads_ten_bytes(command: list[str], unbuffered: str = "") -> None:
    """More than a pipe holds was to be written: it is no success, and needs no words."""
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout and len(process.stdout.read(10)) == 10
    process.stdout.close()
    assert process.stderr and process.stderr.read() == b""
    assert process.wait() == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_enough(folder: Path, large: str, unbuffered: str) -> None:
    reads_ten_bytes([*PROGRAM, "truncate", large, "-", "--stages", "5"], unbuffered)
    reads_ten_bytes([*PROGRAM, "info", *1000 * [large]], unbuffered)


@pytest.mark.slow
def test_a_viewer_that_has_enough(folder: Path, python: str) -> None:
    Image.effect_noise((300, 300), 90).save("noise.png")
    assert main(["encode", "noise.png", "noise.uqdm"]) == 0
    reads_ten_bytes([python, *PROGRAM[1:], "decode", "noise.uqdm", "-"], "1")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_pipes_that_do_not_block(folder: Path, unbuffered: str) -> None:
    """Both ends of them take a part at a time, and all comes through."""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    Path("many.uqdm").write_bytes(DATA.read_bytes())
    infos = ["info", *1000 * ["many.uqdm"]]
    whole = run(*infos).stdout
    assert len(whole) > 1 << 17  # more than a pipe holds
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = subprocess.Popen([*PROGRAM, *infos], stdout=writer, env=environment)
    os.close(writer)
    time.sleep(1)
    with open(reader, "rb") as pipe:
        assert pipe.read() == whole
    assert process.wait() == 0

    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    command = ["truncate", "-", "out.uqdm", "--stages", "6"]
    process = subprocess.Popen([*PROGRAM, *command], stdin=reader, env=environment)
    os.close(reader)
    with open(writer, "wb", buffering=0) as pipe:
        for start in range(0, DATA.stat().st_size, 2000):
            time.sleep(0.3)
            pipe.write(DATA.read_bytes()[start : start + 2000])
    assert process.wait() == 0
    assert Path("out.uqdm").read_bytes() == DATA.read_bytes()


@pytest.mark.slow
def test_reports_that_cannot_be_written_stop_no_work(folder: Path, python: str) -> None:
    """Files are written all the same; where the text is all, no more is done."""
    Image.open("a.png").rotate(180).save("b.png")
    command = [python, *PROGRAM[1:], "encode", "a.png", "b.png", "out", "--stages", "1"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE)
        failed_in_one_line(done, "No space left on device: standard output")
        assert sorted(os.listdir("out")) == ["a.uqdm", "b.uqdm"]
        failed_in_one_line(run("info", "out", stdout=full), "No space left on device")
        done = run("info", "nothing", str(DATA), stderr=full)
    assert done.returncode == 1 and done.stdout.startswith(str(DATA).encode())


# ---- no file is replaced by chance ----


def test_a_name_that_is_taken_meanwhile(folder: Path) -> None:
    for name in ("a.uqdm", "link.uqdm"):
        if name == "link.uqdm":
            os.symlink("target.uqdm", name)
        with (
            pytest.raises(FileExistsError),
            write_atomically(Path(name), replace=False) as file,
        ):
            file.write(b"late")
            Path(name).write_bytes(b"first")
        assert Path(name).read_bytes() == b"first"
    assert sorted(os.listdir(".")) == ["a.png", "a.uqdm", "link.uqdm", "target.uqdm"]


def test_without_hard_links(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on FAT, and on some file systems of networks."""

    def refuse(*names: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with write_atomically(Path("new"), replace=False) as file:
        file.write(b"all")
    assert Path("new").read_bytes() == b"all"
    assert os.stat("new").st_mode == os.stat("a.png").st_mode
    with pytest.raises(FileExistsError), write_atomically(Path("new"), False) as file:
        file.write(b"other")
    assert Path("new").read_bytes() == b"all"
    assert sorted(os.listdir(".")) == ["a.png", "new"]


@pytest.mark.slow
def test_two_commands_at_once(folder: Path, photograph: Image.Image, python: str) -> None:
    """Whichever comes second says so, and what the first wrote is whole."""
    for i in range(2):
        photograph.rotate(180 * i).crop((0, 0, 96, 64)).save(f"{i}.png")
    commands = [[python, *PROGRAM[1:], "encode", f"{i}.png", "same.uqdm"] for i in range(2)]
    both = [subprocess.Popen(c, stdout=-1, stderr=-1, text=True) for c in commands]
    outputs = [process.communicate() for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 1], outputs
    refused, kept = outputs[codes.index(1)], codes.index(0)
    assert refused[0] == "" and refused[1].count("\n") == 1
    assert "same.uqdm exists: give --force to replace it" in refused[1]
    assert main(["decode", "same.uqdm", "back.png"]) == 0
    assert Image.open("back.png").tobytes() == Image.open(f"{kept}.png").tobytes()
    assert not list(Path().glob(".uqdm-*"))


def test_links_to_one_file(folder: Path) -> None:
    """Two outputs of one run are not the same file, whatever their names."""
    for name in ("in", "out"):
        os.mkdir(name)
    for name in ("a", "b"):
        Path(f"in/{name}.uqdm").write_bytes(DATA.read_bytes())
    os.symlink("a.uqdm", "out/b.uqdm")
    done = run("truncate", "in", "out", "--stages", "1", "--force")
    failed_in_one_line(done, "in/b.uqdm: another input goes to out/b.uqdm too")


# ---- modes ----


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o2664, 0o4755])
def test_the_mode_of_a_file_that_is_replaced(folder: Path, mode: int) -> None:
    Path("out").write_bytes(b"old")
    os.chmod("out", mode)
    before = os.stat("out")
    assert main([*CUT, "out"]) == 1
    assert main([*CUT, "out", "--force"]) == 0
    after = os.stat("out")
    assert stat.S_IMODE(after.st_mode) == mode and after.st_ino != before.st_ino
    os.symlink("out", "link")
    assert main(["truncate", str(DATA), "link", "--stages", "2", "--force"]) == 0
    assert os.path.islink("link") and stat.S_IMODE(os.stat("out").st_mode) == mode
    assert os.path.getsize("out") == os.path.getsize("link") < after.st_size


def test_what_is_private_is_never_public(folder: Path) -> None:
    Path("out").touch(0o600)
    with write_atomically(Path("out")) as file:
        (temporary,) = Path().glob(".uqdm-*")
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        file.write(b"secret")
    assert stat.S_IMODE(os.stat("out").st_mode) == 0o600


def test_new_files_have_the_usual_mode(folder: Path) -> None:
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            assert main([*CUT, f"out{mask}"]) == 0
        finally:
            os.umask(before)
        assert stat.S_IMODE(os.stat(f"out{mask}").st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_of_a_file_that_is_replaced(folder: Path) -> None:
    Path("out").touch(0o640)
    os.chown("out", 12345, 54321)
    assert main([*CUT, "out", "--force"]) == 0
    found = os.stat("out")
    assert (found.st_uid, found.st_gid) == (12345, 54321)
    assert stat.S_IMODE(found.st_mode) == 0o640


# ---- folders without permission ----


@contextlib.contextmanager
def no_permission() -> Iterator[Path]:
    """A folder that another user, or we, may read and not write."""
    assert main([*CUT, "-"]) == 0  # all that this needs is imported: they may not read it
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o555)
        yield Path(name)
        os.chmod(name, 0o755)


def test_a_folder_without_permission() -> None:
    """It is found before any work, and the message names the output."""
    with no_permission() as folder:
        data = DATA.read_bytes()
        source = folder / "in.uqdm"
        os.chmod(folder, 0o755)
        source.write_bytes(data)
        (folder / "old.uqdm").write_bytes(b"old")
        Image.new("RGB", (8, 8)).save(folder / "in.png")
        os.chmod(folder, 0o555)
        for command in (
            ["truncate", str(source), f"{folder}/out.uqdm", "--stages", "1"],
            ["encode", f"{folder}/in.png", f"{folder}/out.uqdm"],
            ["decode", str(source), f"{folder}/out.uqdm.png"],
        ):
            code, _, message = as_a_user(*command)
            assert code == 1 and message.count("\n") == 1, message
            assert message == f"uqdm: {command[1]}: Permission denied: {command[2]}\n"
        code, _, message = as_a_user(
            "truncate", str(source), f"{folder}/old.uqdm", "--stages", "1", "--force"
        )
        assert code == 1 and f"Permission denied: {folder}/old.uqdm" in message
        new = f"{folder}/n/"
        code, _, message = as_a_user("truncate", str(source), new, "--stages", "1")
        assert code == 1 and message.count("\n") == 1
        assert sorted(os.listdir(folder)) == ["in.png", "in.uqdm", "old.uqdm"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_file_system_that_takes_no_files(folder: Path) -> None:
    failed_in_one_line(run("encode", "a.png", "/proc/out.uqdm"), ": /proc/out.uqdm")
    failed_in_one_line(cut("/proc/self/out.uqdm"), ": /proc/self/out.uqdm")


# ---- names ----


@pytest.mark.parametrize(
    ("name", "shown"),
    [("new\nline", r"new\nline"), ("\x1b[31mred", r"\x1b[31mred"), ("\udcff", r"\udcff")],
)
def test_names_that_would_command_a_terminal(folder: Path, name: str, shown: str) -> None:
    Path(f"{name}.uqdm").write_bytes(DATA.read_bytes())
    done = run("info", f"{name}.uqdm")
    assert done.returncode == 0 and done.stdout.decode().startswith(f"{shown}.uqdm: ")
    failed_in_one_line(run("info", f"{name}.png"), f"uqdm: {shown}.png: No such file")
    done = run("truncate", f"{name}.uqdm", f"{name}2.uqdm", "--stages", "1")
    assert done.returncode == 0 and Path(f"{name}2.uqdm").exists()


def test_long_names(folder: Path) -> None:
    """As long as names may be; an error says of longer ones, and others are worked on."""
    assert main([*CUT, f"{'n' * 250}.uqdm"]) == 0
    failed_in_one_line(cut("n" * 256), "File name too long: nnn")
    done = run("info", "n" * 256, str(DATA))
    failed_in_one_line(done, "File name too long")
    assert b"version" in done.stdout


def test_an_input_may_be_replaced(folder: Path, expected: bytes) -> None:
    """By what is made of it, and only with --force."""
    Path("in.uqdm").write_bytes(DATA.read_bytes())
    assert main(["truncate", "in.uqdm", "in.uqdm", "--stages", "5"]) == 1
    assert Path("in.uqdm").read_bytes() == DATA.read_bytes()
    assert main(["truncate", "in.uqdm", "in.uqdm", "--stages", "5", "--force"]) == 0
    assert Path("in.uqdm").read_bytes() == expected


# ---- temporary files ----

WRITING = (
    "import sys, time; from pathlib import Path\n"
    "from compressai_uqdm.atomic import write_atomically\n"
    "with write_atomically(Path(sys.argv[1])) as file:\n"
    "    file.write(b'half'); file.flush(); print('ready', flush=True); sys.stdin.read()"
)


def writing(name: str) -> subprocess.Popen[bytes]:
    """A process that has written half of a file."""
    line = [sys.executable, "-c", WRITING, name]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    return process


def test_temporary_files_of_killed_processes(folder: Path) -> None:
    """The next command removes them, and none of a process that lives."""
    killed, living = writing("killed"), writing("living")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (other,) = (path for path in Path().glob(".uqdm-*") if not is_locked(path))
    # as another machine left them, one a week ago
    for name, age in (("week", 7 * 86400), ("now", 0)):
        path = Path(f".uqdm-{'0' * 8}-{name}.partial")
        path.touch()
        os.utime(path, (time.time() - age, time.time() - age))
    Path(".uqdm-mine").touch()
    assert cut("out").returncode == 0
    assert not other.exists()
    left = sorted(path.name for path in Path().glob(".uqdm-*"))
    assert len(left) == 3 and {".uqdm-mine", ".uqdm-00000000-now.partial"} < set(left)
    living.communicate()
    assert living.returncode == 0 and Path("living").read_bytes() == b"half"
    assert not Path("killed").exists()


def is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# ---- names of outputs ----


def test_a_slash_at_the_end_is_a_folder(folder: Path) -> None:
    assert main([*CUT[:2], "new/", *CUT[2:]]) == 0
    assert main([*CUT[:2], "x.uqdm/", *CUT[2:]]) == 0
    assert os.listdir("new") == os.listdir("x.uqdm") == [DATA.name]
    with pytest.raises(SystemExit):
        main([*CUT[:2], "a.png/", *CUT[2:]])


@pytest.mark.parametrize(
    "arguments",
    [
        ("truncate", str(DATA), "", "--stages", "1"),
        ("encode", "", "x.uqdm"),
        ("info", ""),
        ("decode", str(DATA), "--progressive", ""),
        ("demo", ""),
        ("demo", "a.png", "--output", ""),
    ],
    ids=" ".join,
)
def test_empty_names_are_not_the_current_folder(
    folder: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "expected a name, got an empty one" in capsys.readouterr().err
    assert os.listdir() == ["a.png"]


def test_a_link_into_a_missing_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.symlink("missing/x.uqdm", "link.uqdm")
    assert main([*CUT[:2], "link.uqdm", *CUT[2:]]) == 1
    assert f"there is no folder {folder}/missing" in capsys.readouterr().err


def test_a_current_folder_that_is_gone(folder: Path) -> None:
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir(folder / "gone")
    failed_in_one_line(cut("x.uqdm"), "x.uqdm")
    done = cut(str(folder / "x.uqdm"))
    assert (done.returncode, done.stderr) == (0, b"")


# ---- the API ----


def test_save_names_its_target_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*arguments: object, **options: object) -> bytes:
        raise AssertionError("that would be work for nothing")

    monkeypatch.setattr(encoding, "encode", encode)
    image = Image.open("a.png")
    for name in ("missing/x.uqdm", "a.png/x.uqdm", "."):
        with pytest.raises(OSError, match=f"{name}'$") as raised:
            encoding.save(image, name)
        assert raised.value.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


def test_no_room_for_a_file_of_the_api(folder: Path) -> None:
    """The error names it, and nothing is left of it."""
    program = """
import resource, signal, sys
import compressai_uqdm
from PIL import Image
image = Image.effect_noise((64, 64), 80).convert("RGB")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
try:
    compressai_uqdm.save(image, "x.uqdm", stages=1)
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "File too large: 'x.uqdm'" in done.stdout, done.stderr
    assert os.listdir() == ["a.png"]
