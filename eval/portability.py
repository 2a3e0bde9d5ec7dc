"""Whether strings decode under other settings than they were encoded with, and why.

    python eval/portability.py uqdm-tiny images.npy --json portability.json

Two settings stand for two machines: they add the same numbers in another order. For
each arithmetic and setting the script decodes what was encoded with one thread, and
measures how far the numbers that are rounded to integers lie from the encoder's: the
prior's locations, in lattice points, and positions on the scale table, in entries.

It also says what a guard would cost in single precision: with a margin of ten times the
largest difference seen, an encoder that moves blocks of values off the middle between two
integers spends about 1.44 f bits a number, f the fraction of numbers within the margin.
"""

import argparse
import copy
import json
import sys

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from compressai.zoo import image_models
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from compressai_uqdm import UQDM, DamagedStringError
from compressai_uqdm.families.uqdm import windowed
from compressai_uqdm.models.coding import Decoder
from compressai_uqdm.quantization.dither import dither
from compressai_uqdm.quantization.rounding import MARGIN, Guard

KINDS = ("scale", "location")


class Watch(Guard):
    """Keeps the numbers that are rounded."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def round(self, x: Tensor) -> Tensor:
        self.seen.append(x.double().flatten())
        return super().round(x)


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    yield
    torch.set_num_threads(before)


@contextmanager
def window_batch(n: int) -> Iterator[None]:
    before = windowed.BATCH["cpu"]
    windowed.BATCH["cpu"] = n
    yield
    windowed.BATCH["cpu"] = before


SETTINGS: dict[str, Callable] = {
    "the same again": lambda net: threads(1),
    "2 threads": lambda net: threads(2),
    "windows one by one": lambda net: window_batch(1),
    "windows by 7": lambda net: window_batch(7),
    "without oneDNN": lambda net: torch.backends.mkldnn.flags(enabled=False),
    "plain attention": lambda net: sdpa_kernel(SDPBackend.MATH),
    "contiguous": lambda net: contiguous(net),
    "compiled": lambda net: compiled(net),
}


@contextmanager
def contiguous(net: UQDM) -> Iterator[None]:
    hook = net.denoiser.conv_in.register_forward_pre_hook(
        lambda layer, inputs: (inputs[0].contiguous(),)
    )
    yield
    hook.remove()


@contextmanager
def compiled(net: UQDM) -> Iterator[None]:
    plain = net.denoiser
    net.denoiser = copy.deepcopy(plain)
    net.denoiser.compile()
    yield
    net.denoiser = plain


@torch.no_grad()
def numbers(net: UQDM, latents: list[Tensor], seed: int) -> list[list[Tensor]]:
    """What is rounded in each stage, given the latents: [stage][kind]."""
    out = []
    for stage, z in enumerate(latents):
        p = net.predict(z, net.noise_schedule.step(stage))
        prior, watch = net.latent_priors[stage], Watch()
        prior.build_indexes(p.scales[0], watch)
        prior.locate(p.means[0], dither(seed, stage, z.shape[1:]), watch)
        out.append(watch.seen)
    return out


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", choices=[m for m in image_models if m.startswith("uqdm")])
    parser.add_argument("images", type=Path, help=".npy of [n, H, W, 3]")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    images = [
        torch.tensor(a).permute(2, 0, 1)[None].float() / 255 for a in np.load(args.images)
    ]
    results = {}
    for arithmetic in ("float32", "float64"):
        net = image_models[args.model](1, pretrained=True)
        net = net.to(getattr(torch, arithmetic))
        net.quality = net.n_stages
        encoded, latents, before = [], [], []
        for seed, x in enumerate(images):
            strings = [s[0] for s in net.compress(x, seed)["strings"]]
            decoder = Decoder.of(strings, net.guarded, x.shape, seed)
            with torch.no_grad():
                decoded = net.iter_stages(decoder, net.n_stages)
                z = [net.first_latent(x.shape, seed).z, *(latent.z for latent in decoded)]
            z = z[: net.latent_stages]
            encoded.append(strings)
            latents.append(z)
            before.append(numbers(net, z, seed))
        result: dict = {"bytes": sum(len(s) for strings in encoded for s in strings)}
        largest = dict.fromkeys(KINDS, 0.0)
        for name, setting in SETTINGS.items():
            with setting(net):
                failed = 0
                difference = dict.fromkeys(KINDS, 0.0)
                for seed, x in enumerate(images):
                    try:
                        out = net.decompress(
                            [[s] for s in encoded[seed]], x.shape[2:], seed=seed
                        )
                        assert bool((out["x_hat"] == x).all())
                    except DamagedStringError:
                        failed += 1
                    now = numbers(net, latents[seed], seed)
                    for a, b in zip(now, before[seed]):
                        for kind, a_k, b_k in zip(KINDS, a, b):
                            difference[kind] = max(
                                difference[kind], float((a_k - b_k).abs().max())
                            )
            for kind in KINDS:
                largest[kind] = max(largest[kind], difference[kind])
            result[name] = {"pictures that failed": failed, **difference}
            print(arithmetic, name, result[name], flush=True)
        bits = 0.0
        for kind in KINDS:
            k = KINDS.index(kind)
            x = torch.cat([stage[k] for image in before for stage in image])
            middle = 0.5 - (x - x.round()).abs()
            f = float((middle < 10 * largest[kind]).double().mean())
            bits += 1.44 * f * len(x)
            result[f"numbers within ten times the noise, {kind}"] = f
            listed = float((middle < MARGIN).double().sum())
            result[f"numbers listed, {kind}"] = listed
        result["cost of a guard by offsets"] = bits / 8 / result["bytes"]
        print(arithmetic, {k: v for k, v in result.items() if not isinstance(v, dict)})
        results[arithmetic] = result
    if args.json:
        data = {"model": args.model, "images": args.images.name, "count": len(images)}
        args.json.write_text(json.dumps({**data, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
