"""Runs of the trainer in processes of their own, and what they leave behind."""

import json
import os
import subprocess
import sys

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from PIL import Image

from compressai_uqdm import UQDMConfig
from compressai_uqdm.families.uqdm.unet import UNetConfig

REPOSITORY = Path(__file__).parents[2]
SMALL = UQDMConfig(network=UNetConfig(embedding_dim=8, norm_groups=2))
STEPS = 40


def command(work: Path, output: str, *options: object) -> list[str]:
    """A run of seconds; every option of ``options`` counts, the last of a kind."""
    common = ["--crop-size", 16, "--batch-size", 8, "--learning-rate", 2e-3]
    common += ["--warmup", 10, "--steps", STEPS, "--log-every", 1]
    common += ["--checkpoint-every", 7, "--test-every", 15, "--test-images", 6]
    folders = [work / "photographs", work / output, "--test", work / "held out"]
    model = ["--model", work / "config.json"]
    return [str(word) for word in (*folders, *model, *common, *options)]


def environment() -> dict[str, str]:
    """Where runs are on a CPU, one thread each, and of this package."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    cpu = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": path}
    return {**os.environ, **cpu}


def start(
    arguments: list[str], processes: int = 1, python: str = sys.executable
) -> subprocess.Popen[str]:
    program = ["-m", "compressai_uqdm.train", *arguments]
    if processes > 1:
        spread = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        program = [*spread, str(processes), *program]
    return subprocess.Popen(
        [python, *program],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(arguments: list[str], processes: int = 1, python: str = sys.executable) -> str:
    status, output = finish(start(arguments, processes, python))
    assert status == 0, output
    return output


def finish(started: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        output, _ = started.communicate(timeout=300)
    finally:
        started.kill()
    return started.returncode, output


def lines(folder: Path) -> list[dict[str, Any]]:
    """What is measured, without what no two runs have in common."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    for line in found:
        line.pop("images_per_second", None)
    return found


def losses(folder: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in lines(folder) if "loss" in line}


def tensors(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by their place in it."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {}
    parts = [tensors(v, f"{name}/{k}") for k, v in value.items()]
    return {k: v for part in parts for k, v in part.items()}


def load(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def make_folder(folder: Path) -> None:
    """Photographs, held-out ones, and a model's configuration."""
    rng = np.random.default_rng(0)
    for name in ("photographs/a", "photographs/b", "photographs/c", "held out/a"):
        file = folder / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        coarse = rng.integers(0, 256, (9, 10, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((80, 70), Image.Resampling.BICUBIC).save(file)
    (folder / "config.json").write_text(json.dumps({"model": asdict(SMALL)}))
