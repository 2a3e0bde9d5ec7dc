"""Rate-distortion curves of measured results, beside others' figures.

    python eval/plot.py eval/results/kodak.json kodak.png --others bpg_kodak.json

Results are those of ``eval/measure.py``; others are in CompressAI's JSON format, or in
that of the published implementation's figures (the tests' ``reference/*.json``).
"""

import argparse
import json
import sys

from pathlib import Path

import matplotlib.pyplot as plt


def curve(path: Path) -> tuple[str, list[float], list[float]]:
    data = json.loads(path.read_text())
    if "estimate" in data:
        denoise = data["estimate"]["denoise"]
        psnr = denoise["psnr_of_mean_mse"]
        return "published uqdm-tiny, estimate", denoise["bpp"][1:5], psnr[1:5]
    results = data["results"]
    return data["name"], results["bpp"], results["psnr-rgb"]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("output", type=Path, help="picture to write")
    parser.add_argument("--others", type=Path, nargs="*", default=[])
    args = parser.parse_args(argv)

    measured = json.loads(args.results.read_text())
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for name, result in measured["results"].items():
        axes.plot(result["bpp"][:4], measured["psnr"][:4], "o-", label=name)
        axes.plot([], [], " ", label=f"   lossless at {result['bpp'][4]:.2f} bpp")
    for path in args.others:
        name, bpp, psnr = curve(path)
        axes.plot(bpp, psnr, "s--", markersize=4, label=name)
    axes.set_xlabel("bits per pixel (real streams)")
    axes.set_ylabel("PSNR (dB) of the mean squared error")
    axes.set_title(f"{measured['count']} images: {measured['images']}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(args.output, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:])
