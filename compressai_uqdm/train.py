"""Train a UQDM on photographs or on ImageNet 64x64.

    python -m compressai_uqdm.train photographs/ runs/mine --steps 20000 --bound one
    accelerate launch -m compressai_uqdm.train imagenet64/ runs/small --model uqdm-small

Processes, machines, mixed precision and gradient accumulation are Accelerate's: see
``accelerate config``. Everything random is a function of the seed, the step and the
place in the batch, so neither the number of processes nor an interruption changes a run;
the same command again resumes it. (Two things are not: the loss scale of fp16, which
starts anew, and dropout, which depends on the number of processes.)

Into the output folder go ``checkpoint.pt``, ``metrics.jsonl`` and TensorBoard's files.
The checkpoint is what ``UQDM.from_checkpoint`` and CompressAI's ``eval_model checkpoint``
read (the average over training), and holds the published layout beside it.
"""

import argparse
import json
import logging
import math
import sys
import time

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .atomic import write_atomically
from .datasets import ImageNet64, Photographs
from .losses import BitsPerDimensionLoss
from .models import UQDM, UQDMConfig
from .models.bound import Bound
from .models.checkpoint import read_checkpoint
from .models.config import PUBLISHED
from .models.windows import WINDOW

try:
    from accelerate import Accelerator
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    raise ImportError(
        f"training needs accelerate and tensorboard ({error}): "
        'pip install "compressai-uqdm[train]"'
    ) from error

EMA_DECAY = 0.9999
CLIP_NORM = 1.0
CHECKPOINT = "checkpoint.pt"
AUX_LEARNING_RATE = 1e-3  # of the quantiles that the scale tables will span

Images = ImageNet64 | Photographs
log = logging.getLogger(__name__)


# ---- data: what each step sees ----


class Draw(NamedTuple):
    """One image of a batch."""

    image: int  # its index in the data set
    key: int  # seed of its crop and of its noise


class Draws:
    """The batches of one process, from a step on: a function of the seed alone.

    Args:
        n_images: images in the data set; each comes once per epoch.
        batch_size: images per step, over all processes.
        n_parts: parts of equal size that a batch is computed in.
        parts: those that this process computes, in order.
        steps: the steps to draw for.
        seed: of the order and of all keys.
    """

    def __init__(
        self,
        n_images: int,
        batch_size: int,
        n_parts: int,
        parts: range,
        steps: range,
        seed: int,
    ):
        self.n_images, self.batch_size, self.seed = n_images, batch_size, seed
        self.n_parts, self.parts, self.steps = n_parts, parts, steps
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.steps) * len(self.parts)

    def __iter__(self) -> Iterator[list[Draw]]:
        size = self.batch_size // self.n_parts
        for step in self.steps:
            for part in self.parts:
                first = step * self.batch_size + part * size
                yield [self._draw(place) for place in range(first, first + size)]

    def _draw(self, place: int) -> Draw:
        epoch, place_in_epoch = divmod(place, self.n_images)
        if epoch != self._epoch:
            generator = np.random.default_rng((self.seed, epoch))
            self._epoch, self._order = epoch, generator.permutation(self.n_images)
        return Draw(int(self._order[place_in_epoch]), _key(self.seed, place))


def _key(seed: int, place: int) -> int:
    state = np.random.SeedSequence((seed, place)).generate_state(1, np.uint64)
    return int(state[0]) >> 1


class Drawn(Dataset):
    """Images by their draws, a batch at a time: levels, uint8, and keys."""

    def __init__(self, images: Images):
        self.images = images

    def __getitems__(self, draws: list[Draw]) -> tuple[Tensor, Tensor]:
        indexes, keys = zip(*draws)
        return self.images.batch(indexes, keys), torch.tensor(keys)


def make_loader(images: Images, draws: Draws, workers: int, pin_memory: bool) -> DataLoader:
    """Levels and keys, a batch of each draw."""
    return DataLoader(
        Drawn(images),
        batch_sampler=cast(Any, draws),
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def open_images(root: Path, split: str, args: argparse.Namespace) -> Images:
    """The data set in a folder: ImageNet 64x64 if it holds npz files."""
    if not root.is_dir():
        raise ValueError(f"expected a folder of images, but there is no folder {root}")
    if any(root.glob("*.npz")):
        if split == "train" and (args.crop_size != WINDOW or args.vary_colours):
            raise ValueError(
                "images of ImageNet 64x64 are taken as they are: --crop-size must be 64, "
                "and --vary-colours is for photographs"
            )
        return ImageNet64(root, split=split)
    return Photographs(
        root,
        split=split,
        size=args.crop_size if split == "train" else WINDOW,
        max_factor=args.max_factor,
        vary_colours=args.vary_colours and split == "train",
    )


# ---- the model and its state ----


def build(args: argparse.Namespace) -> UQDM:
    """The model to start from."""
    torch.manual_seed(args.seed)
    if args.initial:
        trained = UQDM.from_checkpoint(args.initial)
        net = UQDM(trained.config)
        net.load_state_dict(dict(trained.named_parameters()), strict=False)
        return net
    if args.model in PUBLISHED:
        return UQDM(PUBLISHED[args.model])
    if Path(args.model).is_file():
        return UQDM(UQDMConfig.from_json(args.model))
    raise ValueError(
        f"--model must be one of {', '.join(PUBLISHED)} or the path of a "
        f"configuration, got {args.model!r}"
    )


def ema_decay(n: int) -> float:
    """Decay of the average at its n-th update: it starts quick."""
    return min(EMA_DECAY, (1 + n) / (10 + n))


@torch.no_grad()
def _average(averages: Any, parameters: Any, n: Any) -> None:
    torch._foreach_lerp_(averages, parameters, 1 - ema_decay(int(n)))


class Trainee:
    """A model in training: with its average, its optimizers and the steps it made."""

    def __init__(self, net: UQDM, learning_rate: float, warmup: int):
        self.net, self.learning_rate, self.warmup = net, learning_rate, warmup
        self.ema = AveragedModel(net, multi_avg_fn=_average)
        self.average = cast(UQDM, self.ema.module)
        # the published order, so that the optimizer's state is in that of the averages
        self.parameters = [*net.denoiser.parameters(), *net.noise_schedule.parameters()]
        self.quantiles = [prior.quantiles for prior in net.priors]
        betas, eps = (0.9, 0.999), 1e-8
        self.optimizer = torch.optim.Adam(
            self.parameters, learning_rate, betas, eps, fused=True
        )
        self.aux_optimizer = torch.optim.Adam(self.quantiles, AUX_LEARNING_RATE)
        self.step = 0

    def update(self) -> None:
        """One step along the gradients."""
        rate = self.learning_rate * min(1, (self.step + 1) / max(self.warmup, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for optimizer in (self.optimizer, self.aux_optimizer):
            optimizer.step()
            optimizer.zero_grad()
        self.ema.update_parameters(self.net)
        self.step += 1

    def state_dict(self) -> dict[str, Any]:
        average = self.average
        shadow = [*average.denoiser.parameters(), *average.noise_schedule.parameters()]
        return {
            # for from_checkpoint and CompressAI's programs
            "state_dict": average.state_dict(),
            "raw_state_dict": self.net.state_dict(),
            # the published layout
            "model": self.net.denoiser.state_dict(),
            "ema": {
                "decay": EMA_DECAY,
                "num_updates": self.ema.n_averaged.item(),
                "shadow_params": [p.detach() for p in shadow],
                "collected_params": None,
            },
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "aux_optimizer": self.aux_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`.

        Raises:
            ValueError: it is of something else, or of another model.
        """
        try:
            config = UQDMConfig.from_tensor(state["state_dict"]["config_bytes"])
            if config != self.net.config:
                raise ValueError(f"it is of another model: {config}")
            self._load(state)
        except (AttributeError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"it is none of this trainer's: {error!r}") from error

    def _load(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["raw_state_dict"])
        self.average.load_state_dict(state["state_dict"])
        self.ema.n_averaged.fill_(state["ema"]["num_updates"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.aux_optimizer.load_state_dict(state["aux_optimizer"])
        self.step = state["step"]


# ---- records ----


class Metrics:
    """What is measured, as JSON lines and for TensorBoard.

    Args:
        folder: where.
        step: a resumed run's; what was written of later ones is dropped.
    """

    def __init__(self, folder: Path, step: int):
        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            lines = [line for line in self.path.read_text().splitlines() if _whole(line)]
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            with write_atomically(self.path) as file:
                file.write("".join(line + "\n" for line in kept).encode())
        self.board = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)


def _whole(line: str) -> bool:
    # the last line of a killed run may be cut
    return line.startswith("{") and line.endswith("}")


# ---- training ----


def train(args: argparse.Namespace) -> None:
    """Train as the command line says."""
    accelerator = Accelerator()
    accumulated = accelerator.gradient_accumulation_steps
    n_parts = accelerator.num_processes * accumulated
    try:
        with accelerator.local_main_process_first():  # it may have files to unpack
            images = open_images(args.images, "train", args)
            tests = open_images(args.test, "test", args) if args.test else None
        trainee = Trainee(build(args), args.learning_rate, args.warmup)
        _check_batch(args, n_parts, trainee.net)
        arguments = _arguments(args, images)
        args.output.mkdir(parents=True, exist_ok=True)
        _resume(trainee, args.output, arguments)
        _check_same_step(trainee, args.output, accelerator)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{error}") from error

    net, device = trainee.net, accelerator.device
    net.denoiser.gradient_checkpointing = args.gradient_checkpointing
    if args.compile:
        net.denoiser.compile()
    net.train()
    trainee.ema.to(device)
    bound, trainee.optimizer, trainee.aux_optimizer = accelerator.prepare(
        Bound(net, args.bound), trainee.optimizer, trainee.aux_optimizer
    )
    criterion = BitsPerDimensionLoss()
    metrics = Metrics(args.output, trainee.step) if accelerator.is_main_process else None

    first = accelerator.process_index * accumulated
    parts, steps = range(first, first + accumulated), range(trainee.step, args.steps)
    draws = Draws(len(images), args.batch_size, n_parts, parts, steps, args.seed)
    loader = make_loader(images, draws, args.workers, device.type == "cuda")
    bar = tqdm(
        initial=trainee.step, total=args.steps, disable=not accelerator.is_main_process
    )
    sums, n_summed, since = torch.zeros((), device=device), 0, time.perf_counter()
    for levels, keys in loader:
        with accelerator.accumulate(bound):
            torch.manual_seed(keys[0].item())  # for dropout
            levels = levels.to(device, non_blocking=True)
            out = criterion(bound(levels, keys))
            accelerator.backward(out["loss"] + net.aux_loss())
            sums = sums + torch.stack([value.detach() for value in out.values()])
            n_summed += 1
            if not accelerator.sync_gradients:
                continue
            norm = accelerator.clip_grad_norm_(trainee.parameters, CLIP_NORM)
            if accelerator.scaler is None:  # which would leave out the step
                _check_finite(float(norm), trainee.step + 1, args.output)
            trainee.update()
        bar.update()

        step = trainee.step
        saving = step % args.checkpoint_every == 0 or step == args.steps
        # a record ends where a resumed run begins, so that both write the same
        if step % args.log_every == 0 or saving:
            means = accelerator.reduce(sums / n_summed, "mean").tolist()
            values = dict(zip(out, means))
            n_images = n_summed * len(levels) * accelerator.num_processes
            values["grad_norm"] = float(norm)
            values["images_per_second"] = n_images / (time.perf_counter() - since)
            _check_finite(values["loss"], step, args.output)
            if metrics:
                metrics.write(step, values)
            bar.set_postfix(bpd=f"{values['loss']:.4f}")
            sums, n_summed, since = torch.zeros((), device=device), 0, time.perf_counter()
        if tests and (step % args.test_every == 0 or step == args.steps):
            paused = time.perf_counter()
            values = evaluate(trainee, tests, args, accelerator)
            since += time.perf_counter() - paused
            if metrics:
                metrics.write(step, values)
                shown = ", ".join(f"{k} {v:.4f}" for k, v in values.items())
                bar.write(f"step {step}: {shown} bits per dimension")
        if saving:
            if metrics:
                state = trainee.state_dict() | {"arguments": arguments}
                with write_atomically(args.output / CHECKPOINT) as file:
                    torch.save(state, file)
                metrics.board.flush()
            accelerator.wait_for_everyone()
    bar.close()
    accelerator.end_training()


@torch.no_grad()
def evaluate(
    trainee: Trainee, tests: Images, args: argparse.Namespace, accelerator: Accelerator
) -> dict[str, float]:
    """Bits per dimension of held-out images, as they would be coded, z_1 for nothing.

    Returns:
        ``test_raw``, with the last weights, and ``test_ema``, with their average.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    places = range(rank, args.test_images, world)
    criterion, values = BitsPerDimensionLoss(), {}
    for name, net in (("test_raw", trainee.net), ("test_ema", trainee.average)):
        bound, bits = Bound(net), torch.zeros((), device=accelerator.device)
        net.eval()
        for at in range(0, len(places), 4):
            some = places[at : at + 4]
            keys = [_key(args.seed + 1, place) for place in some]
            levels = tests.batch([place % len(tests) for place in some], keys)
            out = criterion(bound(levels.to(accelerator.device), torch.tensor(keys)))
            bits += len(some) * (out["loss"] - out["prior"])
        net.train()
        values[name] = accelerator.reduce(bits, "sum").item() / args.test_images
    return values


# ---- what is checked before ----


def _check_batch(args: argparse.Namespace, n_parts: int, net: UQDM) -> None:
    unit = n_parts * (net.config.n_timesteps if args.bound == "one" else 1)
    if args.batch_size % unit:
        raise ValueError(
            f"--batch-size must be a multiple of {unit} (processes x accumulated "
            f"gradients{' x steps, for --bound one' if args.bound == 'one' else ''}), "
            f"got {args.batch_size}"
        )


def _arguments(args: argparse.Namespace, images: Images) -> dict[str, str]:
    """What a run depends on."""
    free = {"images", "output", "steps", "workers", "log_every", "test", "test_every"}
    free |= {"test_images", "checkpoint_every", "compile", "gradient_checkpointing"}
    values = {k: str(v) for k, v in vars(args).items() if k not in free}
    return {"number of images": str(len(images)), **values}


def _resume(trainee: Trainee, output: Path, arguments: dict[str, str]) -> None:
    """Go on from the run in a folder, if there is one.

    Raises:
        ValueError: it is another run, or damaged.
    """
    path = output / CHECKPOINT
    if not path.exists():
        return
    state = read_checkpoint(path)
    before = state.get("arguments", {})
    changed = [
        f"{name} (was {before[name]}, is {value})"
        for name, value in arguments.items()
        if name in before and before[name] != value
    ]
    if changed:
        raise ValueError(
            f"{output} holds a run with other arguments: {', '.join(changed)}. Give them "
            "as they were, or another output folder"
        )
    try:
        trainee.load_state_dict(state)
    except ValueError as error:
        raise ValueError(
            f"cannot go on from {path}: {error}. Give another output folder"
        ) from error
    log.warning("resuming %s at step %s", output, trainee.step)


def _check_same_step(trainee: Trainee, output: Path, accelerator: Accelerator) -> None:
    here = torch.tensor([trainee.step], device=accelerator.device)
    steps = accelerator.gather(here).tolist()
    if min(steps) != max(steps):
        raise ValueError(
            f"processes found checkpoints of steps {steps}: {output} must be one folder "
            "that all machines share"
        )


def _check_finite(value: float, step: int, output: Path) -> None:
    """Stop before what is not finite gets into weights and checkpoints."""
    if not math.isfinite(value):
        raise SystemExit(
            f"the loss or its gradient is not finite at step {step}: try a smaller "
            f"--learning-rate. {output} holds the last checkpoint, if any"
        )


# ---- the command line ----


def _at_least(low: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if int(text) < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, got {text}")
        return int(text)

    return integer


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m compressai_uqdm.train",
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, count, number = parser.add_argument, _at_least(1), _at_least(0)
    add("images", type=Path, help="folder of photographs, or of ImageNet 64x64's npz files")
    add("output", type=Path, help="folder to write to; a run that is there goes on")
    add("--test", type=Path, help="the same, of held-out images")
    add("--model", default="uqdm-tiny", help="a published model's name, or a config.json")
    add("--initial", type=Path, help="checkpoint to start from, in place of --model")
    add("--steps", type=count, default=500_000)
    add("--batch-size", type=count, default=64, help="over all processes")
    add("--bound", choices=("all", "one"), default="all", help="steps of each image")
    add("--learning-rate", type=float, default=2e-4)
    add("--warmup", type=number, default=1000, help="steps until that rate is reached")
    add("--crop-size", type=count, default=64, help="side of photographs' crops")
    add("--max-factor", type=count, default=5, help="largest box average of photographs")
    add("--vary-colours", action="store_true", help="for very few photographs")
    add("--seed", type=number, default=0)
    add("--workers", type=number, default=0, help="processes that read images")
    add("--log-every", type=count, default=50, help="steps that are averaged")
    add("--test-every", type=count, default=1000, help="steps")
    add("--test-images", type=count, default=64)
    add("--checkpoint-every", type=count, default=1000, help="steps")
    add("--gradient-checkpointing", action="store_true", help="less memory, more time")
    add("--compile", action="store_true", help="torch.compile the network")
    return parser.parse_args(argv)


if __name__ == "__main__":
    train(parse_args(sys.argv[1:]))
