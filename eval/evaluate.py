"""Rate-distortion curves of models of the zoo, for all three reconstructions.

    python eval/evaluate.py kodak/ uqdm-tiny uqdm-tiny-ctx --output eval/results/kodak
    accelerate launch --multi_gpu --num_processes 8 eval/evaluate.py val.npz uqdm-big ...

Every image is encoded once; its stream is decoded stage by stage, and every stage is made
an image in every way that the model has (denoise, ancestral, flow_based). One JSON file is
written per model and way. The last stage must give the image itself. The seed is the
image's place, so results do not depend on the number of processes; a run that was stopped
goes on.

Models of the same weights have the same latents, with a context prior and without, so
the network runs once for each and its outputs are kept until the image is done. Times are
as if it had run anew.
"""

import argparse
import functools
import hashlib
import time

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from curves import MS_SSIM_SIDE, curve, distortion, table
from images import ImageSet, InputError
from runs import (
    check_same_run,
    finish_run,
    join_processes,
    run_images,
    run_program,
    save_picture,
    write_json,
)
from torch import Tensor

from compressai_uqdm.families.uqdm.denoiser import Denoiser
from compressai_uqdm.families.uqdm.diffusion_model import DiffusionModel
from compressai_uqdm.levels import image_to_levels
from compressai_uqdm.models.arguments import Reconstruction
from compressai_uqdm.models.base import ProgressiveModel
from compressai_uqdm.models.checkpoint import Weights
from compressai_uqdm.models.coding import Decoder, Encoder
from compressai_uqdm.progress import Progress
from compressai_uqdm.zoo import RECIPES, contexts_hint, load_model

METHODS: tuple[Reconstruction, ...] = get_args(Reconstruction)
Net = ProgressiveModel[Any]


class Clock:
    """Tells the time, and how much of it passes of a network took: here, unknown."""

    def now(self) -> tuple[float, float]:
        """The time, and the part of it spent in passes."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter(), 0.0

    def forget(self) -> None:
        """The next image begins."""


class Network(Denoiser, Clock):
    """The network that models of the same weights share, and a clock.

    The clock runs as if every pass were computed where it is asked for.
    """

    def __init__(self, net: DiffusionModel):
        super().__init__()
        self.inner, self.config = net.denoiser, net.config
        self._passes: list[tuple[Tensor, tuple[Tensor, Tensor], float]] = []
        self._credit = 0.0
        self.seconds = 0.0
        """Spent in passes so far."""

    def fits(self, net: DiffusionModel) -> bool:
        state, same = net.denoiser.state_dict(), ("network", "n_timesteps")
        return all(
            getattr(self.config, name) == getattr(net.config, name) for name in same
        ) and all(
            torch.equal(state[name], weight)
            for name, weight in self.inner.state_dict().items()
        )

    def forward(
        self, z: Tensor, gamma: Tensor, progress: Progress | None = None
    ) -> tuple[Tensor, Tensor]:
        for known, outputs, seconds in self._passes:
            if torch.equal(known, z):
                self._credit += seconds
                self.seconds += seconds
                return outputs
        start = self.now()[0]
        outputs = self.inner(z, gamma, progress)
        seconds = self.now()[0] - start
        self.seconds += seconds
        self._passes.append((z, outputs, seconds))
        return outputs

    def now(self) -> tuple[float, float]:
        return super().now()[0] + self._credit, self.seconds

    def forget(self) -> None:
        """Drop the passes, where the next image begins."""
        self._passes.clear()


Times = list[tuple[float, float]]
"""Seconds of all work, and of network passes in it, up to each stage."""


def since(start: tuple[float, float], ends: Sequence[tuple[float, float]]) -> Times:
    return [(end[0] - start[0], end[1] - start[1]) for end in ends]


def encode(
    net: Net, network: Clock, x: Tensor, seed: int
) -> tuple[list[bytes], Sequence[int], Times]:
    """The strings of an image, and the times up to the end of each."""
    start = network.now()
    encoder = Encoder(image_to_levels(x), seed, net.guarded)
    ends = [network.now() for _ in net.iter_stages(encoder, net.n_stages)]
    return encoder.strings(), x.shape, since(start, ends)


Compare = Callable[[Reconstruction, int, np.ndarray], Mapping[str, float]]
"""Maps method, stage and decoded image to distortions."""


@torch.no_grad()
def code(
    net: Net, network: Clock, image: np.ndarray, seed: int, compare: Compare
) -> dict[str, Any]:
    """Code one image for real.

    Args:
        net: the model.
        network: its network, or a clock.
        image: uint8, ``[H, W, 3]``.
        seed: seed of the dither.
        compare: what to do with each picture.

    Returns:
        up to each stage, ``bits``, their ``estimate``, and the times to ``encode``; by
        method, ``distortions``, and the times to ``decode``.

    Raises:
        RuntimeError: the stream did not give the image itself.
    """
    x = as_tensor(image, net)
    strings, shape, encoding = encode(net, network, x, seed)
    distortions: dict[str, list[Mapping[str, float]]] = {m: [] for m in net.reconstructions}
    decoding: dict[str, list[list[float]]] = {m: [] for m in net.reconstructions}
    spent, start = np.zeros(2), network.now()
    # decompress() gives one method at a time; this decodes once for all three
    decoder = Decoder.of(strings, net.guarded, shape, seed)
    for latent in net.iter_stages(decoder, net.n_stages):
        spent += np.subtract(network.now(), start)
        for method in net.reconstructions:
            fresh = replace(latent)  # without what is known of it, to take its time
            start = network.now()
            levels = net.reconstruct(fresh, method, seed)
            decoding[method].append((spent + np.subtract(network.now(), start)).tolist())
            decoded = levels[0].permute(1, 2, 0).cpu().numpy()
            distortions[method].append(compare(method, latent.stages, decoded))
        start = network.now()
    if not np.array_equal(decoded, image):
        raise RuntimeError("the whole stream did not decode to the image itself")
    return {
        "bits": (8 * np.cumsum([len(s) for s in strings])).tolist(),
        "estimate": cumulative_bits(net.estimate(x, seed)),
        "distortions": distortions,
        "encode": encoding,
        "decode": decoding,
    }


@torch.no_grad()
def estimate(net: Net, image: np.ndarray, seed: int, compare: Compare) -> dict[str, Any]:
    """``estimate`` and ``distortions`` as of :func:`code`, without coding."""
    x = as_tensor(image, net)
    distortions: dict[str, list[Mapping[str, float]]] = {}
    for method in net.reconstructions:
        out = net.estimate(x, seed, method, progressive=True)
        pictures = [(255 * y[0]).round().to(torch.uint8) for y in out["x_hats"]]
        distortions[method] = [
            compare(method, stage, picture.permute(1, 2, 0).cpu().numpy())
            for stage, picture in enumerate(pictures, 1)
        ]
    return {"estimate": cumulative_bits(out), "distortions": distortions}


def as_tensor(image: np.ndarray, net: Net) -> Tensor:
    device = next(net.parameters()).device
    return torch.tensor(image, device=device).permute(2, 0, 1)[None].float() / 255


def cumulative_bits(out: Mapping[str, Any]) -> list[float]:
    """Bits of one image up to each stage."""
    likelihoods = out["likelihoods"].values()
    return np.cumsum([float(-p.double().log2().sum()) for p in likelihoods]).tolist()


def weights_digest(net: Net) -> str:
    total = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        total.update(name.encode())
        total.update(value.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def result_file(folder: Path, model: str, method: str) -> Path:
    return folder / f"{model}-{method}.json"


def summarize(
    images: ImageSet, records: Sequence[Mapping[str, Any]], model: str, method: str
) -> dict[str, Any]:
    """The curve of one model and method from what is known of each image."""
    own = [record["models"][model] for record in records]
    real = "bits" in own[0]
    bits = np.array([r["bits" if real else "estimate"] for r in own], dtype=np.float64)
    estimate = np.array([r["estimate"] for r in own])
    pixels = [record["pixels"] for record in records]
    distortions = [r["distortions"][method][:-1] for r in own]
    n = bits.shape[1] - 1
    quality = range(1, n + 1)
    out = curve(
        images.names, pixels, quality, bits[:, :n], distortions, bits[:, n], not real
    )
    if real:
        bpp = estimate / np.array(pixels)[:, None]
        out["results"]["bpp-estimate"] = bpp.mean(0)[:n].tolist()
        out["lossless_bpp_estimate"] = float(bpp.mean(0)[n])
        encoding = np.mean([r["encode"] for r in own], 0)
        decoding = np.mean([r["decode"][method] for r in own], 0)
        out["results"]["encoding_time"] = encoding[:n, 0].tolist()
        out["results"]["decoding_time"] = decoding[:n, 0].tolist()
        out["lossless_encoding_time"], out["lossless_decoding_time"] = (
            float(encoding[n, 0]),
            float(decoding[n, 0]),
        )
        out["times"] = {
            f"{side} {part}": values
            for side, t in (("encode", encoding), ("decode", decoding))
            for part, values in (
                ("network", t[:, 1].tolist()),
                ("coding", (t[:, 0] - t[:, 1]).tolist()),
            )
        }
    return out


def load(model: str, weights: Weights) -> tuple[str, Net]:
    """The name and the network of ``name`` or ``name=checkpoint``, all stages.

    Raises:
        InputError: it is none of the zoo's, or has no weights, or others.
    """
    name, _, checkpoint = model.partition("=")
    if name not in RECIPES:
        names = ", ".join(RECIPES)
        raise InputError(
            f"no model {name!r} in the zoo, which has {names}{contexts_hint(name)}"
        )
    try:
        cls = RECIPES[name].cls
        # those of a diffusion may be an average over training
        options = {"weights": weights} if issubclass(cls, DiffusionModel) else {}
        if checkpoint:
            net = cls.from_checkpoint(checkpoint, **options)
        else:
            net = load_model(name, 1, pretrained=True, **options)
    except (ValueError, FileNotFoundError) as error:
        raise InputError(f"{model}: {error}") from error
    net.quality = net.n_stages
    return name, net


def evaluate_image(
    nets: Mapping[str, Net],
    networks: Mapping[str, Clock],
    image: np.ndarray,
    seed: int,
    real: bool,
    compare: Callable[[str, Reconstruction, int, np.ndarray], Mapping[str, float]],
) -> dict[str, Any]:
    """What all models make of one image; ``compare`` is told the model too."""
    out: dict[str, Any] = {"pixels": image.shape[0] * image.shape[1], "models": {}}
    for network in networks.values():
        network.forget()
    for model, net in nets.items():
        of_model = functools.partial(compare, model)
        if real:
            out["models"][model] = code(net, networks[model], image, seed, of_model)
        else:
            out["models"][model] = estimate(net, image, seed, of_model)
    return out


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("images", type=Path, help="folder, or .npy or .npz of images")
    parser.add_argument(
        "models", nargs="+", metavar="model", help="name in the zoo, or name=checkpoint"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of result files")
    parser.add_argument("--bits", choices=["real", "estimated"], default="real")
    parser.add_argument("--weights", choices=get_args(Weights), default="ema")
    parser.add_argument("--first", type=int, help="take only that many images")
    parser.add_argument("--pictures", type=Path, help="folder for the decoded images")
    args = parser.parse_args(argv)

    state = join_processes()
    images = ImageSet(args.images, args.first)
    real = args.bits == "real"
    nets: dict[str, Net] = {}
    networks: dict[str, Clock] = {}
    runs: dict[str, dict[str, Any]] = {}
    for named in args.models:
        model, net = load(named, args.weights)
        if real and not net.arithmetics:
            raise InputError(f"{model} cannot code, only estimate: use --bits estimated")
        net = net.to(state.device)
        run = {
            "model": model,
            "weights": weights_digest(net),
            "images": images.digest,
            "bits": args.bits,
            "device": state.device.type,
            "pictures": args.pictures is not None,
        }
        files = [result_file(args.output, model, method) for method in net.reconstructions]
        if all([check_same_run(file, run) for file in files]):
            state.print(f"{model}: the results of this run are in {args.output}")
            continue
        networks[model] = Clock()
        if isinstance(net, DiffusionModel):
            shared = [
                n for n in networks.values() if isinstance(n, Network) and n.fits(net)
            ]
            net.denoiser = networks[model] = shared[0] if shared else Network(net)
        nets[model], runs[model] = net, run
    if not nets:
        return
    with_ms_ssim = images.smallest_side >= MS_SSIM_SIDE

    def evaluate(i: int) -> dict[str, Any]:
        image, name = images[i], images.names[i]
        known: dict[tuple[str, int], tuple[np.ndarray, dict[str, float]]] = {}

        def compare(
            model: str, method: Reconstruction, stage: int, decoded: np.ndarray
        ) -> dict[str, float]:
            if args.pictures and stage < nets[model].n_stages:
                folder = args.pictures / f"{model}-{method}" / str(stage)
                save_picture(decoded, folder, name)
            # models of the same weights make the same pictures
            picture, found = known.get((method, stage), (None, {}))
            if picture is None or not np.array_equal(picture, decoded):
                found = distortion(image, decoded, with_ms_ssim)
                known[method, stage] = decoded, found
            return found

        try:
            return evaluate_image(nets, networks, image, i, real, compare)
        except (RuntimeError, ValueError) as error:
            raise RuntimeError(f"image {name}: {error}") from error

    waiting = args.output / "unfinished" / "+".join(nets)
    records = run_images(images, waiting, runs, evaluate, state)
    if records is None:
        return
    command = f"eval/evaluate.py {images.path.name} {' '.join(nets)}"
    for model in nets:
        for method in nets[model].reconstructions:
            result = {
                "name": f"{model} ({method})",
                "description": f"{'real streams' if real else 'estimated bits'}, "
                f"{args.weights} weights; python {command}",
                "images": images.describe(),
                "run": runs[model],
                **summarize(images, records, model, method),
            }
            result.setdefault("times", {}).update(processes=state.num_processes)
            write_json(result_file(args.output, model, method), result)
            print(table(result), flush=True)
    finish_run(waiting)


if __name__ == "__main__":
    run_program(main)
