"""UQDM's rates and distortions beside those of the published implementation.

    python eval/reproduce.py ema ../shared --json eval/results/reproduced_ema.json

Estimated rates and the PSNR of all three reconstructions on 48 patches, averaged over
four seeds; every patch and seed has a dither of its own, as in the published code. The
folder is the tests' (see the README): weights, patches and the published figures.
"""

import argparse
import json
import sys

from pathlib import Path

import numpy as np
import torch

from tqdm import tqdm

from compressai_uqdm import UQDM

METHODS = ("denoise", "ancestral", "flow_based")


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
    patches = np.load(args.shared / "images/kodak_box64.npy")
    images = torch.from_numpy(patches).permute(0, 3, 1, 2).float().div(255).split(1)

    bits, squared_error = (
        np.zeros(5),
        {method: np.zeros((args.seeds, 4)) for method in METHODS},
    )
    for run in range(args.seeds):
        for i, x in enumerate(tqdm(images, f"seed {run}")):
            seed = run * len(images) + i
            with torch.no_grad():
                likelihoods = net(x, seed=seed)["likelihoods"].values()
            bits += [float(-p.double().log2().sum()) for p in likelihoods]
            out = net.compress(x, seed=seed)
            for method in METHODS:
                decoded = net.decompress(
                    out["strings"][:4], out["shape"], method, progressive=True, seed=seed
                )
                squared_error[method][run] += [
                    float(((y - x) * 255).double().pow(2).mean()) for y in decoded["x_hats"]
                ]

    spread = np.array(published["denoise"]["bpp_spread_over_seeds"][1:])
    bpp = bits.cumsum() / (args.seeds * patches[..., 0].size)
    expected = np.array(published["denoise"]["bpp"][1:])
    results = {
        "weights": args.weights,
        "bpp": bpp.tolist(),
        "published bpp": expected.tolist(),
        "difference in spreads over seeds": ((bpp - expected) / spread).tolist(),
    }
    for method in METHODS:
        psnr = (10 * np.log10(255**2 / (squared_error[method] / len(images)))).mean(0)
        results[f"psnr {method}"] = psnr.tolist()
        results[f"published psnr {method}"] = published[method]["psnr_of_mean_mse"][1:5]
    for name, values in results.items():
        print(f"{name:34}", values if isinstance(values, str) else np.round(values, 3))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
