"""Times of encoding and decoding files in both arithmetics.

    python eval/file_times.py uqdm-nano-ctx kodak/01.png --json file_times.json

Takes the image, and its middle at 256x256 and 64x64. Single and double precision take
turns, so that their ratio holds on a busy machine.
"""

import argparse
import json
import sys
import time

from pathlib import Path

import torch

from PIL import Image

from compressai_uqdm import decode, encode
from compressai_uqdm.files.model import Codec, open_codec

ARITHMETICS = ("float32", "float64")


def middle(image: Image.Image, side: int) -> Image.Image:
    x, y = ((n - side) // 2 for n in image.size)
    return image.crop((x, y, x + side, y + side))


@torch.no_grad()
def pass_ratio(codec: Codec, image: Image.Image) -> float:
    """Time of a network pass in double precision over that in single."""
    times: dict[str, list[float]] = {a: [] for a in ARITHMETICS}
    nets = {a: codec.computing_in(a) for a in ARITHMETICS}
    for _ in range(5):
        for arithmetic, net in nets.items():
            latent = net.first_latent((1, 3, *image.size), 0)
            start = time.perf_counter()
            net.predict(latent.z, latent.step)
            times[arithmetic].append(time.perf_counter() - start)
    return min(times["float64"]) / min(times["float32"])


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("image", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    whole = Image.open(args.image).convert("RGB")
    codec = open_codec(args.model)
    rows = []
    for image, repeats in ((middle(whole, 64), 5), (middle(whole, 256), 1), (whole, 1)):
        times: dict[str, list[float]] = {}
        for _ in range(repeats + 1):
            for arithmetic in ARITHMETICS:
                start = time.perf_counter()
                data = encode(image, codec, arithmetic=arithmetic)
                times.setdefault(f"encode {arithmetic}", []).append(
                    time.perf_counter() - start
                )
                decode(data[:100])  # opens the model
                start = time.perf_counter()
                picture = decode(data)
                times.setdefault(f"decode {arithmetic}", []).append(
                    time.perf_counter() - start
                )
                assert picture.exact
            if repeats == 1:
                break
        row: dict = {"size": image.size}
        # the first round warms up
        row |= {k: min(v[1:] or v) for k, v in times.items()}
        for way in ("encode", "decode"):
            row[f"{way} ratio"] = row[f"{way} float64"] / row[f"{way} float32"]
        print(row, flush=True)
        rows.append(row)
    ratio = pass_ratio(codec, middle(whole, 256))
    print(f"network passes, float64 to float32: {ratio:.2f}")
    if args.json:
        data = {"model": args.model, "threads": args.threads, "rows": rows}
        data["ratio of network passes"] = ratio
        args.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
