"""Training of a UQDM: one phase, the diffusion, in any number of processes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from ..families.uqdm.bound import Bound
from ..families.uqdm.config import PUBLISHED, UQDMConfig
from ..families.uqdm.model import UQDM
from ..losses import BitsPerDimensionLoss
from .average import WeightAverage
from .checkpoints import check_output
from .data import BatchSampler, Images, example_key, make_loader, open_images, read
from .phase import Phase, Schedule
from .processes import join_processes
from .run import Run
from .settings import UQDMSettings

__all__ = ["UQDMPhase", "initial_model", "start", "train"]

EMA_DECAY = 0.9999
AUX_LEARNING_RATE = 1e-3
"""Learning rate of the quantiles that the scale tables will span."""
TEST_BATCH = 4


def train(settings: UQDMSettings) -> int:
    """Train a UQDM, or resume its training.

    Returns:
        the number of the signal that stopped it, or 0.

    Raises:
        FloatingPointError: the loss or its gradient is not finite.
        OSError: a file cannot be read or written.
        ValueError: images, model or batch size do not fit, or the output folder holds
            another run.
    """
    return start(settings).train()


def start(settings: UQDMSettings) -> Run:
    """Return the run, new or resumed, that settings describe."""
    check_output(settings.output)
    accelerator = join_processes()
    with accelerator.local_main_process_first():  # it may have files to unpack
        images = open_images(settings.images, "train", settings)
        tests = open_images(settings.test, "test", settings) if settings.test else None
    net = initial_model(settings)
    _check_batch(settings, net.config.n_timesteps, accelerator)
    settings.output.mkdir(parents=True, exist_ok=True)
    facts = {"number of images": str(len(images))}
    phases = [lambda: UQDMPhase(net, settings, images, tests, accelerator)]
    return Run(settings, facts, phases, accelerator)


def initial_model(settings: UQDMSettings) -> UQDM:
    """Return the model to start from.

    Raises:
        OSError: a file cannot be read.
        ValueError: it holds no model, or there is none of that name.
    """
    torch.manual_seed(settings.seed)
    if settings.initial:
        trained = UQDM.from_checkpoint(settings.initial)
        net = UQDM(trained.config)
        net.load_state_dict(dict(trained.named_parameters()), strict=False)
        return net
    if settings.model in PUBLISHED:
        return UQDM(PUBLISHED[settings.model])
    if Path(settings.model).is_file():
        return UQDM(UQDMConfig.from_json(settings.model))
    raise ValueError(
        f"--model must be one of {', '.join(PUBLISHED)} or the path of a "
        f"configuration, got {settings.model!r}"
    )


def _check_batch(
    settings: UQDMSettings, n_timesteps: int, accelerator: Accelerator
) -> None:
    one = settings.bound == "one"
    n_parts = accelerator.num_processes * accelerator.gradient_accumulation_steps
    unit = n_parts * (n_timesteps if one else 1)
    if settings.batch_size % unit:
        raise ValueError(
            f"--batch-size must be a multiple of {unit} (processes x accumulated "
            f"gradients{' x steps, for --bound one' if one else ''}), "
            f"got {settings.batch_size}"
        )


class UQDMPhase(Phase):
    """The denoiser, the noise schedule and the quantiles of the priors' scales.

    Args:
        net: the model.
        settings: settings of the trainer.
        images: images to train on.
        tests: held-out images.
        accelerator: the processes.
    """

    title, unit = "the diffusion model", "bpd"
    betas, decay = (0.9, 0.999), EMA_DECAY
    is_tested_first, is_extendable = False, True

    def __init__(
        self,
        net: UQDM,
        settings: UQDMSettings,
        images: Images,
        tests: Images | None,
        accelerator: Accelerator,
    ):
        self.net, self.settings, self.accelerator = net, settings, accelerator
        self.images, self.tests, self.has_tests = images, tests, tests is not None
        self.steps, self.batch_size = settings.steps, settings.batch_size
        self.schedule = Schedule(settings.learning_rate, settings.warmup)
        net.denoiser.gradient_checkpointing = settings.gradient_checkpointing
        if settings.compile:
            net.denoiser.compile()
        net.train()
        self.bound = accelerator.prepare(Bound(net, settings.bound))  # on its device
        self.modules, self.criterion = (self.bound,), BitsPerDimensionLoss()
        # the published order, so that the optimizer's state is in that of the averages
        self.weights = [*net.denoiser.parameters(), *net.noise_schedule.parameters()]
        self.quantiles = [prior.quantiles for prior in net.latent_priors]
        self.aux_optimizer = accelerator.prepare(
            torch.optim.Adam(self.quantiles, AUX_LEARNING_RATE)
        )

    @property
    def averaged(self) -> list[torch.nn.Parameter]:
        return [*self.weights, *self.quantiles]

    def batches(self, steps: range) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield levels, uint8, and keys of this process's parts of each batch."""
        accumulated = self.accelerator.gradient_accumulation_steps
        first = self.accelerator.process_index * accumulated
        n_parts = self.accelerator.num_processes * accumulated
        parts = range(first, first + accumulated)
        sampler = BatchSampler(
            len(self.images), self.batch_size, n_parts, parts, steps, self.settings.seed
        )
        device = self.accelerator.device
        workers = self.settings.workers
        for levels, keys in read(
            make_loader(self.images, sampler, workers, device.type == "cuda")
        ):
            torch.manual_seed(keys[0].item())  # for dropout
            yield levels.to(device, non_blocking=True), keys

    def losses(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return self.criterion(self.bound(*batch))

    def auxiliary_loss(self) -> Tensor:
        return self.net.aux_loss()

    def after_step(self) -> None:
        self.aux_optimizer.step()
        self.aux_optimizer.zero_grad()

    def measure(
        self, average: WeightAverage, stopped: Callable[[], bool]
    ) -> dict[str, float] | None:
        """Measure held-out images as they would be coded, z_1 for nothing.

        They come again if there are fewer than ``--test-images``.

        Returns:
            bits per dimension: ``raw``, with the last weights, and ``ema``, with their
            average; None if it was stopped.
        """
        count, world = self.settings.test_images, self.accelerator.num_processes
        rounds = -(-count // (world * TEST_BATCH))
        bar = tqdm(
            desc="testing",
            total=2 * rounds,
            leave=False,
            disable=not self.accelerator.is_main_process,
            dynamic_ncols=True,
        )
        self.net.eval()
        try:
            with bar:
                raw = self._test_bits(rounds, stopped, bar)
                if raw is None:
                    return None
                with average.applied():
                    ema = self._test_bits(rounds, stopped, bar)
        finally:
            self.net.train()
        return None if ema is None else {"raw": raw, "ema": ema}

    def _test_bits(
        self, rounds: int, stopped: Callable[[], bool], bar: Any
    ) -> float | None:
        """Return the bits per dimension of held-out images, or None if it was stopped.

        There are as many rounds in each process: where one has no image left, it still
        asks to stop.
        """
        assert self.tests is not None
        accelerator, count = self.accelerator, self.settings.test_images
        places = range(accelerator.process_index, count, accelerator.num_processes)
        bound, bits = Bound(self.net), torch.zeros((), device=accelerator.device)
        for i in range(rounds):
            if stopped():
                return None
            if some := places[i * TEST_BATCH : (i + 1) * TEST_BATCH]:
                keys = [example_key(self.settings.seed + 1, place) for place in some]
                indexes = [place % len(self.tests) for place in some]
                levels = self.tests.batch(indexes, keys).to(accelerator.device)
                out = self.criterion(bound(levels, torch.tensor(keys)))
                bits += len(some) * (out["loss"] - out["prior"])
            bar.update()
        return accelerator.reduce(bits, "sum").item() / count

    def state_dict(self, average: WeightAverage) -> dict[str, Any]:
        return {
            # for from_checkpoint and CompressAI's programs
            "state_dict": average.state_dict_of(self.net),
            "raw_state_dict": self.net.state_dict(),
            # the published layout; the run adds "optimizer" and "step"
            "model": self.net.denoiser.state_dict(),
            "ema": {
                "decay": EMA_DECAY,
                "num_updates": average.n_updates,
                "shadow_params": average.tensors[: len(self.weights)],
                "collected_params": None,
            },
            "aux_optimizer": self.aux_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        config = UQDMConfig.from_tensor(state["state_dict"]["config_bytes"])
        if config != self.net.config:
            raise ValueError(f"it is of another model: {config}")
        self.net.load_state_dict(state["raw_state_dict"])
        self.aux_optimizer.load_state_dict(state["aux_optimizer"])
