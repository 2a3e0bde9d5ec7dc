"""UQDM's rates and distortions beside those of the published implementation.

    python eval/reproduce.py ema ../shared --json eval/results/reproduced_ema.json

Estimated rates and the PSNR of all three reconstructions on 48 patches, averaged over
four seeds; every patch and seed has a dither of its own, as in the published code. The
folder is the tests' (see the README): weights, patches and the published figures.
"""

import argparse
import json

from pathlib import Path

import numpy as np

from curves import distortion, psnr
from evaluate import METHODS, Network, estimate
from images import ImageSet
from runs import run_program, write_json
from tqdm import tqdm

from compressai_uqdm import UQDM


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("weights", choices=["raw", "ema"])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    args = parser.parse_args(argv)

    suffix = "_ema" if args.weights == "ema" else ""
    file = args.shared / f"reference/kodak_box64_first48{suffix}.json"
    published = json.loads(file.read_text())["estimate"]
    net = UQDM.from_checkpoint(args.shared / "checkpoints/uqdm-tiny", weights=args.weights)
    network = Network(net)
    network.serve(net)
    images = ImageSet(args.shared / "images/kodak_box64.npy")

    bits, mse = [], []  # [seeds x images, stages], [seeds x images, methods, stages]
    for i in tqdm(range(args.seeds * len(images))):
        image = images[i % len(images)]
        network.forget()
        found = estimate(
            net,
            image,
            i,
            lambda method, stage, x: distortion(image, x, False),  # noqa: B023
        )
        bits.append(found["estimate"])
        mse.append([[d["mse"] for d in found["distortions"][m][:4]] for m in METHODS])

    spread = np.array(published["denoise"]["bpp_spread_over_seeds"][1:])
    bpp = np.mean(bits, 0) / images[0][..., 0].size
    expected = np.array(published["denoise"]["bpp"][1:])
    results = {
        "weights": args.weights,
        "bpp": bpp.tolist(),
        "published bpp": expected.tolist(),
        "difference in spreads over seeds": ((bpp - expected) / spread).tolist(),
    }
    of_seeds = np.array(mse).reshape(args.seeds, len(images), len(METHODS), 4).mean(1)
    for i, method in enumerate(METHODS):
        values = len(images) * images[0].size
        psnrs = [[psnr(e, values) for e in row[i]] for row in of_seeds]
        results[f"psnr {method}"] = np.mean(psnrs, 0).tolist()
        results[f"published psnr {method}"] = published[method]["psnr_of_mean_mse"][1:5]
    for name, found in results.items():
        print(f"{name:34}", found if isinstance(found, str) else np.round(found, 3))
    if args.json:
        write_json(args.json, results)


if __name__ == "__main__":
    run_program(main)
