"""Time and memory of encoding and decoding, beside the network passes they contain.

    python eval/benchmark.py uqdm-tiny photograph.png --sizes 64x64 256x256

For every size, the photograph is tiled or cropped to it and coded lossless: 4 passes to
encode and 4 to decode for the published models. Times are the least of several rounds in
which passes, encoding and decoding take turns; ratios are within one run, since times
on a busy machine say little by themselves.
"""

import argparse
import json
import resource
import sys
import time

from pathlib import Path

import numpy as np
import torch

from compressai.zoo import image_models
from PIL import Image


def tiled(image: np.ndarray, width: int, height: int) -> torch.Tensor:
    """The image repeated, every second time mirrored, to [1, 3, height, width]."""
    image = np.concatenate([image, image[:, ::-1]], 1)
    image = np.concatenate([image, image[::-1]], 0)
    repeats = (-(-height // image.shape[0]), -(-width // image.shape[1]), 1)
    array = np.tile(image, repeats)[:height, :width]
    return torch.tensor(array).permute(2, 0, 1)[None].float() / 255


@torch.no_grad()
def passes(net: torch.nn.Module, x: torch.Tensor) -> None:
    """The network passes of an encoding, or of a decoding, and nothing else."""
    z = torch.randn_like(x)
    for step in net.noise_schedule.steps():
        net.run_network(z, step.gamma_t)


def measure(net: torch.nn.Module, x: torch.Tensor, rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {"passes": [], "encode": [], "decode": []}
    for _ in range(rounds):
        start = time.perf_counter()
        passes(net, x)
        times["passes"].append(time.perf_counter() - start)
        start = time.perf_counter()
        out = net.compress(x)
        times["encode"].append(time.perf_counter() - start)
        start = time.perf_counter()
        decoded = net.decompress(**out)["x_hat"]
        times["decode"].append(time.perf_counter() - start)
        assert (decoded == x).all(), "not decoded exactly"
    best = {name: min(values) for name, values in times.items()}
    coding = best["encode"] + best["decode"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "pass seconds": best["passes"] / 4,
        "encode seconds": best["encode"],
        "decode seconds": best["decode"],
        "ratio": coding / (2 * best["passes"]),
        "microseconds per pixel": 1e6 * coding / (x.shape[2] * x.shape[3]),
        "bpp": 8 * sum(len(s[0]) for s in out["strings"]) / (x.shape[2] * x.shape[3]),
        "peak memory GiB": peak / 2**20,
    }


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", choices=[m for m in image_models if m.startswith("uqdm")])
    parser.add_argument("photograph", type=Path)
    parser.add_argument("--sizes", nargs="+", default=["64x64", "256x256"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    args = parser.parse_args(argv)

    net = image_models[args.model](quality=5, pretrained=True)
    image = np.asarray(Image.open(args.photograph).convert("RGB"))
    results = {}
    for size in args.sizes:
        width, height = (int(side) for side in size.split("x"))
        x = tiled(image, width, height)
        results[size] = measure(net, x, args.rounds)
        print(size, {k: round(v, 4) for k, v in results[size].items()}, flush=True)
    if args.json:
        data = {"name": args.model, "threads": torch.get_num_threads(), "results": results}
        args.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
