"""All that is to be shown on a GPU, in one call of at most ten minutes, in one JSON file.

    pip install ".[eval,test,train]"
    python eval/on_cuda.py eval/results/cuda.json
    python eval/on_cuda.py try.json --device cpu --tiny --budget 900  # to try it

Each part runs in a process of its own, so that one that fails or takes too long leaves the
others alone, and what it found until then is kept. First, all at once, what is right or
wrong:

- ``devices``: streams coded on one device and decoded on the other, both ways, and how far
  the numbers that are rounded lie apart (float64 and integers must decode);
- ``bits``: real strings beside their estimates;
- ``programs``: CompressAI's eval_model, update_model and train.py. Only its source
  distribution has the last: without a network, ``COMPRESSAI_EXAMPLES`` names the folder;
- ``tests``: those marked ``cuda``.

Then, one after another, what is measured:

- ``rates``: passes of the published networks (random weights), in images per second and as
  a share of the rate of matrix products measured here;
- ``models``: what comes with the package, estimated in batches and coded; peak memory;
- ``training``: the trainer's step beside a bare one, in single precision and in bf16;
- ``picture``: one of 768x512, by windows in a batch;
- ``imagenet64``: ``eval/evaluate.py``, extrapolated to 50,000 images;
- ``compiled``: ``rates`` of the smallest, by torch.compile with CUDA's graphs.

With ``--tiny``, networks and pictures are small, and the figures mean nothing.
"""

import argparse
import copy
import functools
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import evaluate
import numpy as np
import torch

from benchmark import tiled
from PIL import Image
from portability import KINDS, numbers
from runs import write_json
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from compressai_uqdm import UQDM, CosineUQDM, DamagedStringError, UQDMConfig
from compressai_uqdm.families.uqdm import windowed
from compressai_uqdm.families.uqdm.config import PUBLISHED
from compressai_uqdm.families.uqdm.denoiser import Denoiser
from compressai_uqdm.families.uqdm.unet import UNetConfig
from compressai_uqdm.levels import image_to_levels
from compressai_uqdm.models.coding import Encoder
from compressai_uqdm.zoo import RECIPES

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"
PHOTOGRAPH = TESTS / "data/photograph.png"
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
        write_json(self.file, self.notes | {name: "not finished"})
        try:
            found = measure(*arguments)
            write_json(self.file, self.notes | {name: found})
            self.notes[name] = found
        except Exception as error:  # the others may still succeed
            self.notes[name] = {"error": f"{type(error).__name__}: {error}"[:2500]}
            write_json(self.file, self.notes)
        torch.cuda.empty_cache()
        return found

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any]) -> float:
        """Of the fastest of some rounds, after one to warm up."""
        if not self.tiny:
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


@torch.no_grad()
def devices(bench: Bench) -> None:
    images = crops((30, 20) if bench.tiny else (128, 112), 1 if bench.tiny else 4)
    for name, arithmetic in arithmetics():
        bench.note(f"{name} {arithmetic}", between, bench, images, name, arithmetic)


def arithmetics() -> list[tuple[str, str]]:
    """Packaged models and what they compute in: first what every device must decode."""
    pairs = [(name, a) for name in PACKAGED for a in RECIPES[name].cls.arithmetics]
    return sorted(pairs, key=lambda pair: ("integer", "float64", "float32").index(pair[1]))


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
        differences = largest_differences(here, there, x, seed)
        apart = {kind: max(apart[kind], found) for kind, found in differences.items()}
    return {
        "pictures": len(images),
        "failures": failures,
        "the same strings": same,
        "largest difference": apart,
    }


def largest_differences(here: Any, there: Any, x: Tensor, seed: int) -> dict[str, float]:
    """Of what is rounded, in units of that; of a model of integers, of these."""
    if isinstance(here, UQDM):
        encoder = Encoder(image_to_levels(x), seed, here.guarded)
        known = here.iter_stages(encoder, here.latent_stages)
        z = [here.first_latent(x.shape, seed).z, *(latent.z for latent in known)]
        z = z[: here.latent_stages]
        z_there = [latent.to(there.device) for latent in z]
        stages = zip(numbers(here, z, seed), numbers(there, z_there, seed))
        pairs = [pair for stage in stages for pair in zip(KINDS, *stage)]
    else:
        planes = zip(integers(here, x, seed), integers(there, x.to(there.device), seed))
        pairs = [(kind, a, b) for (kind, a), (_, b) in planes]
    apart = dict.fromkeys(KINDS, 0.0)
    for kind, a, b in pairs:
        difference = float((a.double() - b.double().cpu()).abs().max())
        apart[kind] = max(apart[kind], difference)
    return apart


def integers(net: CosineUQDM, x: Tensor, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Entries of the scale table, and locations, of every stage."""
    encoder = Encoder(image_to_levels(x), seed, net.guarded)
    for latent in net.iter_stages(encoder, net.n_stages - 1):
        assert latent.posterior is not None
        yield from zip(
            KINDS, (latent.posterior.scale_index, latent.posterior.location_offset)
        )


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
    factor = torch.randn(side, side, device=bench.device).to(use(precision))
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


def fresh(config: UQDMConfig, bench: Bench, precision: str) -> Denoiser:
    """A network of random weights."""
    with bench.device:  # where hundreds of millions of them are soon drawn
        net = config.network.build(config)
    return net.eval().to(bench.device, use(precision))


@torch.no_grad()
def rates(bench: Bench) -> None:
    products = {
        precision: bench.note(
            f"matrix products, {precision}, TFLOP/s", product_rate, bench, precision
        )
        for precision in PRECISIONS
    }
    configs = {k: narrow(v) if bench.tiny else v for k, v in PUBLISHED.items()}
    flops = {
        name: bench.note(f"{name}, TFLOP of a pass", pass_flops, config)
        for name, config in configs.items()
    }
    for precision in ("bfloat16", "tf32", "float32", "float64"):
        for name, config in configs.items():
            if precision == "float64" and name != "uqdm-tiny":
                continue  # of files, whose models are of this size
            net = fresh(config, bench, precision)
            for batch in (1,) if bench.tiny else BATCHES:
                title, most = f"{name} {precision} batch {batch}", products[precision]
                bench.note(title, pass_rate, bench, net, batch, flops[name], most)


@torch.no_grad()
def compiled(bench: Bench) -> None:
    precision = "tf32"
    most = bench.note(f"matrix products, {precision}", product_rate, bench, precision)
    config = narrow(PUBLISHED["uqdm-tiny"]) if bench.tiny else PUBLISHED["uqdm-tiny"]
    flops = pass_flops(config)
    for batch in (1,) if bench.tiny else (1, 64):
        net = fresh(config, bench, precision)
        net.compile(mode="reduce-overhead")
        title = f"uqdm-tiny {precision} batch {batch}, compiled"
        bench.note(title, pass_rate, bench, net, batch, flops, most)


@torch.no_grad()
def models(bench: Bench) -> None:
    use("float32")
    side, batches = (16, (1, 2)) if bench.tiny else (64, BATCHES)
    x = batch_of(batches[-1], side).to(bench.device)
    for name in PACKAGED:
        net = RECIPES[name].load().to(bench.device)
        for batch in batches:
            work = functools.partial(net.estimate, x[:batch])
            bench.note(f"{name}, estimated, batch {batch}", bench.measured, work, batch)
    for name, arithmetic in arithmetics():
        net, title = loaded(name, arithmetic).to(bench.device), f"{name} {arithmetic}"
        work = functools.partial(net.compress, x[:1])
        bench.note(f"{title}, encoded", bench.measured, work, 1)
        work = functools.partial(net.decompress, **net.compress(x[:1]))
        bench.note(f"{title}, decoded", bench.measured, work, 1)


@torch.no_grad()
def picture(bench: Bench) -> None:
    size = (66, 20) if bench.tiny else (768, 512)
    x = tiled(np.asarray(Image.open(PHOTOGRAPH).convert("RGB")), *size).to(bench.device)
    for windows in (128,) if bench.tiny else (windowed.BATCH["cuda"], 128):
        for name, arithmetic in arithmetics():
            net = loaded(name, arithmetic).to(bench.device)
            if isinstance(net, UQDM):
                title = f"{name} {arithmetic}, {windows} windows at a time"
                bench.note(title, code_picture, bench, net, x, windows)
            elif windows == 128:  # once: it has none
                bench.note(f"{name} {arithmetic}", code_picture, bench, net, x, windows)


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
        said = done.stdout[-700:] + done.stderr[-1200:]
        raise RuntimeError(f"exit status {done.returncode}: {said}")
    return done.stdout


def imagenet64(bench: Bench) -> None:
    count = 3 if bench.tiny else 33
    with tempfile.TemporaryDirectory() as folder:
        images = batch_of(count) * 255
        rows = images.round().to(torch.uint8).flatten(1).numpy()
        file = Path(folder) / "val_data.npz"
        np.savez(file, data=rows)

        def seconds(model: str, kind: str, first: int) -> float:
            output = Path(folder) / f"{model} {kind} {first}"
            options = ["--bits", kind, "--first", str(first), "--output", str(output)]
            start = time.perf_counter()
            evaluate.main([str(file), model, *options])
            return time.perf_counter() - start

        def measure(model: str, kind: str) -> Any:
            once = seconds(model, kind, 1)  # mostly starting
            each = (seconds(model, kind, count) - once) / (count - 1)
            hours = ALL_OF_IMAGENET * each / 3600
            return {"seconds per image": each, f"hours for {ALL_OF_IMAGENET}": hours}

        for kind in ("estimated", "real"):
            for model in PACKAGED:
                bench.note(f"{model} {kind}", measure, model, kind)


def training(bench: Bench) -> None:
    steps, images = (4, 400) if bench.tiny else (30, 4_000)
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

        def evaluate_by_name(source: str, model: str, *options: object) -> Any:
            program = ["-m", "compressai.utils.eval_model", source, "images", "-a", model]
            output = run([*program, *options, *cuda], folder)
            # JSON has no infinite numbers, as the PSNR of what is exact
            return json.loads(output, parse_constant=str)["results"]

        def evaluate_packaged(model: str, *options: str) -> None:
            title = " ".join(["eval_model", model, *options, *cuda])
            given = ("-q", f"1,{all_stages(model)}", *options)
            bench.note(title, evaluate_by_name, "pretrained", model, *given)

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
            return evaluate_by_name("checkpoint", "uqdm-tiny", *files)

        evaluate_packaged("uqdm-photo")
        bench.note(" ".join(["train.py", *cuda]), train)
        bench.note("update_model", update)
        bench.note(" ".join(["eval_model of what was trained", *cuda]), after)
        evaluate_packaged("uqdm-photo", "--entropy-estimation")
        evaluate_packaged("uqdm-photo", "--half")
        for model in PACKAGED:
            if model != "uqdm-photo" and not bench.tiny:  # the tests take uqdm-nano
                evaluate_packaged(model)


def tests(bench: Bench) -> None:
    def measure() -> Any:
        # a module that misses a library keeps none of the others
        options = ["-q", "-m", "cuda", "-rfE", "-p", "no:cacheprovider"]
        options += ["--continue-on-collection-errors"]
        try:
            output = run(["-m", "pytest", *options, TESTS], HERE.parent)
        except RuntimeError as error:
            return {"passed": False, "output": f"{error}".splitlines()[-30:]}
        return {"passed": True, "output": output.splitlines()[-8:]}

    bench.note("marked cuda", measure)


CHECKS: dict[str, Callable[[Bench], None]] = {
    "devices": devices,
    "bits": bits,
    "programs": programs,
    "tests": tests,
}
"""Parts that measure no time: they run at once."""

MEASUREMENTS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "rates": (rates, 90),
    "models": (models, 70),
    "training": (training, 70),
    "picture": (picture, 60),
    "imagenet64": (imagenet64, 50),
    "compiled": (compiled, 30),
}
"""Those that do, the most telling first, and what each may take of the seconds that are
left beside those after it: what one leaves over is theirs."""

CHECKING = 170.0
"""What the checks may take, beside the measurements."""

PARTS = [*CHECKS, *MEASUREMENTS]
BUDGET = 540.0  # of ten minutes, in which Python must start too


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
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.inside:
        (part,) = args.parts
        work = CHECKS[part] if part in CHECKS else MEASUREMENTS[part][0]
        work(Bench(args.output, args.device, args.tiny))
        return
    if args.device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no GPU here: --device cpu --tiny tries out the script")
    if missing := [name for name in NEEDED if not is_installed(name)]:
        sys.exit(f'{" and ".join(missing)} not installed: pip install ".[eval,test,train]"')
    # as Ctrl-C does: parts end with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    result: dict[str, Any] = {**describe(args.device), "tiny": args.tiny, "parts": {}}
    end = time.monotonic() + args.budget
    options = ["--device", str(args.device)] + ["--tiny"] * args.tiny
    measured = [part for part in args.parts if part in MEASUREMENTS]
    rounds = [[part for part in args.parts if part in CHECKS], *([p] for p in measured)]
    shares = [CHECKING, *(MEASUREMENTS[part][1] for part in measured)]
    for i, parts in enumerate(rounds):
        left = max(end - time.monotonic(), 0)
        seconds = left * shares[i] / sum(shares[i:])
        for part, found in run_together(parts, options, seconds):
            result["parts"][part] = found
            write_json(args.output, result)
            print(part, found.get("error", "done"), f"{found['seconds']:.0f} s", flush=True)


NEEDED = ("compressai-uqdm", "accelerate", "pytest", "tensorboard")
"""CompressAI's programs find the first by what pip notes of it."""


def is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def run_together(
    parts: Sequence[str], options: Sequence[str], seconds: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run parts at once; gives what each found when it ends, or when the time is up."""
    environment = dict(os.environ)
    if len(parts) > 1:
        environment["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // len(parts), 1))
    start, running = time.monotonic(), dict[str, subprocess.Popen[bytes]]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            for part in parts:
                command = [sys.executable, __file__, str(folder / f"{part}.json")]
                with (folder / f"{part}.log").open("wb") as log:
                    running[part] = subprocess.Popen(
                        [*command, "--inside", "--parts", part, *options],
                        stdout=log,
                        stderr=log,
                        env=environment,
                        start_new_session=True,  # what it starts ends with it
                    )
            while running:
                is_late = time.monotonic() - start > seconds
                for part, process in [*running.items()]:
                    if process.poll() is None and not is_late:
                        continue
                    found: dict[str, Any] = {}
                    if process.returncode is None:
                        found["error"] = "the time was up: what it found until then is here"
                        kill(process)
                    elif process.returncode:
                        log = (folder / f"{part}.log").read_text(errors="replace")
                        found["error"] = f"exit status {process.returncode}: {log[-1500:]}"
                    file = folder / f"{part}.json"
                    found["seconds"] = time.monotonic() - start
                    found["found"] = json.loads(file.read_text()) if file.exists() else {}
                    del running[part]
                    yield part, found
                time.sleep(0.1)
        finally:
            for process in running.values():
                kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process, and all that it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
