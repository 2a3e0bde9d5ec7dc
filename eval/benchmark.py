"""Time and memory of encoding and decoding, beside the network passes they contain.

    python eval/benchmark.py uqdm-tiny photograph.png --sizes 64x64 256x256

For every size, the photograph is tiled or cropped to it and coded lossless, with a network
pass for each latent stage to encode and as many to decode. Times are those of the fastest
of several rounds; the ratio is to the time that the same calls spent in the network, since
times on a busy machine say little by themselves. Memory is the peak of the process so far,
so sizes should ascend.
"""

import argparse
import json
import resource
import sys
import time

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressai.zoo import image_models
from PIL import Image
from torch import Tensor

from compressai_uqdm.families.uqdm.denoiser import Denoiser
from compressai_uqdm.progress import Progress


def tiled(image: np.ndarray, width: int, height: int) -> torch.Tensor:
    """The image repeated, every second time mirrored, to [1, 3, height, width]."""
    image = np.concatenate([image, image[:, ::-1]], 1)
    image = np.concatenate([image, image[::-1]], 0)
    repeats = (-(-height // image.shape[0]), -(-width // image.shape[1]), 1)
    array = np.tile(image, repeats)[:height, :width]
    return torch.tensor(array).permute(2, 0, 1)[None].float() / 255


class Passes(Denoiser):
    """A network that notes the time that a model spends in it."""

    def __init__(self, inner: Denoiser):
        super().__init__()
        self.inner = inner
        self.count, self.seconds = 0, 0.0

    def forward(
        self, z: Tensor, gamma: Tensor, progress: Progress | None = None
    ) -> tuple[Tensor, Tensor]:
        start = time.perf_counter()
        outputs = self.inner(z, gamma, progress)
        self.seconds += time.perf_counter() - start
        self.count += 1
        return outputs

    def time(self, work: Callable[[], Any]) -> tuple[float, float, Any]:
        """Seconds of some work, of the network passes in it, and its result."""
        self.count, self.seconds = 0, 0.0
        start = time.perf_counter()
        result = work()
        return time.perf_counter() - start, self.seconds, result


def measure(
    net: torch.nn.Module, passes: Passes, x: torch.Tensor, rounds: int, encode_only: bool
) -> dict[str, float | None]:
    pixels = x.shape[2] * x.shape[3]
    times = []
    for _ in range(rounds):
        encode, in_network, out = passes.time(partial(net.compress, x))
        assert passes.count == net.latent_stages
        decode = None
        if not encode_only:
            decode, more, decoded = passes.time(partial(net.decompress, **out))
            assert passes.count == net.latent_stages
            assert (decoded["x_hat"] == x).all(), "not decoded exactly"
            in_network += more
        times.append((encode + (decode or 0), in_network, encode, decode))
    total, in_network, encode, decode = min(times)
    return {
        "encode seconds": encode,
        "decode seconds": decode,
        "ratio to network passes": total / in_network,
        "microseconds per pixel": 1e6 * total / pixels,
        "bpp": 8 * sum(len(s[0]) for s in out["strings"]) / pixels,
        "peak memory GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", choices=[m for m in image_models if m.startswith("uqdm")])
    parser.add_argument("photograph", type=Path)
    parser.add_argument("--sizes", nargs="+", default=["64x64", "256x256"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--encode-only", action="store_true")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    args = parser.parse_args(argv)

    net = image_models[args.model](quality=1, pretrained=True)
    net.quality = net.n_stages
    net.denoiser = passes = Passes(net.denoiser)
    image = np.asarray(Image.open(args.photograph).convert("RGB"))
    results = {}
    for size in args.sizes:
        width, height = (int(side) for side in size.split("x"))
        x = tiled(image, width, height)
        results[size] = measure(net, passes, x, args.rounds, args.encode_only)
        shown = {k: round(v, 4) for k, v in results[size].items() if v is not None}
        print(size, shown, flush=True)
    if args.json:
        data = {"name": args.model, "threads": torch.get_num_threads(), "results": results}
        args.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
