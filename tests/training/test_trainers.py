"""What goes wrong around a training: it is one line, early, and nothing is lost."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from PIL import Image

from compressai_uqdm import CosineUQDM, train, train_context, train_dct
from compressai_uqdm.families.uqdm.context_files import read_contexts
from compressai_uqdm.training.checkpoints import save_checkpoint
from compressai_uqdm.training.progress_bar import StepBar

ROOT = Path(__file__).parents[2]
TRAIN = "--steps 2 --bound one --crop-size 16 --batch-size 4 --log-every 1".split()
DCT = (
    "--steps 1 --hidden 8 --batch-size 1 --crop-size 16 --quantization-steps 48 "
    "--dead-zones 0.3"
)
CONTEXT = "--steps 4 --crops 2 --batch-size 1 --pixel-steps 1 --pixel-batch-size 1"
TRAINERS = {
    "train": (train.main, "out", TRAIN),
    "train_dct": (train_dct.main, "out.npz", DCT.split()),
    "train_context": (train_context.main, "out.npz", CONTEXT.split()),
}
CHECKPOINTS = {
    "train": "out/checkpoint.pt",
    "train_dct": "out.checkpoint.pt",
    "train_context": "out.checkpoint.pt",
}


@pytest.fixture
def work(photograph: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a folder of one photograph."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    (tmp_path / "photographs").mkdir()
    photograph.save("photographs/a.png")
    return tmp_path


def train_on(trainer: str, images: str, output: str, *options: str) -> None:
    main, _, common = TRAINERS[trainer]
    model = ["uqdm-nano"] * (trainer == "train_context")
    main([*model, images, output, *common, *options])


def refused(trainer: str, images: str, output: str, *options: str) -> str:
    """The line that a trainer ends with."""
    with pytest.raises(SystemExit) as raised:
        train_on(trainer, images, output, *options)
    assert isinstance(raised.value.code, str), raised.value.code  # else it exits with 0
    assert "\n" not in raised.value.code
    return raised.value.code


def start(
    trainer: str, *options: str, limit: int | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own; ``limit`` is of the bytes of a file."""
    _, output, common = TRAINERS[trainer]

    def begin() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    model = ["uqdm-nano"] * (trainer == "train_context")
    program = [sys.executable, "-m", f"compressai_uqdm.{trainer}"]
    command = [*program, *model, "photographs", output]
    variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [*command, *common, *options],
        env={**os.environ, **variables},
        preexec_fn=begin,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_output_is_checked_first(
    trainer: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the photographs are read, which are not even there."""
    Path("file").write_text("not a folder")
    for output in ("/proc/nowhere/out.npz", "file/out.npz"):
        assert "cannot write to the folder" in refused(trainer, "nowhere", output)
    (work / "folder.npz").mkdir()
    if trainer != "train":
        with pytest.raises(SystemExit):
            train_on(trainer, "nowhere", "folder.npz")
        assert "got the folder folder.npz" in capsys.readouterr().err


@pytest.mark.parametrize("trainer", TRAINERS)
def test_folders_without_photographs(trainer: str, work: Path) -> None:
    Path("empty").mkdir()
    assert "no images of at least" in refused(trainer, "empty", "out.npz")
    Path("damaged").mkdir()
    Path("damaged/a.png").write_bytes(b"text")
    os.mkfifo("damaged/b.png")
    Path("damaged/c.png").mkdir()
    Path("damaged/d.png").symlink_to("nowhere")
    assert "no images of at least" in refused(trainer, "damaged", "out.npz")
    assert not Path("out.npz").exists()


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["train", "train_dct"])
def test_what_cannot_be_read_is_left_out(
    trainer: str, work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Path("photographs/a.png").read_bytes()
    Path("photographs/cut.png").write_bytes(whole[: len(whole) // 2])
    Path("photographs/text.png").write_text("text")
    os.mkfifo("photographs/pipe.png")
    main, output, options = TRAINERS[trainer]
    main(["photographs", output, *options, "--steps", "3"])
    assert Path(output).exists()
    for name in ("cut", "text", "pipe"):
        assert f"left out photographs/{name}.png" in caplog.text


@pytest.mark.slow
def test_processes_that_read_damaged_photographs_end(work: Path) -> None:
    whole = Path("photographs/a.png").read_bytes()
    Path("photographs/a.png").write_bytes(whole[: len(whole) // 2])
    done = start("train", "--workers", "2")
    assert done.returncode == 1
    assert done.stderr.endswith("none of the 1 images can be read\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0' in the environment: expected a number"),
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE is 'abc' in the environment"),
        ({"RANK": "", "WORLD_SIZE": "2"}, "which lacks RANK"),
        ({"RANK": "5", "WORLD_SIZE": "2"}, "RANK is 5 and WORLD_SIZE 2"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is '-1' in the environment"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x' in the environment"),
        ({"LOCAL_RANK": "0", "MASTER_PORT": "x"}, "MASTER_PORT is 'x'"),
    ],
    ids=str,
)
def test_variables_of_launchers(
    variables: dict[str, str], message: str, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for trainer in TRAINERS:
        line = refused(trainer, "photographs", "out.npz")
        assert message in line and "start it with torchrun or accelerate launch" in line


@pytest.mark.parametrize("trainer", ["train_dct", "train_context"])
def test_trainers_of_one_process(
    trainer: str, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert "works in one process" in refused(trainer, "photographs", "out.npz")


@pytest.mark.slow
def test_others_that_are_not_there(work: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(taken.getsockname()[1])}
        done = start("train", RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", **address)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "does not find the others" in done.stderr.splitlines()[-1]


def change(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda checkpoint: checkpoint.update({key: value})


CHANGES = {
    "no-arguments": change("arguments", 3),
    "step": change("step", "many"),
    "optimizer": change("optimizer", {"state": 3}),
    "state": change("state_dict", {"a": torch.ones(1)}),
    "raw": change("raw_state_dict", []),
    "means": change("means", {"sums": 3}),
    "networks": change("networks", {"0.w.conv": torch.ones(1)}),
    "average": change("average", 5),
    "average-shapes": change("average", [torch.ones(1)]),
    "phase": change("phase", 99),
}
OF_ALL = (
    "no-arguments",
    "step",
    "optimizer",
    "means",
    "average",
    "average-shapes",
    "phase",
)
OF_EACH = {
    "train": (*OF_ALL, "state", "raw"),
    "train_dct": (*OF_ALL, "state"),
    "train_context": (*OF_ALL, "networks"),
}


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_damaged_checkpoints(trainer: str, work: Path) -> None:
    output, name = TRAINERS[trainer][1], CHECKPOINTS[trainer]
    train_on(trainer, "photographs", output)
    file = Path(name)
    whole = file.read_bytes()
    for damaged in (b"", b"text", whole[: len(whole) // 2], whole[:-9]):
        file.write_bytes(damaged)
        line = refused(trainer, "photographs", output)
        assert f"{name} is not a checkpoint that can be read" in line
        assert file.read_bytes() == damaged
    for change in OF_EACH[trainer]:
        file.write_bytes(whole)
        checkpoint = torch.load(file, weights_only=True)
        CHANGES[change](checkpoint)
        torch.save(checkpoint, file)
        before = file.read_bytes()
        if change == "no-arguments":  # nothing of it is missed
            train_on(trainer, "photographs", output)
            continue
        line = refused(trainer, "photographs", output)
        assert f"cannot resume {name}" in line, change
        assert file.read_bytes() == before
    if trainer == "train":  # records of a run that was killed, or whose disk was damaged
        file.write_bytes(whole)
        metrics = Path("out/metrics.jsonl")
        lines = metrics.read_text()
        metrics.write_bytes(
            lines.encode() + b'{"step": 3}{\n\xff\xfe\n{"loss": 1}\n[3]\n{}'
        )
        train_on(trainer, "photographs", output)
        assert metrics.read_text() == lines


@pytest.mark.slow
def test_context_training_resumes(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the same weights and records, whichever steps it was stopped after."""
    options = ("--steps", "8", "--pixel-steps", "3", "--log-every", "2")
    train_on("train_context", "photographs", "whole.npz", *options)
    update, made = StepBar.update, 0

    def update_and_stop(self: StepBar, loss: float, seconds: float) -> None:
        nonlocal made
        made += 1
        update(self, loss, seconds)
        if made in (1, 2, 5, 19):  # in the first stage, at its end, in others, in pixels
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StepBar, "update", update_and_stop)
    for _ in range(4):
        with pytest.raises(SystemExit) as stopped:
            train_on("train_context", "photographs", "parts.npz", *options)
        assert stopped.value.code == 128 + signal.SIGINT
        assert not Path("parts.npz").exists()
    train_on("train_context", "photographs", "parts.npz", *options)
    assert made == 2 + 8 + 8 + 3
    with np.load("whole.npz") as whole, np.load("parts.npz") as parts:
        assert whole.files == parts.files
        assert all(np.array_equal(whole[name], parts[name]) for name in whole.files)
    records = [
        [
            {k: v for k, v in json.loads(line).items() if k != "images_per_second"}
            for line in Path(f"{name}.metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "parts")
    ]
    assert records[0] == records[1]


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_full_disk(trainer: str, work: Path) -> None:
    """The checkpoint before stays, and the same command resumes the run."""
    name = CHECKPOINTS[trainer]
    more = ["--steps", "4"] if trainer == "train" else ["--checkpoint-every", "1"]
    done = start(trainer)
    assert done.returncode == 0, done.stderr
    file = Path(name)
    before, size = file.read_bytes(), file.stat().st_size
    if trainer != "train":  # which is at its end: back to its beginning
        file.unlink()
        done = start(trainer, *more, limit=20_000)
        assert not file.exists() and Path("out.npz").exists()
    else:
        done = start(trainer, *more, limit=size // 2)
        assert file.read_bytes() == before
    assert done.returncode == 1
    assert f"cannot write {name}: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(work.rglob("*.partial"))
    assert start(trainer, *more).returncode == 0


def test_files_are_replaced_whole(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there stays where writing fails."""

    class Unwritable:
        def __reduce__(self) -> None:  # type: ignore[override]
            raise OSError(28, "No space left on device")

    file = work / "a.pt"
    save_checkpoint(file, {"a": 1}, {})
    with pytest.raises(OSError, match=r"cannot write .*a\.pt: No space left on device"):
        save_checkpoint(file, {"a": Unwritable()}, {})
    assert torch.load(file)["a"] == 1
    assert list(work.glob("a*")) == [file]


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4" + b"x" * 99, b"\x80\x04."])
def test_files_that_hold_no_contexts(content: bytes, work: Path) -> None:
    Path("contexts.npz").write_bytes(content)
    with pytest.raises(ValueError, match="contexts.npz is no file of context priors"):
        read_contexts(Path("contexts.npz"))
    line = refused("train_context", "photographs", "o.npz", "--initial", "contexts.npz")
    assert "contexts.npz is no file of context priors" in line
    np.savez("contexts.npz", a=np.ones(2))
    with pytest.raises(ValueError, match="is missing"):
        read_contexts(Path("contexts.npz"))


def test_weights_are_written_whole(work: Path) -> None:
    """Also by a name without a suffix."""
    net = CosineUQDM()
    net.save_integers("weights")
    net.save_integers("weights")
    assert [path.name for path in work.iterdir() if path.is_file()] == ["weights"]
    assert CosineUQDM.from_checkpoint("weights").config == net.config
