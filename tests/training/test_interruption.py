"""Runs that end before their time: by Ctrl-C on a terminal, by signals, by being killed.

None of it may show in what the whole run writes.
"""

import os
import signal
import sys
import time

from pathlib import Path
from typing import Any

import pexpect
import pytest

from training_runs import (
    STEPS,
    command,
    environment,
    finish,
    lines,
    load,
    make_folder,
    run,
    start,
)

pytestmark = pytest.mark.slow

RECORDS = ("--log-every", 10, "--checkpoint-every", 1000)
"""Records of ten steps, so that a run is interrupted among them."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, python: str) -> Path:
    """A folder with photographs, a configuration, and a whole run in ``whole``."""
    folder = tmp_path_factory.mktemp("interruption")
    make_folder(folder)
    run(command(folder, "whole", *RECORDS), python=python)
    return folder


def on_a_terminal(arguments: list[str]) -> "pexpect.spawn[str]":
    return pexpect.spawn(
        sys.executable,
        ["-m", "compressai_uqdm.train", *arguments],
        env=environment(),
        encoding="utf-8",
        dimensions=(40, 200),
        timeout=300,
    )


def read_to_the_end(child: "pexpect.spawn[str]") -> tuple[int | None, str]:
    """Exit status, and what was written since the last match."""
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus, str(child.before)


def wait_for_checkpoint(folder: Path, step: int) -> None:
    deadline = time.monotonic() + 300
    while not (folder / "checkpoint.pt").exists() or load(folder)["step"] < step:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def held_out_steps(records: list[dict[str, Any]]) -> list[int]:
    return [record["step"] for record in records if "test_ema" in record]


def test_ctrl_c_on_a_terminal(work: Path) -> None:
    """A line that says how to go on, no traceback, and the same numbers in the end."""
    # a terminal sends Ctrl-C to the processes that read images, too
    arguments = command(work, "pressed", *RECORDS, "--workers", 1)
    child = on_a_terminal(arguments)
    child.expect(r"bpd=\d+\.\d+")  # from the first steps on, long before a record
    child.sendintr()
    child.expect("stopping after this step; Ctrl-C again: at once")
    child.expect(
        r"stopped at step (\d+) of 40, which is in (\S+): the same command resumes"
    )
    step = int(child.match[1])
    assert child.match[2] == str(work / "pressed/checkpoint.pt")
    assert 1 <= step < 10 and load(work / "pressed")["step"] == step
    status, rest = read_to_the_end(child)
    assert status == 128 + signal.SIGINT
    assert "Traceback" not in rest and "Error" not in rest

    child = on_a_terminal(arguments)
    child.expect(f"resuming {work / 'pressed/checkpoint.pt'} at step {step}")
    child.expect(r"s a step: the other \d+ take .*, until \d{4}-\d\d-\d\d \d\d:\d\d")
    child.expect("testing: ")
    assert read_to_the_end(child)[0] == 0
    assert lines(work / "pressed") == lines(work / "whole")

    child = on_a_terminal(arguments)
    child.expect("all steps are done: for more, give a larger --steps")
    assert read_to_the_end(child)[0] == 0
    assert lines(work / "pressed") == lines(work / "whole")


def test_a_second_ctrl_c_does_not_wait(work: Path) -> None:
    options = ("--batch-size", 64, "--crop-size", 64)  # a step of many seconds
    child = on_a_terminal(command(work, "in a hurry", *options))
    child.expect("0/40")
    child.sendintr()
    child.expect("stopping after this step")
    time.sleep(1.2)  # closer together they could be one, sent on by a launcher
    child.sendintr()
    child.expect("stopped at once: the same command resumes the last checkpoint")
    status, rest = read_to_the_end(child)
    assert status == 128 + signal.SIGINT and "Traceback" not in rest
    assert not (work / "in a hurry/checkpoint.pt").exists()


def test_stopped_while_testing(work: Path, python: str) -> None:
    """A test is left at once, and made anew."""
    options = ("--steps", 4, "--test-every", 2, "--test-images", 12)
    run(command(work, "tested", *options), python=python)
    arguments = command(work, "untested", *options)
    child = on_a_terminal(arguments)
    child.expect("testing: ")
    child.kill(signal.SIGTERM)
    child.expect("stopped at step 2 of 4")
    status, rest = read_to_the_end(child)
    assert status == 128 + signal.SIGTERM and "Traceback" not in rest
    assert held_out_steps(lines(work / "untested")) == []
    run(arguments, python=python)
    assert lines(work / "untested") == lines(work / "tested")
    assert held_out_steps(lines(work / "untested")) == [2, 4]


def test_checkpoints_by_time(work: Path, python: str) -> None:
    """A run that is killed loses minutes, however long its steps take."""
    arguments = command(work, "killed", *RECORDS, "--checkpoint-minutes", 1e-9)
    started = start(arguments)
    wait_for_checkpoint(work / "killed", 3)
    started.send_signal(signal.SIGKILL)
    started.communicate()
    assert 3 <= load(work / "killed")["step"] < STEPS
    assert f"resuming {work / 'killed/checkpoint.pt'} at step" in run(
        arguments, python=python
    )
    assert lines(work / "killed") == lines(work / "whole")


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the processes in /proc")
def test_processes_stop_at_the_same_step(work: Path) -> None:
    """When any one of them is told to, and they go on to the same numbers."""
    run(command(work, "two", *RECORDS), processes=2)
    arguments = command(work, "two, stopped", *RECORDS, "--checkpoint-minutes", 1e-9)
    started = start(arguments, processes=2)
    wait_for_checkpoint(work / "two, stopped", 2)
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text()
    os.kill(int(children.split()[-1]), signal.SIGINT)
    status, output = finish(started)
    assert status != 0 and output.count("stopped at step") == 1
    step = load(work / "two, stopped")["step"]
    assert f"stopped at step {step} of 40" in output and step < STEPS
    run(arguments, processes=2)
    assert lines(work / "two, stopped") == lines(work / "two")


def test_ctrl_c_under_torchrun(work: Path) -> None:
    """The launcher passes it on to all; what it says itself is its own."""
    arguments = command(work, "torchrun", *RECORDS)
    started = start(arguments, processes=2)
    deadline = time.monotonic() + 300
    while not (work / "torchrun/metrics.jsonl").exists():  # ten steps
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    _, output = finish(started)
    step = load(work / "torchrun")["step"]
    assert f"stopped at step {step} of 40" in output and 10 <= step < STEPS
    assert "compressai_uqdm/" not in output  # a traceback through the trainer
    run(arguments, processes=2)
    assert [line["step"] for line in lines(work / "torchrun")] == [
        line["step"] for line in lines(work / "whole")
    ]
