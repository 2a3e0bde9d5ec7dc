"""The command line, mostly as a process of its own."""

import dataclasses
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

from pathlib import Path

import numpy as np
import pytest
import torch

from PIL import Image

import compressai_uqdm

from compressai_uqdm.cli import main
from compressai_uqdm.files.container import pack_header, parse_header


def uqdm(
    *arguments: str, python: str = sys.executable, **options: object
) -> subprocess.CompletedProcess[bytes]:
    command = [python, "-m", "compressai_uqdm", *arguments]
    return subprocess.run(command, capture_output=True, **options)  # type: ignore[call-overload,no-any-return]


def pixels(path: str | Path) -> tuple[str, bytes]:
    image = Image.open(path)
    return image.mode, image.tobytes()


def test_there_and_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "a.png", "a.uqdm"]) == 0
    size, before = (Path(name).stat().st_size for name in ("a.uqdm", "a.png"))
    assert re.fullmatch(
        rf"a.png: {size:,} bytes, {size / before:.1%} of {before:,}; 6 stages, exact; "
        r"\d+\.\d s\n",
        capsys.readouterr().out,
    )
    assert main(["verify", "a.uqdm"]) == 0
    assert capsys.readouterr().out == "a.uqdm: exact, 6 of 6 stages\n"
    assert main(["decode", "a.uqdm", "back.png", "--progressive", "stages"]) == 0
    assert pixels("back.png") == pixels("a.png") == pixels("stages/a.stage6.png")
    assert sorted(os.listdir("stages")) == [f"a.stage{n}.png" for n in range(1, 7)]

    assert main(["info", "a.uqdm"]) == 0
    told = capsys.readouterr()
    for word in ("version 2", f"{size} bytes", "24 x 16", "uqdm-photo", "stage 6"):
        assert word in told.out
    assert told.err == ""

    # cut short: it decodes, and tells of it
    limit = str(size // 2)
    assert main(["truncate", "a.uqdm", "cut.uqdm", "--max-bytes", limit]) == 0
    assert Path("a.uqdm").read_bytes().startswith(Path("cut.uqdm").read_bytes())
    assert Path("cut.uqdm").stat().st_size == size // 2
    assert main(["decode", "cut.uqdm", "cut.png"]) == 0
    assert "cut.uqdm: cut short: 5 of 6 stages and " in capsys.readouterr().err
    assert main(["decode", "a.uqdm", "same.png", "--max-bytes", limit]) == 0
    assert pixels("cut.png") == pixels("same.png") != pixels("a.png")
    assert main(["decode", "a.uqdm", "two.png", "--stage", "2"]) == 0
    assert pixels("two.png") == pixels("stages/a.stage2.png")
    assert main(["decode", "cut.uqdm", "--progressive", "cut"]) == 0
    assert sorted(os.listdir("cut")) == [
        *(f"cut.stage{n}.png" for n in range(1, 6)),
        "cut.stage6-cut.png",
    ]
    capsys.readouterr()
    assert main(["verify", "cut.uqdm"]) == 1
    told = capsys.readouterr()
    assert told.out == "" and "cut.uqdm: cut short: 5 of 6 stages and " in told.err
    assert main(["info", "cut.uqdm"]) == 0
    assert "of it there" in capsys.readouterr().out


def test_made_to_a_limit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told apart from a file that has lost something."""
    assert main(["encode", "a.png", "whole.uqdm"]) == 0
    header, start = parse_header(Path("whole.uqdm").read_bytes())  # type: ignore[misc]
    limit = start + header.lengths[0] + header.lengths[1] // 2
    assert main(["encode", "a.png", "a.uqdm", "--max-bytes", str(limit)]) == 0
    assert main(["truncate", "a.uqdm", "cut.uqdm", "--max-bytes", str(limit - 1)]) == 0
    assert main(["truncate", "a.uqdm", "one.uqdm", "--stage", "1"]) == 0
    capsys.readouterr()

    def told(*arguments: str, code: int = 0) -> str:
        force = ["--force"] if arguments[0] == "decode" else []
        assert main([*arguments, *force]) == code
        return "".join(capsys.readouterr())

    header, start = parse_header(Path("a.uqdm").read_bytes())  # type: ignore[misc]
    stages = len(header.lengths)
    made = (
        f"made to a limit, with {limit - start} bytes of stages: 1 of {stages} stages and "
    )
    for name, why in (
        ("a.uqdm", made),
        ("cut.uqdm", f"cut short: 1 of {stages} stages and "),
        ("one.uqdm", f"cut short: 1 of {stages} stages\n"),
    ):
        assert why in told("info", name)
        assert told("decode", name, "a.png").startswith(f"uqdm: {name}: {why}")
        # what was cut after it was made is not whole
        is_cut = why.startswith("cut short")
        found = told("verify", name, code=int(is_cut)).removeprefix("uqdm: " * is_cut)
        assert found.startswith(f"{name}: {why}")
    # what is asked for is there
    assert told("decode", "a.uqdm", "a.png", "--stage", "1") == ""
    assert made in told("decode", "a.uqdm", "a.png", "--stage", "2")
    assert "cut short: 1 of" in told(
        "decode", "a.uqdm", "a.png", "--max-bytes", f"{limit - 1}"
    )


def test_damage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "a.png", "a.uqdm"]) == 0
    data = bytearray(Path("a.uqdm").read_bytes())
    data[-100] ^= 1
    Path("bad.uqdm").write_bytes(data)
    for command in (["verify", "bad.uqdm"], ["decode", "bad.uqdm", "bad.png"]):
        assert main(command) == 1
        message = capsys.readouterr().err
        assert message.startswith("uqdm: bad.uqdm: string of stage 6 is damaged")
        assert "decode --partial keeps 5 of 6 stages" in message
        assert message.count("\n") == 1
    assert not Path("bad.png").exists()
    assert main(["decode", "bad.uqdm", "--partial", "bad.png"]) == 0
    assert "the picture is of 5 of 6 stages" in capsys.readouterr().err
    assert main(["decode", "a.uqdm", "three.png", "--stage", "5"]) == 0
    assert pixels("bad.png") == pixels("three.png")
    data[6] = 3
    Path("new.uqdm").write_bytes(data)
    assert main(["decode", "new.uqdm", "new.png"]) == 1
    assert "version 3" in capsys.readouterr().err


def test_several_and_folders(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.open("a.png").convert("L").save("b.png")
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    Image.open("a.png").convert("CMYK").save("c.tif")
    Image.open("a.png").save("a.bmp")
    assert main(["encode", ".", "out", "--stage", "1"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in errors] == [
        "a.png",
        "broken.png",
        "c.tif",
    ]
    assert "another input goes to" in errors[0]
    assert sorted(os.listdir("out")) == ["a.uqdm", "b.uqdm"]
    assert main(["decode", "out", "back"]) == 0
    assert sorted(os.listdir("back")) == ["a.png", "b.png"]
    assert Image.open("back/b.png").mode == "L"
    assert main(["truncate", "out/a.uqdm", "out/b.uqdm", "t", "--max-bytes", "40"]) == 0
    assert [p.stat().st_size for p in sorted(Path("t").iterdir())] == [40, 40]
    assert main(["decode", "out/a.uqdm", "back", "--force"]) == 0  # into the folder


def test_existing_files_are_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.uqdm").write_text("dear to someone")
    assert main(["encode", "a.png", "a.uqdm", "--stage", "1"]) == 1
    assert "a.uqdm exists: give --force" in capsys.readouterr().err
    assert Path("a.uqdm").read_text() == "dear to someone"
    assert main(["encode", "a.png", "a.uqdm", "--stage", "1", "--force"]) == 0
    for command, out in (("truncate --stage 1", "out.uqdm"), ("decode", "out.png")):
        Path(out).write_text("dear")
        assert main([*command.split(), "a.uqdm", out]) == 1
        assert Path(out).read_text() == "dear"


def test_limits(folder: Path) -> None:
    assert main(["encode", "a.png", "a.uqdm", "--max-bytes", "200", "--bpp", "3"]) == 0
    assert Path("a.uqdm").stat().st_size == 3 * 24 * 16 // 8
    assert main(["encode", "a.png", "b.uqdm", "--min-psnr", "30", "--seed", "5"]) == 0
    assert main(["truncate", "b.uqdm", "c.uqdm", "--bpp", "0.875"]) == 0
    assert Path("c.uqdm").stat().st_size == 0.875 * 24 * 16 // 8


@pytest.mark.parametrize(
    "arguments",
    [
        ["encode"],
        ["encode", "a.png"],
        ["encode", "a.png", "b.png", "-"],
        ["encode", "a.png", "b.png", "a.png"],
        ["encode", "a.png", "a.uqdm", "--stage", "0"],
        ["encode", "a.png", "a.uqdm", "--arithmetic", "float16"],
        ["encode", "a.png", "a.uqdm", "--nonsense"],
        ["decode", ".", "out"],
        ["encode", "a.png", "a.uqdm", "--threads", "0"],
        ["encode", "a.png", "x.png"],
        ["encode", "a.png", "x.JPG"],
        ["encode", "a.png", "a.png", "solo.uqdm"],
        ["encode", ".", "solo.uqdm"],
        ["decode", "a.uqdm", "b.uqdm"],
        ["decode", "a.uqdm", "b.nothing"],
        ["decode", "a.uqdm", "b.uqdm", "solo.png"],
        ["truncate", "a.uqdm", "b.uqdm"],
        ["truncate", "a.uqdm", "b.png", "--stage", "1"],
        ["encode", "a.png", "a.uqdm", "--bpp", "0"],
        ["encode", "a.png", "a.uqdm", "--min-psnr", "good"],
        ["encode", "a.png", "a.uqdm", "--seed", "-1"],
        ["encode", "a.png", "out", "--jobs", "0"],
        ["decode", "a.uqdm", "--progressive", "a.png"],
        ["paint", "a.png"],
    ],
    ids=" ".join,
)
def test_wrong_command_lines(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert os.listdir(".") == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["encode", "a.png", "a.uqdm", "--stag", "2"], "'--stages'"),
        (["encode", "a.png", "a.uqdm", "--min_psnr", "2"], "'--min-psnr'"),
        (["encod", "a.png"], "'encode'"),
    ],
)
def test_what_was_meant_is_suggested(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], suggestion: str
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert suggestion in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Alone, the command shows it; asked for, it is no error."""
    for arguments, code in (([], 2), (["--help"], 0)):
        if code:
            with pytest.raises(SystemExit) as error:
                main(arguments)
            assert error.value.code == code
        else:
            assert main(arguments) == code
        told = capsys.readouterr()
        shown = told.err if code else told.out
        assert "Usage: uqdm" in shown and "Make .uqdm files of pictures" in shown
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"uqdm, version {compressai_uqdm.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["encode", "nothing.png", "b.uqdm"],
            "nothing.png: No such file or directory; check the name",
        ),
        (["encode", "a.png", "no/folder/b.uqdm"], "no folder no/folder: make it first"),
        (["encode", "a.png", "b.uqdm", "--max-pixels", "9"], "limit of 9 (--max-pixels)"),
        (["encode", "a.png", "b.uqdm", "--max-bytes", "9"], "header alone"),
        (["encode", "a.png", "b.uqdm", "--stage", "7"], "in 1..6, got 7"),
        (["decode", "a.png", "b.png"], "not a .uqdm file"),
        (["info", "a.png"], "not a .uqdm file"),
    ],
)
def test_errors_are_one_line(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert main(arguments) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"uqdm: {arguments[1]}: ") and told.count("\n") == 1
    assert message in told
    assert os.listdir(".") == ["a.png"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--model", "mine"], "no model 'mine'"),
        (["--device", "abacus"], "cannot use the device 'abacus' here: leave --device out"),
        pytest.param(
            ["--device", "cuda"],
            "cannot use the device 'cuda' here: leave --device out",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
        (["--device", "meta"], "cannot use the device 'meta' here"),
    ],
)
def test_what_all_inputs_lack_is_told_once(
    folder: Path, capsys: pytest.CaptureFixture[str], option: list[str], message: str
) -> None:
    Image.open("a.png").save("b.png")
    assert main(["encode", "a.png", "b.png", "out", *option]) == 1
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert os.listdir("out") == []


def test_what_can_be_known_is_told_before_any_work(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of all inputs; those that nothing is wrong with are worked on."""
    for name in ("b.png", "c.png", "d.png"):
        Image.open("a.png").save(name)
    os.makedirs("out/d.uqdm")
    Path("out/b.uqdm").write_text("dear")
    inputs = ["a.png", "nothing.png", "b.png", "c.png", "d.png"]
    Path("c.png").write_text("no picture")  # only work tells
    assert main(["encode", *inputs, "out", "--stage", "1"]) == 1
    told = [line.split(": ", 2)[1:] for line in capsys.readouterr().err.splitlines()]
    assert told == [
        ["nothing.png", "No such file or directory; check the name"],
        ["b.png", "out/b.uqdm exists: give --force to replace it"],
        ["d.png", "out/d.uqdm is a folder: expected the name of a file"],
        ["c.png", "no picture that Pillow can read: convert it to PNG first"],
    ]
    assert Path("out/a.uqdm").is_file() and Path("out/b.uqdm").read_text() == "dear"


def test_limits_that_change_nothing_or_are_missed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> str:
        text = capsys.readouterr().err
        assert text.count("\n") == bool(text)
        return text

    assert main(["encode", "a.png", "a.uqdm", "--stage", "6"]) == 0
    assert told() == ""
    size = Path("a.uqdm").stat().st_size
    assert main(["truncate", "a.uqdm", "b.uqdm", "--max-bytes", str(size)]) == 0
    assert f"not shortened: it has {size} bytes, of 6 stages" in told()
    assert Path("b.uqdm").read_bytes() == Path("a.uqdm").read_bytes()
    assert main(["truncate", "a.uqdm", "c.uqdm", "--max-bytes", str(size - 1)]) == 0
    assert told() == ""
    assert main(["decode", "a.uqdm", "a9.png", "--stage", "9"]) == 0
    assert "a.uqdm: no stage 9 in it: the picture is of 6 of 6 stages" in told()
    assert main(["decode", "a.uqdm", "a6.png", "--stage", "6"]) == 0
    assert main(["decode", "a.uqdm", "a2.png", "--stage", "2"]) == 0
    assert told() == ""
    assert main(["decode", "c.uqdm", "c6.png", "--stage", "6"]) == 0
    assert "c.uqdm: cut short: 5 of 6 stages and " in told()

    limits = ["--min-psnr", "40", "--max-bytes", "60"]
    assert main(["encode", "a.png", "d.uqdm", *limits]) == 0
    message = told()
    assert Path("d.uqdm").stat().st_size == 60
    assert main(["decode", "d.uqdm", "d.png"]) == 0
    errors = np.array(Image.open("d.png"), float) - np.array(Image.open("a.png"), float)
    reached = 10 * np.log10(255**2 / np.square(errors).mean())
    assert message.startswith(f"uqdm: a.png: {reached:.2f} dB of the 40 wanted")
    told()
    assert main(["encode", "a.png", "e.uqdm", "--min-psnr", "20", "--stage", "6"]) == 0
    assert told() == ""


# ---- processes ----


@pytest.mark.slow
def test_pipes(folder: Path, python: str) -> None:
    encoded = uqdm("encode", "-", "-", "--stage", "2", input=Path("a.png").read_bytes())
    assert encoded.returncode == 0 and encoded.stderr == b""
    decoded = uqdm("decode", "-", "-", python=python, input=encoded.stdout)
    assert decoded.returncode == 0 and decoded.stderr == b""
    assert Image.open(io.BytesIO(decoded.stdout)).size == (24, 16)
    cut = uqdm("truncate", "-", "-", "--stage", "1", input=encoded.stdout)
    assert cut.returncode == 0 and encoded.stdout.startswith(cut.stdout)
    wrong = uqdm("decode", "-", "-", python=python, input=b"something")
    assert wrong.returncode == 1 and wrong.stdout == b""
    assert wrong.stderr == b"uqdm: standard input: not a .uqdm file: it begins otherwise\n"
    reader, writer = os.pipe()
    os.close(reader)
    gone = subprocess.run(
        [sys.executable, "-m", "compressai_uqdm", "truncate", "-", "-", "--stage", "1"],
        input=encoded.stdout,
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    assert gone.returncode == 1 and b"Traceback" not in gone.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_cannot_be_written_is_told_of() -> None:
    data = str(Path(__file__).parents[1] / "data/v2-rgb.uqdm")
    for command in (
        ["--help"],
        ["--version"],
        ["info", data],
        ["truncate", data, "-", "--stages", "1"],
    ):
        with open("/dev/full", "w") as full:
            program = [sys.executable, "-m", "compressai_uqdm", *command]
            run = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True)
        assert run.returncode == 1 and "No space left on device" in run.stderr
        assert run.stderr.count("\n") == 1


def test_no_network_library_where_none_runs(folder: Path) -> None:
    """Help, info and truncate answer at once, and what is wrong is told at once."""
    script = (
        "import sys; from compressai_uqdm.cli import main\n"
        "try: sys.exit(main(sys.argv[1:]))\n"
        "finally: assert 'torch' not in sys.modules"
    )
    data = str(Path(__file__).parents[1] / "data/v2-rgb.uqdm")
    Path("old.uqdm").write_text("dear")
    Path("text.png").write_text("no picture")
    for code, command in (
        (2, ""),
        (0, "--help"),
        (0, "encode --help"),
        (0, "--version"),
        (1, "demo text.png"),
        (0, f"info {data}"),
        (0, f"truncate {data} cut.uqdm --stage 1"),
        (1, "encode nothing.png n.uqdm"),
        (1, "encode a.png missing_folder/a.uqdm"),
        (1, "encode a.png old.uqdm"),
        (1, "encode text.png text.uqdm"),
        (1, "encode a.png a.uqdm --max-pixels 9"),
        (2, "encode a.png x.png"),
        (2, "encode a.png x.uqdm --stages none"),
        (2, "encode a.png text.png solo.uqdm"),
        (1, f"decode {data} missing_folder/a.png"),
        (1, f"decode {data} a.png"),
        (2, f"decode {data} x.uqdm"),
        (1, "decode a.png b.png"),
        (1, "decode nothing.uqdm --progressive stages"),
        (1, "verify a.png nothing.uqdm"),
    ):
        line = [sys.executable, "-c", script, *command.split()]
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == code, (command, done.stderr)
        assert "AssertionError" not in done.stderr, command


def test_commands_start_without_what_they_do_not_use(folder: Path) -> None:
    script = (
        "import sys; from compressai_uqdm.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "unused = {'pandas', 'scipy.stats', 'torch._dynamo', 'torch_geometric',"
        " 'torchvision'}\n"
        "assert not unused & set(sys.modules), unused & set(sys.modules)"
    )
    for arguments in (
        ["encode", "a.png", "a.uqdm"],
        ["decode", "a.uqdm", "b.png"],
        ["verify", "a.uqdm"],
        ["demo", "a.png", "--output", "demo"],
    ):
        subprocess.run([sys.executable, "-c", script, *arguments], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="as GNU's library of threads has it")
@pytest.mark.parametrize("wanted", [None, "active"])
def test_threads_leave_the_processors_to_others(
    folder: Path, photograph: Image.Image, wanted: str | None
) -> None:
    """Their library tells how they wait, as it is loaded."""
    photograph.crop((200, 100, 216, 108)).save(folder / "small.png")
    command = [sys.executable, "-m", "compressai_uqdm", "encode", "small.png", "small.uqdm"]
    given = {"OMP_WAIT_POLICY": wanted} if wanted else {}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "OMP_DISPLAY_ENV": "true", **given},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    policies = re.findall(r"OMP_WAIT_POLICY = '(\w+)'", done.stderr)
    assert policies and set(policies) == {(wanted or "passive").upper()}


def test_completion(folder: Path) -> None:
    """As the line that the manual gives for each shell has it, without PyTorch."""
    script = (
        "import sys; from compressai_uqdm.cli import main\n"
        "try: sys.exit(main())\n"
        "finally: assert 'torch' not in sys.modules"
    )

    def complete(**variables: str) -> str:
        environment = {**os.environ, **variables}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return done.stdout

    for shell in ("bash", "zsh", "fish"):
        assert "_UQDM_COMPLETE" in complete(_UQDM_COMPLETE=f"{shell}_source")
    for words, found in (
        ("uqdm ", {"encode", "decode", "truncate", "info", "verify"}),
        ("uqdm encode --min", {"--min-psnr"}),
        ("uqdm encode --arithmetic ", {"float32", "float64"}),
        ("uqdm encode a", {"a"}),  # of files, which the shell completes
    ):
        n_words = len(words.split(" ")) - 1
        asked = {"COMP_WORDS": words, "COMP_CWORD": str(n_words)}
        lines = complete(_UQDM_COMPLETE="bash_complete", **asked).split()
        assert found <= {line.split(",")[1] for line in lines}, words


class Refusing(threading.Thread):
    """A Hub that hangs up, and counts how often it is asked for a file."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.asked = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.start()

    def run(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            self.asked += connection.recv(1 << 16).startswith(b"HEAD")
            connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("hub", ["refuses", "hangs up"])
def test_weights_without_a_network(folder: Path, python: str, hub: str) -> None:
    """The Hub is asked once a run, and a line or two tell what to do."""
    server = Refusing()
    port = server.listener.getsockname()[1]
    if hub == "refuses":
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment["HF_ENDPOINT"] = f"http://127.0.0.1:{port}"
    environment["HF_HOME"] = str(folder / "hub")
    environment["COMPRESSAI_UQDM_ZOO"] = ""
    os.mkdir("photographs")
    for name in ("a", "b", "c"):
        Image.open("a.png").save(f"photographs/{name}.png")
    options = {"python": python, "env": environment}
    done = uqdm("encode", "photographs", "out", "--model", "uqdm-tiny", **options)
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 1 and line.startswith("uqdm: no weights for uqdm-tiny; ")
    assert "set COMPRESSAI_UQDM_ZOO to a folder" in line
    assert server.asked == (hub == "hangs up")

    # files of a model that is not there, among others
    data = Path(__file__).parents[1].joinpath("data/v2-rgb.uqdm").read_bytes()
    header, start = parse_header(data)  # type: ignore[misc]
    other = pack_header(dataclasses.replace(header, model="uqdm-tiny")) + data[start:]
    Path("out/a.uqdm").write_bytes(other)
    assert main(["encode", "a.png", "out/b.uqdm", "--stage", "1"]) == 0
    Path("out/c.uqdm").write_bytes(other)
    done = uqdm("decode", "out", "back", **options)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1 and os.listdir("back") == ["b.png"]
    missing = "no weights for uqdm-tiny on this machine; "
    starts = [f"uqdm: out/{name}.uqdm: {missing}" for name in "ac"]
    assert len(lines) == 2 and all(map(str.startswith, lines, starts))
    assert server.asked == (hub == "hangs up")  # files ask for nothing


@pytest.mark.slow
def test_killed_while_encoding(folder: Path, photograph: Image.Image) -> None:
    """Whenever it is killed, nothing has the final name."""
    photograph.resize((2400, 1800)).save("big.png")  # tens of seconds on any machine
    command = [sys.executable, "-m", "compressai_uqdm", "encode", "big.png", "big.uqdm"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    time.sleep(8)
    assert process.poll() is None, "it was done too early for this test"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert sorted(os.listdir(".")) == ["a.png", "big.png"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["truncate", "encode"])
def test_full_disk(folder: Path, python: str, command: str) -> None:
    """A limit on the size of files stands in for a disk with no room."""
    source, options = "a.png", ["--force"]
    if command == "truncate":
        data = Path(__file__).parents[1] / "data/v2-rgb.uqdm"
        source, options = str(data), ["--stage", "5"]

    no_room = (
        "import resource, signal, sys; from compressai_uqdm.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))\n"
        "sys.exit(main(sys.argv[1:]))"
    )

    def uqdm(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [python, "-c", no_room, command, source, *arguments, *options]
        return subprocess.run(line, capture_output=True, text=True)

    Path("old.uqdm").write_text("old")
    done = uqdm("new.uqdm")
    assert done.returncode == 1 and "File too large" in done.stderr
    done = uqdm("old.uqdm", "--force")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert sorted(os.listdir(".")) == ["a.png", "old.uqdm"]
    assert Path("old.uqdm").read_text() == "old"
