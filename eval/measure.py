"""Real sizes and distortions of UQDM, stage by stage, from streams that are decoded.

    python eval/measure.py uqdm-tiny-ctx photographs/ --json results.json

Prints a table and writes it as JSON: the model's rates, and those without its context
prior if it has one. Rates are those of the strings, in bits per pixel over all images.
PSNR is that of the mean squared error over all images. At the last stage the decoded
images are compared with the originals, value by value.

Latents are the same for encoder and decoder, with context and without, so the network
runs once for each and its outputs are kept until the image is done.
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


class KeepPasses:
    """Lets models of the same weights share the network passes on one image."""

    def __init__(self, nets: list[torch.nn.Module]):
        self.passes: list[tuple[torch.Tensor, list[torch.Tensor]]] = []
        run = nets[0].run_network

        def run_once(z: torch.Tensor, gamma: torch.Tensor) -> list[torch.Tensor]:
            for known, outputs in self.passes:
                if torch.equal(known, z):
                    return outputs
            self.passes.append((z, run(z, gamma)))
            return self.passes[-1][1]

        for net in nets:
            net.run_network = run_once


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
    args = parser.parse_args(argv)

    names = sorted({args.model, args.model.removesuffix("-ctx")})
    nets = [image_models[n](5, pretrained=True, weights=args.weights) for n in names]
    cache = KeepPasses(nets)
    images = read_images(args.images)
    pixels = sum(x.shape[2] * x.shape[3] for x in images)
    sizes, squared_error, exact = np.zeros((len(nets), 5)), np.zeros(5), 0
    for seed, x in enumerate(tqdm(images, args.model)):
        cache.passes.clear()
        for i, net in enumerate(nets):
            out = net.compress(x, seed=seed)
            sizes[i] += [len(segment[0]) for segment in out["strings"]]
            decoded = net.decompress(**out, progressive=True, seed=seed)["x_hats"]
            exact += bool((decoded[-1] == x).all())
        squared_error += [float(((y - x) * 255).double().pow(2).sum()) for y in decoded]

    mse = squared_error / (3 * pixels)
    psnr = [float(10 * np.log10(255**2 / e)) if e else None for e in mse]
    results = {
        name: {"bpp": list(8 * s.cumsum() / pixels), "bpp of stage": list(8 * s / pixels)}
        for name, s in zip(names, sizes)
    }
    print(f"{len(images)} images of {args.images.name}, {args.weights} weights;")
    print(f"{exact} of {len(nets) * len(images)} streams decoded exactly")
    print("stage  psnr  " + "".join(f"{name:>16}" for name in names))
    for q in range(5):
        shown = f"{psnr[q]:6.2f}" if psnr[q] else " exact"
        bpp = "".join(f"{results[name]['bpp'][q]:16.4f}" for name in names)
        print(f"{q + 1:5d}{shown}  {bpp}")
    if args.json:
        data = {"images": args.images.name, "count": len(images), "weights": args.weights}
        data |= {"streams decoded exactly": exact, "psnr": psnr, "results": results}
        args.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
