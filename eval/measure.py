"""Real sizes and distortions of UQDM, stage by stage, from streams that are decoded.

    python eval/measure.py uqdm-tiny photographs/ --json results.json

Prints a table and writes it as JSON. Rates are those of the strings, in bits per pixel
over all images. PSNR is that of the mean squared error over all images; at the last
stage the decoded images are compared with the originals, value by value.
"""

import argparse
import json
import sys

from pathlib import Path

import numpy as np
import torch

from compressai.zoo import image_models
from PIL import Image
from tqdm import tqdm


def read_images(path: Path) -> list[torch.Tensor]:
    """Images of a folder or of an array [n, H, W, 3], as [1, 3, H, W] in [0, 1]."""
    if path.suffix == ".npy":
        arrays = list(np.load(path))
    else:
        files = sorted(f for f in path.iterdir() if f.suffix in (".png", ".jpg"))
        arrays = [np.asarray(Image.open(f).convert("RGB")) for f in files]
    if not arrays:
        raise SystemExit(f"no PNG or JPEG images in {path}")
    return [torch.tensor(a).permute(2, 0, 1)[None].float() / 255 for a in arrays]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", choices=[m for m in image_models if m.startswith("uqdm")])
    parser.add_argument("images", type=Path, help="folder, or .npy of [n, H, W, 3]")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--weights", default="ema", help="raw, ema or ema_schedule")
    parser.add_argument("--encode-only", action="store_true", help="sizes only")
    args = parser.parse_args(argv)

    kwargs = {"weights": args.weights}
    net = image_models[args.model](quality=5, pretrained=True, **kwargs)
    images = read_images(args.images)
    pixels = sum(x.shape[2] * x.shape[3] for x in images)
    sizes, squared_error, exact = np.zeros(5), np.zeros(5), 0
    for seed, x in enumerate(tqdm(images, args.model)):
        out = net.compress(x, seed=seed)
        sizes += [len(segment[0]) for segment in out["strings"]]
        if not args.encode_only:
            decoded = net.decompress(**out, progressive=True, seed=seed)["x_hats"]
            squared_error += [float(((y - x) * 255).double().pow(2).sum()) for y in decoded]
            exact += bool((decoded[-1] == x).all())

    results = {"stage": list(range(1, 6)), "bpp": list(8 * sizes.cumsum() / pixels)}
    results["bpp of stage"] = list(8 * sizes / pixels)
    if not args.encode_only:
        mse = squared_error / (3 * pixels)
        results["psnr"] = [float(10 * np.log10(255**2 / e)) if e else None for e in mse]
        print(f"{exact} of {len(images)} images decoded exactly")
    print(
        f"{args.model}, {len(images)} images of {args.images.name}, {args.weights} weights"
    )
    for row in zip(*results.values()):
        print(dict(zip(results, (round(v, 4) if v is not None else v for v in row))))
    if args.json:
        args.json.write_text(
            json.dumps(
                {
                    "name": args.model,
                    "images": args.images.name,
                    "count": len(images),
                    "weights": args.weights,
                    "decoded exactly": None if args.encode_only else exact,
                    "results": results,
                },
                indent=1,
            )
            + "\n"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
