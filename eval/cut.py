"""Quality of pictures of which the stream is cut anywhere.

    python eval/cut.py uqdm-tiny-ctx kodak/ --crop 160 --json cut.json --figure cut.png

For each image (its middle, with ``--crop``) the stream is cut at fractions of every
stage. The curve is the mean over images of bits per pixel and PSNR (``denoise``), and the
straight lines between the ends of the stages are drawn with it. An exact picture counts as
if one level were off by one.
"""

import argparse
import json
import sys

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from compressai.zoo import image_models
from PIL import Image
from tqdm import tqdm

from compressai_uqdm.families.uqdm.latent import Latent
from compressai_uqdm.models.streaming import PictureDecoder

FRACTIONS = (0, 1 / 64, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 15 / 16)


def middle(path: Path, side: int | None) -> torch.Tensor:
    """An image or its middle, levels, ``[1, 3, H, W]``."""
    image = np.asarray(Image.open(path).convert("RGB"))
    if side:
        y, x = ((n - side) // 2 for n in image.shape[:2])
        image = image[y : y + side, x : x + side]
    return torch.tensor(image).permute(2, 0, 1)[None]


def curve(net, levels: torch.Tensor, seed: int) -> tuple[list[float], list[float]]:  # type: ignore[no-untyped-def]
    """Bits per pixel and PSNR at every cut."""
    shape = levels.shape[2:]
    strings = [s[0] for s in net.compress(levels / 255, seed)["strings"]]
    decoder = PictureDecoder(net, shape, seed)
    bpp, psnr, before = [], [], 0

    def note(latent: Latent, n_bytes: int) -> None:
        with torch.no_grad():
            error = net.reconstruct(latent, "denoise", seed).double() - levels
        mse = max(float(error.square().mean()), 1 / levels.numel())
        bpp.append(8 * n_bytes / shape.numel())
        psnr.append(10 * np.log10(255**2 / mse))

    for string in strings:
        for fraction in FRACTIONS:
            n = int(fraction * len(string))
            note(decoder.decode_partial(string[:n]), before + n)
        decoder.append(string)
        before += len(string)
    note(decoder.latent, before)
    return bpp, psnr


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", choices=[m for m in image_models if m.startswith("uqdm")])
    parser.add_argument("images", type=Path)
    parser.add_argument("--crop", type=int, help="side of the middle to take")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args(argv)

    net = image_models[args.model](1, pretrained=True)
    net.quality = net.n_stages
    files = sorted(f for f in args.images.iterdir() if f.suffix in (".png", ".jpg"))
    curves = [
        curve(net, middle(file, args.crop), seed)
        for seed, file in enumerate(tqdm(files, args.model))
    ]
    bpp, psnr = np.mean(curves, 0)
    ends = np.arange(0, len(bpp), len(FRACTIONS))
    line = np.interp(bpp, bpp[ends], psnr[ends])
    falls = np.maximum(0, -np.diff(psnr))
    for i, (r, q) in enumerate(zip(bpp, psnr)):
        stage, at = divmod(i, len(FRACTIONS))
        print(
            f"stage {stage + 1} + {FRACTIONS[at]:5.3f}: {r:7.4f} bpp {q:6.2f} dB "
            f"({q - line[i]:+.2f} to the straight line)"
        )
    print(f"largest fall with more bytes: {falls.max():.3f} dB")
    if args.json:
        data = {
            "model": args.model,
            "images": args.images.name,
            "crop": args.crop,
            "count": len(files),
            "bpp": list(bpp),
            "psnr": list(psnr),
            "stage ends": ends.tolist(),
            "largest fall": falls.max(),
        }
        args.json.write_text(json.dumps(data, indent=1) + "\n")
    if args.figure:
        figure, axes = plt.subplots(figsize=(7, 4.5))
        axes.plot(bpp, psnr, ".-", label=f"{args.model}, cut anywhere")
        axes.plot(bpp[ends], psnr[ends], "o:", label="whole stages")
        axes.set_xlabel("bits per pixel")
        axes.set_ylabel("PSNR (dB), mean over images")
        what = f", middle {args.crop}x{args.crop}" if args.crop else ""
        axes.set_title(f"{len(files)} images of {args.images.name}{what}")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
        figure.tight_layout()
        figure.savefig(args.figure, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:])
