"""A run: its steps, and what happens between them."""

import math
import time

from collections.abc import Iterator

import torch

from torch import Tensor

from ..families.uqdm.bound import Bound
from ..losses import BitsPerDimensionLoss
from .bar import StepBar
from .batches import BatchSampler, make_loader, open_images, read
from .checkpoints import CHECKPOINT, check_output, find_checkpoint, save_checkpoint
from .config import TrainingConfig
from .held_out import measure
from .interruption import Interruption
from .processes import join_processes
from .records import Records, RunningMeans
from .state import TrainingState, initial_model

__all__ = ["Run"]

CLIP_NORM = 1.0


class Run:
    """A run, new or where it was left, in all processes that were launched together.

    Args:
        config: what it is.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: images, model or batch size do not fit, or the output folder holds
            another run.
    """

    def __init__(self, config: TrainingConfig):
        check_output(config.output)
        self.config, self.accelerator = config, join_processes()
        with self.accelerator.local_main_process_first():  # it may have files to unpack
            self.images = open_images(config.images, "train", config)
            self.tests = open_images(config.test, "test", config) if config.test else None
        net = initial_model(config)
        self._check_batch(net.config.n_timesteps)
        self.state = TrainingState(net, config.learning_rate, config.warmup)
        self.interruption = Interruption(announce=self.accelerator.is_main_process)
        self.means = RunningMeans()
        self.test_is_due = False  # the one of this step, which was stopped
        n_images = {"number of images": str(len(self.images))}
        self.identity = n_images | config.identity()
        config.output.mkdir(parents=True, exist_ok=True)
        self._resume()
        self._check_same_step()
        self._prepare()

    @property
    def _parts(self) -> tuple[int, range]:
        """Parts that a batch is computed in, and those of this process."""
        accumulated = self.accelerator.gradient_accumulation_steps
        first = self.accelerator.process_index * accumulated
        n_parts = self.accelerator.num_processes * accumulated
        return n_parts, range(first, first + accumulated)

    def _check_batch(self, n_timesteps: int) -> None:
        n_parts, _ = self._parts
        one = self.config.bound == "one"
        unit = n_parts * (n_timesteps if one else 1)
        if self.config.batch_size % unit:
            raise ValueError(
                f"--batch-size must be a multiple of {unit} (processes x accumulated "
                f"gradients{' x steps, for --bound one' if one else ''}), "
                f"got {self.config.batch_size}"
            )

    def _resume(self) -> None:
        """Go on from the run in the output folder, if there is one."""
        found = find_checkpoint(self.config.output / CHECKPOINT, self.identity)
        if found is None:
            return
        try:
            self.state.load_state_dict(found)
            if "means" in found:
                self.means.load_state_dict(found["means"], self.accelerator)
        except ValueError as error:
            raise ValueError(
                f"cannot go on from {self.config.output / CHECKPOINT}: {error}. Give "
                "another output folder"
            ) from error
        self.test_is_due = bool(found.get("test_is_due", False))

    def _check_same_step(self) -> None:
        here = torch.tensor([self.state.step], device=self.accelerator.device)
        steps = self.accelerator.gather(here).tolist()
        if min(steps) != max(steps):
            raise ValueError(
                f"processes found checkpoints of steps {steps}: {self.config.output} must "
                "be one folder that all machines share"
            )

    def _prepare(self) -> None:
        """Bring all to the device, and its processes together."""
        config, state, net = self.config, self.state, self.state.net
        net.denoiser.gradient_checkpointing = config.gradient_checkpointing
        if config.compile:
            net.denoiser.compile()
        net.train()
        state.ema.to(self.accelerator.device)
        self.bound, state.optimizer, state.aux_optimizer = self.accelerator.prepare(
            Bound(net, config.bound), state.optimizer, state.aux_optimizer
        )
        self.criterion = BitsPerDimensionLoss()
        is_main = self.accelerator.is_main_process
        self.records = Records(config.output, state.step) if is_main else None

    def train(self) -> int:
        """Train to the last step, or until a signal comes.

        At SIGINT (Ctrl-C) or SIGTERM, in any of the processes, all finish their step and
        write a checkpoint.

        Returns:
            the number of the signal, or 0 at the end of the run.

        Raises:
            FloatingPointError: the loss or its gradient is not finite.
            KeyboardInterrupt: at a second Ctrl-C, at once.
        """
        config, state = self.config, self.state
        is_main = self.accelerator.is_main_process
        bar = StepBar(state.step, config.steps, is_main)
        with self.interruption:
            if state.step:
                bar.say(f"resuming {config.output} at step {state.step}")
            if state.step >= config.steps:
                bar.say("all steps are done: for more, give a larger --steps")
            if self.test_is_due:
                self._test(bar)
                self._save()
            stopped, saved, since = self._stopped(), time.monotonic(), time.perf_counter()
            for values, norm in () if stopped else self._steps():
                seconds = time.perf_counter() - since
                self.means.add(torch.stack([*values.values()]), seconds)
                bar.update(float(values["loss"]), seconds)
                is_last = state.step == config.steps
                if state.step % config.log_every == 0 or is_last:
                    self._record(list(values), float(norm))
                if self.tests and (state.step % config.test_every == 0 or is_last):
                    self._test(bar)
                minutes = (time.monotonic() - saved) / 60
                due = is_main and minutes > config.checkpoint_minutes
                stopped, due = self._largest(self.interruption.signal, due)
                due = due or state.step % config.checkpoint_every == 0
                if stopped or due or is_last:
                    self._save()
                    saved = time.monotonic()
                if stopped:
                    break
                since = time.perf_counter()
        bar.close()
        if stopped:
            bar.say(
                f"stopped at step {state.step} of {config.steps}, which is in "
                f"{config.output / CHECKPOINT}: the same command goes on from there"
            )
        self.accelerator.end_training()
        return stopped

    def _steps(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Make the steps that are left: the loss and its parts in each, and the gradient's
        norm before it was clipped."""
        config, state, device = self.config, self.state, self.accelerator.device
        n_parts, parts = self._parts
        steps = range(state.step, config.steps)
        sampler = BatchSampler(
            len(self.images), config.batch_size, n_parts, parts, steps, config.seed
        )
        loader = make_loader(self.images, sampler, config.workers, device.type == "cuda")
        summed: dict[str, Tensor] = {}
        for levels, keys in read(loader):
            with self.accelerator.accumulate(self.bound):
                torch.manual_seed(keys[0].item())  # for dropout
                levels = levels.to(device, non_blocking=True)
                out = self.criterion(self.bound(levels, keys))
                self.accelerator.backward(out["loss"] + state.net.aux_loss())
                for name, value in out.items():
                    share = value.detach() / len(parts)
                    summed[name] = summed[name] + share if name in summed else share
                if not self.accelerator.sync_gradients:
                    continue
                norm = self.accelerator.clip_grad_norm_(state.parameters, CLIP_NORM)
                if self.accelerator.scaler is None:  # which would leave out the step
                    self._check_finite(float(norm), state.step + 1)
                state.update()
            yield summed, norm
            summed = {}

    def _record(self, names: list[str], norm: float) -> None:
        """Write the means since the last record."""
        step, means = self.state.step, self.means
        values = dict(zip(names, means.means(self.accelerator)))
        values["grad_norm"] = norm
        values["images_per_second"] = means.steps * self.config.batch_size / means.seconds
        self._check_finite(values["loss"], step)
        if self.records:
            self.records.write(step, values)
        if step % self.config.log_every == 0:  # else the run may yet be made longer
            means.clear()

    def _test(self, bar: StepBar) -> None:
        """Measure held-out images, or leave it due if a signal comes."""
        self.test_is_due = False
        if self.tests is None:
            return
        values = measure(
            self.state,
            self.tests,
            self.config.test_images,
            self.config.seed + 1,
            self.accelerator,
            lambda: bool(self._stopped()),
        )
        self.test_is_due = values is None
        if values is None:
            return
        if self.records:
            self.records.write(self.state.step, values)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        bar.say(f"step {self.state.step}: {shown} bits per dimension")

    def _save(self) -> None:
        """Write a checkpoint. All processes must come together."""
        means = self.means.state_dict(self.accelerator)
        if means["sums"] is not None:
            self._check_finite(float(means["sums"].sum()), self.state.step)
        if self.records:
            checkpoint = self.state.state_dict()
            checkpoint |= {"means": means, "test_is_due": self.test_is_due}
            save_checkpoint(self.config.output / CHECKPOINT, checkpoint, self.identity)
            self.records.flush()
        self.accelerator.wait_for_everyone()

    def _stopped(self) -> int:
        """The signal that came in any of the processes, or 0: the same in all of them."""
        return self._largest(self.interruption.signal)[0]

    def _largest(self, *values: int) -> list[int]:
        """The largest of each value over all processes, the same in all of them."""
        if self.accelerator.num_processes == 1:
            return list(values)
        here = torch.tensor([values], device=self.accelerator.device)
        return self.accelerator.gather(here).amax(0).tolist()

    def _check_finite(self, value: float, step: int) -> None:
        """Stop before what is not finite gets into weights and checkpoints."""
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss or its gradient is not finite at step {step}: try a smaller "
                f"--learning-rate. {self.config.output} holds the last checkpoint, if any"
            )
