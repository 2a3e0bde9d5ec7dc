"""All that is to be shown on a GPU, in one call of at most ten minutes, in one JSON file.

    python eval/on_cuda.py eval/results/cuda.json
    python eval/on_cuda.py try.json --device cpu --tiny --budget 300  # to try it

Parts, each in a process of its own, so that one that fails or takes too long leaves the
others alone:

- ``devices``: streams coded on one device and decoded on the other, both ways, and how far
  the numbers that are rounded lie apart (float64 and integers must decode);
- ``bits``: real strings beside their estimates;
- ``rates``: passes of the published networks (random weights), in images per second and as
  a share of the rate of matrix products measured here; compiled, for the smallest;
- ``models``: what comes with the package, estimated in batches and coded; peak memory;
- ``picture``: one of 768x512, by windows in a batch;
- ``imagenet64``: ``eval/evaluate.py``, extrapolated to 50,000 images;
- ``training``: the trainer's step beside a bare one, in single precision and in bf16;
- ``programs``: CompressAI's eval_model, update_model and train.py;
- ``tests``: those marked ``cuda``.

With ``--tiny``, networks and pictures are small, and the figures mean nothing.
"""

import argparse
import copy
import functools
import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch

from benchmark import tiled
from PIL import Image
from portability import KINDS, numbers
from runs import write_json
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from compressai_uqdm import UQDM, DamagedStringError, UQDMConfig
from compressai_uqdm.codec.coders import Encoder
from compressai_uqdm.denoisers import windowed
from compressai_uqdm.denoisers.base import Denoiser
from compressai_uqdm.denoisers.vdm_unet import UNetConfig
from compressai_uqdm.diffusion import image_to_levels
from compressai_uqdm.models.config import PUBLISHED
from compressai_uqdm.zoo import RECIPES

HERE = Path(__file__).parent
PHOTOGRAPH = HERE.parent / "tests/data/photograph.png"
PACKAGED = [name for name, recipe in RECIPES.items() if isinstance(recipe.weights, Path)]
BATCHES = (1, 4, 16, 64)
ALL_OF_IMAGENET = 50_000


class Bench:
    """What a part measures with, and where it notes what it found.

    Args:
        file: the part's JSON file, written with every note: a part may be ended.
        device: where to run.
        tiny: whether only the script is tried.
    """

    def __init__(self, file: Path, device: torch.device, tiny: bool):
        self.file, self.device, self.tiny = file, device, tiny
        self.notes: dict[str, Any] = {}

    def note(self, name: str, measure: Callable[..., Any], *arguments: Any) -> Any:
        """Note what a measurement gives, or how it failed; None then."""
        found = None
        try:
            found = measure(*arguments)
            write_json(self.file, self.notes | {name: found})
            self.notes[name] = found
        except Exception as error:  # the others may still succeed
            self.notes[name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
            write_json(self.file, self.notes)
        torch.cuda.empty_cache()
        return found

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any]) -> float:
        """Of the fastest of some rounds, after one to warm up."""
        work()
        self.wait()
        times: list[float] = []
        while len(times) < 3 or (sum(times) < 0.5 and len(times) < 50):
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
            if self.tiny or sum(times) > 3:
                break
        return min(times)

    def measured(self, work: Callable[[], Any], images: int) -> dict[str, float]:
        """Images per second, and the peak of the memory on a GPU."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found = {"images per second": images / self.seconds(work)}
        if self.device.type == "cuda":
            found["peak memory GiB"] = torch.cuda.max_memory_allocated() / 2**30
        return found


def crops(size: tuple[int, int], count: int) -> list[Tensor]:
    """Parts of the packaged photograph, each ``[1, 3, height, width]``."""
    width, height = size
    image = np.asarray(Image.open(PHOTOGRAPH).convert("RGB"))
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        y, x = (rng.integers(a - b + 1) for a, b in zip(image.shape, (height, width)))
        part = torch.tensor(image[y : y + height, x : x + width])
        found.append(part.permute(2, 0, 1)[None].float() / 255)
    return found


def batch_of(count: int, side: int = 64) -> Tensor:
    return torch.cat(crops((side, side), count))


# ---- parts ----


def latents_of(net: UQDM, x: Tensor, seed: int) -> list[Tensor]:
    encoder = Encoder(image_to_levels(x), seed, net.portable)
    known = net.walk(encoder, net.latent_stages)
    z = [net.first_latent(x.shape, seed).z, *(latent.z for latent in known)]
    return z[: net.latent_stages]


@torch.no_grad()
def devices(bench: Bench) -> None:
    images = crops((30, 20) if bench.tiny else (128, 112), 1 if bench.tiny else 4)
    for name in PACKAGED:
        for arithmetic in RECIPES[name].cls.arithmetics:
            bench.note(f"{name} {arithmetic}", between, bench, images, name, arithmetic)


def loaded(name: str, arithmetic: str) -> Any:
    """A model in that arithmetic."""
    net = RECIPES[name].load()
    return net if arithmetic == "integer" else net.to(getattr(torch, arithmetic))


def between(bench: Bench, images: list[Tensor], name: str, arithmetic: str) -> Any:
    """What becomes of streams between the device and the CPU."""
    here = loaded(name, arithmetic)
    there = copy.deepcopy(here).to(bench.device)
    ways = {"to the CPU": (there, here), "from the CPU": (here, there)}
    failures, apart, same = dict.fromkeys(ways, 0), dict.fromkeys(KINDS, 0.0), 0
    for seed, x in enumerate(images):
        coded = []
        for way, (encoder, decoder) in ways.items():
            out = encoder.compress(x.to(encoder.device), seed)
            coded.append(out["strings"])
            try:
                x_hat = decoder.decompress(**out, seed=seed)["x_hat"]
                failures[way] += not torch.equal(x_hat.cpu(), x)
            except DamagedStringError:
                failures[way] += 1
        same += coded[0] == coded[1]
        if isinstance(here, UQDM):
            z = latents_of(here, x, seed)
            z_there = [latent.to(bench.device) for latent in z]
            for stages in zip(numbers(here, z, seed), numbers(there, z_there, seed)):
                for kind, a, b in zip(KINDS, *stages):
                    apart[kind] = max(apart[kind], float((a - b.cpu()).abs().max()))
    return {
        "pictures": len(images),
        "failures": failures,
        "the same strings": same,
        "largest difference": apart if isinstance(here, UQDM) else 0.0,
    }


@torch.no_grad()
def bits(bench: Bench) -> None:
    x = crops((30, 20) if bench.tiny else (192, 128), 1)[0].to(bench.device)
    for name in PACKAGED:
        bench.note(name, bits_of, RECIPES[name].load().to(bench.device), x)


def bits_of(net: Any, x: Tensor) -> Any:
    real = [8 * len(stage[0]) for stage in net.compress(x)["strings"]]
    likelihoods = net(x)["likelihoods"].values()
    estimated = [float(-p.double().log2().sum()) for p in likelihoods]
    return {
        "real bits by stage": real,
        "estimated bits by stage": estimated,
        "ratio by stage": [a / b for a, b in zip(real, estimated)],
        "ratio": sum(real) / sum(estimated),
    }


PRECISIONS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
}


def use(precision: str) -> torch.dtype:
    """Have products computed so; gives the type of their factors."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return PRECISIONS[precision]


def narrow(config: UQDMConfig) -> UQDMConfig:
    network = cast(UNetConfig, config.network)
    blocks = min(network.n_blocks, 2)
    return replace(
        config, network=replace(network, embedding_dim=8, norm_groups=2, n_blocks=blocks)
    )


def pass_flops(config: UQDMConfig) -> float:
    """Of a pass of the network over an image of 64x64, in 10^12."""
    net = config.network.build(config).to("meta")
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 3, 64, 64, device="meta"), torch.empty((), device="meta"))
    return counter.get_total_flops() / 1e12


def product_rate(bench: Bench, precision: str) -> float:
    side = 256 if bench.tiny else 8192
    factor = torch.ones(side, side, dtype=use(precision), device=bench.device)
    return 2 * side**3 / bench.seconds(lambda: factor @ factor) / 1e12


def pass_rate(
    bench: Bench, net: Denoiser, batch: int, teraflops: float | None, most: float | None
) -> dict[str, float]:
    """Of passes of a network, and their share of the most that there could be."""
    z = torch.randn(batch, 3, 64, 64, device=bench.device)
    gamma = torch.zeros((), dtype=torch.float64, device=bench.device)
    found = bench.measured(lambda: net(z, gamma), batch)
    if teraflops and most:
        share = found["images per second"] * teraflops / most
        found["share of matrix products"] = share
    return found


@torch.no_grad()
def rates(bench: Bench) -> None:
    products = {
        precision: bench.note(
            f"matrix products, {precision}, TFLOP/s", product_rate, bench, precision
        )
        for precision in PRECISIONS
    }
    configs = {k: narrow(v) if bench.tiny else v for k, v in PUBLISHED.items()}
    batches = (1,) if bench.tiny else BATCHES
    for name, config in configs.items():
        flops = bench.note(f"{name}, TFLOP of a pass", pass_flops, config)
        net = config.network.build(config).eval().to(bench.device)
        for precision in ("tf32", "bfloat16", "float32", "float64"):
            if precision == "float64" and name != "uqdm-tiny":
                continue  # of files, whose models are of this size
            net = net.to(use(precision))
            for batch in batches:
                title = f"{name} {precision} batch {batch}"
                bench.note(title, pass_rate, bench, net, batch, flops, products[precision])
    config, precision = configs["uqdm-tiny"], "tf32"
    flops = bench.notes["uqdm-tiny, TFLOP of a pass"]
    for batch in sorted({batches[0], batches[-1]}):
        net = config.network.build(config).eval().to(bench.device, use(precision))
        net.compile(mode="reduce-overhead")  # with CUDA's graphs
        title = f"uqdm-tiny {precision} batch {batch}, compiled"
        bench.note(title, pass_rate, bench, net, batch, flops, products[precision])


@torch.no_grad()
def models(bench: Bench) -> None:
    use("float32")
    side = 16 if bench.tiny else 64
    for name in PACKAGED:
        net = RECIPES[name].load().to(bench.device)
        for batch in (1, 2) if bench.tiny else BATCHES:
            x = batch_of(batch, side).to(bench.device)
            work = functools.partial(net.estimate, x)
            bench.note(f"{name}, estimated, batch {batch}", bench.measured, work, batch)
        for arithmetic in RECIPES[name].cls.arithmetics:
            net, x = loaded(name, arithmetic).to(bench.device), x[:1]
            title = f"{name} {arithmetic}"
            work = functools.partial(net.compress, x)
            bench.note(f"{title}, encoded", bench.measured, work, 1)
            work = functools.partial(net.decompress, **net.compress(x))
            bench.note(f"{title}, decoded", bench.measured, work, 1)


@torch.no_grad()
def picture(bench: Bench) -> None:
    size = (66, 20) if bench.tiny else (768, 512)
    x = tiled(np.asarray(Image.open(PHOTOGRAPH).convert("RGB")), *size).to(bench.device)
    for name in PACKAGED:
        for arithmetic in RECIPES[name].cls.arithmetics:
            for windows in (windowed.BATCH["cuda"], 128):
                title = f"{name} {arithmetic}, {windows} windows at a time"
                net = loaded(name, arithmetic).to(bench.device)
                bench.note(title, code_picture, bench, net, x, windows)
                if not isinstance(net, UQDM):
                    break  # it has none


def code_picture(bench: Bench, net: Any, x: Tensor, windows: int) -> dict[str, Any]:
    with patch.dict(windowed.BATCH, cuda=windows):
        net.compress(x[:, :, :64, :64])  # to warm up
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times = [time.perf_counter()]
        out = net.compress(x)
        times.append(time.perf_counter())
        x_hat = net.decompress(**out)["x_hat"].cpu()
        times.append(time.perf_counter())
    found: dict[str, Any] = {"exact": torch.equal(x_hat, x.cpu())}
    found["encode seconds"], found["decode seconds"] = np.diff(times).tolist()
    if bench.device.type == "cuda":
        found["peak memory GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def run(arguments: Sequence[object], folder: Path | str = ".", **environment: str) -> str:
    """What a program prints.

    Raises:
        RuntimeError: it failed.
    """
    paths = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr[-1500:]}")
    return done.stdout


def imagenet64(bench: Bench) -> None:
    count = 3 if bench.tiny else 33
    with tempfile.TemporaryDirectory() as folder:
        images = batch_of(count) * 255
        rows = images.round().to(torch.uint8).flatten(1).numpy()
        np.savez(Path(folder) / "val_data.npz", data=rows)

        def seconds(model: str, kind: str, first: int) -> float:
            options = ["--bits", kind, "--first", first]
            output = Path(folder) / f"{model} {kind} {first}"
            file = Path(folder) / "val_data.npz"
            start = time.perf_counter()
            run([HERE / "evaluate.py", file, model, *options, "--output", output])
            return time.perf_counter() - start

        def measure(model: str, kind: str) -> Any:
            once = seconds(model, kind, 1)  # mostly starting
            each = (seconds(model, kind, count) - once) / (count - 1)
            hours = ALL_OF_IMAGENET * each / 3600
            return {"seconds per image": each, f"hours for {ALL_OF_IMAGENET}": hours}

        for model in ("uqdm-nano",) if bench.tiny else ("uqdm-nano", "uqdm-nano-ctx"):
            for kind in ("estimated", "real"):
                bench.note(f"{model} {kind}", measure, model, kind)


def training(bench: Bench) -> None:
    steps, images = (4, 400) if bench.tiny else (30, 20_000)
    for precision in ("no", "bf16"):
        for batch in (1,) if bench.tiny else (16, 64):
            options = ["--batch-size", batch, "--steps", steps, "--images", images]
            options += ["--mixed-precision", precision]
            bench.note(f"mixed precision {precision}, batch {batch}", steps_of, options)


def steps_of(options: Sequence[object]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "training.json"
        run([HERE / "benchmark_training.py", *options, "--json", file])
        return json.loads(file.read_text())


def fetch_examples(folder: Path) -> Path:
    """CompressAI's ``examples``, which only its source distribution holds."""
    if known := os.environ.get("COMPRESSAI_EXAMPLES"):
        return Path(known)
    version = importlib.metadata.version("compressai")
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
    run(["-m", "pip", "download", *options, f"compressai=={version}"], folder)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (found,) = folder.glob("compressai-*/examples")
    return found


def all_stages(name: str) -> int:
    recipe = RECIPES[name]
    return recipe.cls(recipe.config).n_stages


def programs(bench: Bench) -> None:
    cuda = ["--cuda"] if bench.device.type == "cuda" else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split in ("images", "data/train", "data/test"):
            (folder / split).mkdir(parents=True)
        photograph = Image.open(PHOTOGRAPH).convert("RGB")
        photograph.crop((64, 32, 256, 224)).save(folder / "images/a.png")
        for i in range(4):
            patch = photograph.crop((64 * i, 64, 64 * i + 64, 128))
            patch.save(folder / f"data/train/{i}.png")
            patch.save(folder / f"data/test/{i}.png")

        def evaluate(source: str, model: str, *options: object) -> Any:
            program = ["-m", "compressai.utils.eval_model", source, "images", "-a", model]
            output = run([*program, *options, *cuda], folder)
            # JSON has no infinite numbers, as the PSNR of what is exact
            return json.loads(output, parse_constant=str)["results"]

        for model in ["uqdm-photo"] if bench.tiny else PACKAGED:
            for options in ((), ("--entropy-estimation",), ("--half",)):
                title = " ".join(["eval_model", model, *options, *cuda])
                given = ("-q", f"1,{all_stages(model)}", *options)
                bench.note(title, evaluate, "pretrained", model, *given)

        def train() -> Any:
            examples = fetch_examples(folder)
            command: list[object] = [examples / "train.py", "-m", "uqdm-tiny", "-d", "data"]
            command += ["--lambda", 0, "--patch-size", 64, 64, "--learning-rate", 2e-3]
            command += ["--batch-size", 2, "--test-batch-size", 2, "-n", 0, "--seed", 1]
            output = run([*command, "--epochs", 1, "--save", *cuda], folder)
            return [line for line in output.splitlines() if "epoch" in line][-2:]

        def update() -> str:
            program = ["-m", "compressai.utils.update_model", "checkpoint.pth.tar"]
            return run([*program, "-a", "uqdm-tiny", "-d", "updated", "-n", "a"], folder)

        def after() -> Any:
            (file,) = (folder / "updated").glob("a-*.pth.tar")
            files = ["-p", "checkpoint.pth.tar", file]
            return evaluate("checkpoint", "uqdm-tiny", *files)

        bench.note(" ".join(["train.py", *cuda]), train)
        bench.note("update_model", update)
        bench.note(" ".join(["eval_model of what was trained", *cuda]), after)


def tests(bench: Bench) -> None:
    def measure() -> Any:
        options = ["-q", "-m", "cuda", "-p", "no:cacheprovider", HERE.parent / "tests"]
        output = run(["-m", "pytest", *options], HERE.parent)
        return output.splitlines()[-8:]

    bench.note("marked cuda", measure)


PARTS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "devices": (devices, 80),
    "bits": (bits, 30),
    "rates": (rates, 130),
    "models": (models, 60),
    "picture": (picture, 60),
    "programs": (programs, 100),
    "training": (training, 90),
    "imagenet64": (imagenet64, 90),
    "tests": (tests, 120),
}
"""Each with the seconds that it may take at most, of a budget of 570."""

BUDGET = 570.0


def describe(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    return {
        "device": name,
        "torch": torch.__version__,
        "CUDA": torch.version.cuda if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
    }


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("output", type=Path, help="JSON file to write")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds in all")
    parser.add_argument("--tiny", action="store_true", help="only to try out the script")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.inside:
        (part,) = args.parts
        PARTS[part][0](Bench(args.output, args.device, args.tiny))
        return
    if args.device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no GPU here: --device cpu --tiny tries out the script")
    end = time.monotonic() + args.budget
    result: dict[str, Any] = {**describe(args.device), "tiny": args.tiny, "parts": {}}
    with tempfile.TemporaryDirectory() as folder:
        for part in args.parts:
            file, start = Path(folder) / f"{part}.json", time.monotonic()
            limit = min(PARTS[part][1] * max(1.0, args.budget / BUDGET), end - start)
            found: dict[str, Any] = {}
            command = [sys.executable, __file__, str(file), "--inside", "--parts", part]
            command += ["--device", str(args.device)] + ["--tiny"] * args.tiny
            if limit < 1:
                found["error"] = "left out: the time was up"
            else:
                found |= run_part(command, limit)
            found["seconds"] = time.monotonic() - start
            found["found"] = json.loads(file.read_text()) if file.exists() else {}
            result["parts"][part] = found
            write_json(args.output, result)
            print(part, found.get("error", "done"), f"{found['seconds']:.0f} s", flush=True)


def run_part(command: list[str], limit: float) -> dict[str, str]:
    """Run a part; nothing, or how it ended."""
    # in a session of its own: what it started ends with it
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        return {"error": f"ended after {limit:.0f} s; what it found until then is here"}
    if process.returncode:
        text = output.decode(errors="replace")[-1500:]
        return {"error": f"exit status {process.returncode}: {text}"}
    return {}


if __name__ == "__main__":
    main(sys.argv[1:])
