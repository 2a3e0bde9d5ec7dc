"""Times of the command as it runs by default, and sizes beside PNG.

    pip install scikit-image
    python eval/command_times.py --json eval/results/command_times.json

Of photographs that the packaged model was not trained on: the left one of scikit-image's
motorcycle, whole and its middle. Every time is of a process of its own, from its start to
its end, on a machine that does nothing else.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time

from pathlib import Path

import torch

from file_times import middle
from PIL import Image
from skimage.data import stereo_motorcycle


def seconds(*arguments: str | Path) -> dict[str, float]:
    """What ``uqdm arguments`` takes, by the clock and of all processors."""
    command = [sys.executable, "-m", "compressai_uqdm", *map(str, arguments)]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": wall, "processor seconds": cpu}


def measure(image: Image.Image, repeats: int) -> dict:
    """Sizes in bytes, and the shortest time of each command."""
    with tempfile.TemporaryDirectory() as name:
        png, coded, back = (Path(name) / n for n in ("a.png", "a.uqdm", "back.png"))
        image.save(png, optimize=True)
        row: dict = {"size": image.size, "png": png.stat().st_size}
        commands = {"encode": ("encode", png, coded), "decode": ("decode", coded, back)}
        for way, command in commands.items():
            times = [seconds(*command, "--force") for _ in range(repeats)]
            row[way] = min(times, key=lambda t: t["seconds"])
        row["uqdm"] = coded.stat().st_size
        assert Image.open(back).tobytes() == image.tobytes()
    return row


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    whole = Image.fromarray(stereo_motorcycle()[0])
    rows = []
    for image in (middle(whole, 64), middle(whole, 256), whole):
        rows.append(measure(image, args.repeats))
        print(rows[-1], flush=True)
    data = {"processor": platform.processor() or platform.machine(), "rows": rows}
    data |= {"processors": os.cpu_count(), "threads": torch.get_num_threads()}
    if args.json:
        args.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
