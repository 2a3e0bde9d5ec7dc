"""What the trainer adds to a bare training step, and how fast it is fed.

    python eval/benchmark_training.py --json eval/results/training.json

First, on random photographs: a step of the trainer's own loop, with data, noise, clipping,
averages and a record of every step, beside a bare one of the same model and batch, on the
device that accelerate chooses: forward, criterion, backward, Adam. The two alternate, since
times on a busy machine say little by themselves. Second, images per second that the
trainer's loader reads from npz files of ImageNet's layout, at random, in this one process.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from accelerate import Accelerator
from PIL import Image

from compressai_uqdm import UQDM, UQDMConfig
from compressai_uqdm.datasets import ImageNet64
from compressai_uqdm.losses import BitsPerDimensionLoss
from compressai_uqdm.training import run as loop
from compressai_uqdm.training.data import BatchSampler, make_loader
from compressai_uqdm.training.settings import UQDMSettings
from compressai_uqdm.training.uqdm import start

ROWS = 3 * 64 * 64


class BareStep:
    """A training step and nothing else, on one batch."""

    def __init__(self, batch_size: int, accelerator: Accelerator):
        self.accelerator = accelerator
        self.net = UQDM(UQDMConfig()).train().to(accelerator.device)
        self.criterion = BitsPerDimensionLoss()
        self.optimizer = torch.optim.Adam(self.net.parameters(), 2e-4, fused=True)
        x = torch.randint(0, 256, (batch_size, 3, 64, 64)) / 255
        self.x = x.to(accelerator.device)

    def __call__(self) -> None:
        with self.accelerator.autocast():
            likelihoods = self.net(self.x)
        self.criterion(likelihoods)["loss"].backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        wait()


def wait() -> None:
    """Until a GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory(work: Callable[[], None]) -> float | None:
    """GiB that a GPU held most in it."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() / 2**30


class Stopwatch:
    """Stands in for what shows the trainer's progress: after each step it makes a bare one.

    What passes between two calls of ``update`` is the trainer's.
    """

    def __init__(self, bare_step: BareStep):
        self.bare_step = bare_step
        self.trainer: list[float] = []
        self.bare: list[float] = []
        self.since: float | None = None

    def __call__(self, step: int, steps: int, shown: bool, unit: str) -> "Stopwatch":
        return self

    def update(self, loss: float, seconds: float) -> None:
        wait()
        now = time.perf_counter()
        if self.since is not None:
            self.trainer.append(now - self.since)
            self.bare_step()
            self.bare.append(time.perf_counter() - now)
        self.since = time.perf_counter()

    def write(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def time_steps(batch_size: int, steps: int) -> dict[str, Any]:
    bare_step = BareStep(batch_size, Accelerator())
    peak = peak_memory(bare_step)
    stopwatch = Stopwatch(bare_step)
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(folder) / "photographs"
        photographs.mkdir()
        rng = np.random.default_rng(0)
        for i in range(4):
            pixels = rng.integers(0, 256, (400, 500, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(photographs / f"{i}.png")
        output = Path(folder) / "run"
        settings = UQDMSettings(
            photographs, output, batch_size=batch_size, steps=steps, log_every=1
        )
        with patch.object(loop, "StepBar", stopwatch):
            start(settings).train()
    ours, bare = (times[2:] for times in (stopwatch.trainer, stopwatch.bare))  # warm
    return {
        "device": str(bare_step.accelerator.device),
        "mixed precision": bare_step.accelerator.mixed_precision,
        "batch size": batch_size,
        "steps": len(ours),
        "trainer's step, seconds": statistics.median(ours),
        "bare step, seconds": statistics.median(bare),
        "bare step, peak memory GiB": peak,
        "ratio": statistics.median(ours) / statistics.median(bare),
        "ratio of the fastest": min(ours) / min(bare),
    }


def time_loader(images: int, batch_size: int, rounds: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(4):
            rows = rng.integers(0, 256, (images // 4, ROWS), np.uint8)
            np.savez(Path(folder) / f"train_data_batch_{i}.npz", data=rows)
        data = ImageNet64(folder)
        for seed in range(rounds + 1):  # the first also brings the files into memory
            steps = range(len(data) // batch_size)
            sampler = BatchSampler(len(data), batch_size, 1, range(1), steps, seed)
            start = time.perf_counter()
            n = sum(len(levels) for levels, _ in make_loader(data, sampler, 0, False))
            rates.append(n / (time.perf_counter() - start))
    return {
        "images": images,
        "batch size": batch_size,
        "images per second": statistics.median(rates[1:]),
    }


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--images", type=int, default=20_000, help="to read from npz files")
    parser.add_argument("--mixed-precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    args = parser.parse_args(argv)

    Accelerator(mixed_precision=args.mixed_precision)  # those to come share its state
    results = {
        "threads": torch.get_num_threads(),
        "step": time_steps(args.batch_size, args.steps),
        "loader": time_loader(args.images, 64, rounds=5),
    }
    print(json.dumps(results, indent=1))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
