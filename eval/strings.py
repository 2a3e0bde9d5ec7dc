"""Digests of the strings that models code pictures to, to see that a change keeps them.

    python eval/strings.py images/ before.json uqdm-nano uqdm-nano-ctx
    python eval/strings.py images/ after.json uqdm-nano uqdm-nano-ctx --against before.json

The middle of every picture is coded in single and in double precision. Strings of single
precision are the same on one machine with the same settings only.
"""

import argparse
import hashlib
import json

from pathlib import Path

import torch

from compressai.zoo import image_models
from PIL import Image
from torchvision.transforms.functional import center_crop, to_tensor

SIZE = (76, 100)  # two windows wide and high


def digests(name: str, x: torch.Tensor, dtype: torch.dtype) -> list[str]:
    """One digest for each stage's string; the picture must come back."""
    net = image_models[name](quality=1, pretrained=True).eval().to(dtype)
    net.quality = net.n_stages
    out = net.compress(x, seed=3)
    x_hat = net.decompress(out["strings"], out["shape"], seed=3)["x_hat"]
    if not torch.equal((255 * x_hat).round(), (255 * x).round()):
        raise RuntimeError(f"{name}: not the picture")
    return [hashlib.sha256(strings[0]).hexdigest() for strings in out["strings"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("images", type=Path, help="folder of PNG files")
    parser.add_argument("output", type=Path, help="JSON file to write")
    parser.add_argument("models", nargs="+", help="models of the zoo")
    parser.add_argument("--against", type=Path, help="JSON file to compare with")
    args = parser.parse_args()

    found: dict[str, list[str]] = {}
    for path in sorted(args.images.glob("*.png")):
        x = center_crop(to_tensor(Image.open(path).convert("RGB"))[None], list(SIZE))
        for name in args.models:
            for dtype in (torch.float32, torch.float64):
                key = f"{path.stem} {name} {str(dtype).removeprefix('torch.')}"
                found[key] = digests(name, x, dtype)
    args.output.write_text(json.dumps(found, indent=1) + "\n")
    if args.against:
        before = json.loads(args.against.read_text())
        different = [key for key in found if found[key] != before.get(key)]
        print(f"{len(found) - len(different)} of {len(found)} are the same")
        if different or found.keys() != before.keys():
            raise SystemExit("others: " + ", ".join(different or before.keys()))


if __name__ == "__main__":
    main()
