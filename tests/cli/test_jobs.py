"""Folders, worked on by several processes."""

import os
import re
import signal
import subprocess
import sys
import time

from pathlib import Path

import pexpect
import pytest

from PIL import Image

from compressai_uqdm import load

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture
def folder(
    tmp_path: Path, photograph: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Pictures of several kinds in ``in``, and one that is none."""
    monkeypatch.chdir(tmp_path)
    os.mkdir("in")
    for i in range(3):
        part = photograph.crop((40 * i, 20 * i, 40 * i + 64, 20 * i + 40 + i))
        part.save(f"in/{i}.png")
    part.convert("LA").save("in/la.png")
    part.quantize(9).save("in/palette.png")
    Path("in/none.png").write_text("no picture")
    return tmp_path


def command(line: str, launched: bool = False) -> list[str]:
    launcher = LAUNCHER if launched else ()
    return [sys.executable, *launcher, "-m", "compressai_uqdm", *line.split()]


def environment() -> dict[str, str]:
    """Where each process has the threads that it would have by default."""
    kept = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return {**kept, "PYTHONPATH": path}


def run(line: str, launched: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(line, launched),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=500,
    )


def files(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.mark.parametrize("model", ["uqdm-photo", "uqdm-nano-ctx --stages 1"])
def test_the_same_files_whatever_the_number(folder: Path, model: str) -> None:
    """One process, two, and two of torchrun's; what is wrong stops none of them."""
    ways = {"1": "--jobs 1", "2": "--jobs 2", "launched": ""}
    if model != "uqdm-photo":  # what is launched does not depend on it
        del ways["launched"]
    told = []
    for name, jobs in ways.items():
        done = run(f"encode in coded{name} {jobs} --model {model}", name == "launched")
        assert done.returncode == 1
        assert "uqdm: in/none.png: no picture that Pillow can read" in done.stderr
        told.append(sorted(line.rsplit(";", 1)[0] for line in done.stdout.splitlines()))
    assert all(lines == told[0] for lines in told) and len(told[0]) == 5
    assert all(files(f"coded{name}") == files("coded1") for name in ways)
    assert len(files("coded1")) == 5
    if model != "uqdm-photo":
        return
    for name in ("1", "2"):
        done = run(f"decode coded1 back{name} --jobs {name}")
        assert done.returncode == 0, done.stderr
    assert files("back1") == files("back2")
    assert len(files("back1")) == 5


def test_what_all_lack_is_told_once(folder: Path) -> None:
    done = run("encode in out --jobs 2 --model mine")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "no model 'mine'" in done.stderr and os.listdir("out") == []


def test_without_the_others(folder: Path) -> None:
    """Variables of a launcher without the launcher."""
    done = subprocess.run(
        command("truncate in/0.png out.uqdm --stages 1"),
        env={**environment(), "WORLD_SIZE": "2", "RANK": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "start it with torchrun or accelerate launch, or without RANK" in done.stderr


def processes_of(pid: int) -> list[int]:
    """The children of a process, and theirs."""
    found = [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*found, *(other for child in found for other in processes_of(child))]


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.1)


def encoding(photograph: Image.Image, columns: int) -> pexpect.spawn:
    """Two processes at work on larger pictures, in a terminal of so many columns."""
    for i in range(3):
        photograph.rotate(90 * i).save(f"in/big{i}.png")
    child = pexpect.spawn(
        sys.executable,
        command("encode in out --jobs 2 --model uqdm-nano-ctx")[1:],
        env=environment(),
        encoding="utf-8",
        dimensions=(40, columns),
        timeout=300,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    child.expect(r" [1-9]\d*%")
    return child


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the processes in /proc")
@pytest.mark.parametrize(
    ("kind", "code", "word"),
    [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated"), ("SIGKILL", 137, "")],
)
def test_interrupted(
    folder: Path, photograph: Image.Image, kind: str, code: int, word: str
) -> None:
    """A line and no more, no process stays, and only whole files do."""
    child = encoding(photograph, 100)
    pids = processes_of(child.pid)
    assert len(pids) >= 2
    if kind == "SIGINT":
        child.sendintr()  # to all of them, as a terminal does
    else:
        child.kill(getattr(signal, kind))
    child.expect(pexpect.EOF)
    child.close()
    status = child.exitstatus if child.signalstatus is None else 128 + child.signalstatus
    assert status == code
    wait_until_gone(pids)
    if word:
        assert child.before.rstrip().endswith(f"uqdm: {word}"), child.before
        assert "Traceback" not in child.before and "Error" not in child.before
        assert all(name.endswith(".uqdm") for name in os.listdir("out"))
    for path in Path("out").glob("*.uqdm"):
        assert load(path).exact


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the processes in /proc")
def test_a_process_that_is_killed(folder: Path, photograph: Image.Image) -> None:
    """As the system does where memory is short: it is told, and no one waits for ever."""
    child = encoding(photograph, 150)
    started = [
        pid
        for pid in processes_of(child.pid)
        if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    os.kill(started[0], signal.SIGKILL)
    child.expect("uqdm: a process ended in the middle of its work")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 1
    assert "Traceback" not in re.sub(r"\s+", " ", child.before)
    wait_until_gone(started)
