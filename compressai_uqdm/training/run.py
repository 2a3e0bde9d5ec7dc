"""The loop of all trainers: steps, records, measurements, checkpoints, interruptions.

A run trains its phases one after another. A :class:`.Phase` says what differs between the
trainers.
"""

import math
import time

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from accelerate import Accelerator
from torch import Tensor

from .average import WeightAverage
from .checkpoints import find_checkpoint, save_checkpoint
from .interruption import Interruption
from .phase import Phase
from .progress_bar import StepBar
from .records import Records, RunningMeans
from .settings import Settings

__all__ = ["Run"]

CLIP_NORM = 1.0


class Run:
    """A run, new or resumed, in all processes that were launched together.

    Args:
        settings: settings of the trainer.
        facts: what else the numbers of the run depend on, as text, by name.
        phases: makes each phase, in order; it is called when its phase begins.
        accelerator: the processes.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: another run has its checkpoint there.
    """

    def __init__(
        self,
        settings: Settings,
        facts: dict[str, str],
        phases: Sequence[Callable[[], Phase]],
        accelerator: Accelerator,
    ):
        self.settings, self.phases, self.accelerator = settings, phases, accelerator
        self.files, self.identity = settings.files, facts | settings.identity()
        self.interruption = Interruption(announce=accelerator.is_main_process)
        found = find_checkpoint(self.files.checkpoint, self.identity)
        if found is None:
            self._begin(0)
        else:
            self._resume(found)
        self._check_same_step()

    def _begin(self, index: int) -> None:
        """Make a phase, and all that belongs to it."""
        torch.manual_seed(self.settings.seed)
        self.index, self.step, self.phase = index, 0, self.phases[index]()
        for weight in self.phase.weights:
            weight.requires_grad_(True)
        self.average = WeightAverage(self.phase.averaged, self.phase.decay)
        optimizer = torch.optim.Adam(
            self.phase.weights, self.phase.schedule.peak, self.phase.betas, fused=True
        )
        self.optimizer = self.accelerator.prepare(optimizer)
        self.means = RunningMeans()
        self.test_is_due = self.phase.has_tests and self.phase.is_tested_first

    def _resume(self, found: dict[str, Any]) -> None:
        """Restore the run from a checkpoint."""
        try:
            index = int(found.get("phase", 0))
            if not 0 <= index <= len(self.phases):
                raise ValueError(f"it has no phase {index}")
            self._begin(min(index, len(self.phases) - 1))
            self.phase.load_state_dict(found)
            self.average.load(found["average"], int(found["n_averaged"]))
            self.optimizer.load_state_dict(found["optimizer"])
            self.means.load_state_dict(found["means"], self.accelerator)
            self.index, self.step = index, int(found["step"])
            self.test_is_due = bool(found["test_is_due"]) and self.phase.has_tests
        except (
            *(AttributeError, IndexError, KeyError),
            *(RuntimeError, TypeError, ValueError),
        ) as error:
            reason = f"{error}" if isinstance(error, ValueError) else f"{error!r}"
            raise ValueError(
                f"cannot resume {self.files.checkpoint} ({reason}): it is none of this "
                "trainer's, or damaged. Give another output"
            ) from error

    def _check_same_step(self) -> None:
        here = torch.tensor([self.step], device=self.accelerator.device)
        steps = self.accelerator.gather(here).tolist()
        if min(steps) != max(steps):
            raise ValueError(
                f"processes found checkpoints of steps {steps}: "
                f"{self.files.checkpoint.parent} must be one folder that all machines share"
            )

    def train(self) -> int:
        """Train to the last step of the last phase, or until a signal comes.

        At SIGINT (Ctrl-C) or SIGTERM, in any of the processes, all finish their step and
        write a checkpoint.

        Returns:
            the number of the signal, or 0 at the end of the run.

        Raises:
            FloatingPointError: the loss or its gradient is not finite, or weights became
                too large.
            KeyboardInterrupt: at a second Ctrl-C, at once.
        """
        stopped = 0
        with self.interruption:
            while self.index < len(self.phases) and not stopped:
                stopped = self._train_phase()
                if self.phase.is_extendable:
                    break
        self.accelerator.end_training()
        return stopped

    def _train_phase(self) -> int:
        """Train a phase, and begin the next one; the signal that came, or 0."""
        settings, phase = self.settings, self.phase
        is_main = self.accelerator.is_main_process
        several = len(self.phases) > 1
        title = phase.title if several else None
        self.records = Records(self.files, title, self.step) if is_main else None
        stopped = self._stopped()  # a signal after the bar is shown waits for a step
        bar = StepBar(self.step, phase.steps, is_main, phase.unit)
        if several:
            bar.write(f"{self.index + 1} of {len(self.phases)}: {phase.title}")
        if self.step:
            bar.write(f"resuming {self.files.checkpoint} at step {self.step}")
        if self.step >= phase.steps and phase.is_extendable:
            bar.write("all steps are done: for more, give a larger --steps")
        if self.test_is_due:
            self._test(bar)
            self._save()
            stopped = self._stopped()
        saved, since = time.monotonic(), time.perf_counter()
        for values, norm in () if stopped else self._steps():
            seconds = time.perf_counter() - since
            self.means.add(torch.stack([*values.values()]), seconds)
            bar.update(float(values["loss"]), seconds)
            is_last = self.step == phase.steps
            if self.step % settings.log_every == 0 or is_last:
                self._record(list(values), float(norm))
            if phase.has_tests and (self.step % settings.test_every == 0 or is_last):
                self._test(bar)
            minutes = (time.monotonic() - saved) / 60
            due = is_main and minutes > settings.checkpoint_minutes
            stopped, due = self._largest(self.interruption.signal, due)
            due = due or self.step % settings.checkpoint_every == 0
            if stopped or due or (is_last and phase.is_extendable):
                self._save()
                saved = time.monotonic()
            if stopped:
                break
            since = time.perf_counter()
        bar.close()
        if stopped:
            of = f" of {phase.title}" if several else ""
            bar.write(
                f"stopped at step {self.step} of {phase.steps}{of}, which is in "
                f"{self.files.checkpoint}: the same command resumes it"
            )
        if self.step >= phase.steps and not (phase.is_extendable or self.test_is_due):
            self._finish_phase()
        if self.records:
            self.records.close()
        return stopped

    def _finish_phase(self) -> None:
        self.average.exchange()
        self.phase.finish()
        if self.index + 1 < len(self.phases):
            self._begin(self.index + 1)
        else:
            self.index += 1
        self._save()

    def _steps(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Make the steps that are left: the loss and its parts in each, and the gradient's
        norm before it was clipped."""
        phase, accelerator = self.phase, self.accelerator
        parts = accelerator.gradient_accumulation_steps
        summed: dict[str, Tensor] = {}
        for batch in phase.batches(range(self.step, phase.steps)):
            with accelerator.accumulate(*phase.modules):
                values = phase.losses(batch)
                accelerator.backward(values["loss"] + phase.auxiliary_loss())
                for name, value in values.items():
                    share = value.detach() / parts
                    summed[name] = summed[name] + share if name in summed else share
                if not accelerator.sync_gradients:
                    continue
                norm = accelerator.clip_grad_norm_(phase.weights, CLIP_NORM)
                if accelerator.scaler is None:  # which would leave out the step
                    self._check_finite(float(norm), self.step + 1)
                for group in self.optimizer.param_groups:
                    group["lr"] = phase.schedule.rate(self.step, phase.steps)
                self.optimizer.step()
                self.optimizer.zero_grad()
                phase.after_step()
                self.average.update()
                self.step += 1
            yield summed, norm
            summed = {}

    def _record(self, names: list[str], norm: float) -> None:
        """Write the means since the last record."""
        means = self.means
        values = dict(zip(names, means.means(self.accelerator)))
        values["grad_norm"] = norm
        values["images_per_second"] = means.steps * self.phase.batch_size / means.seconds
        self._check_finite(values["loss"], self.step)
        if self.records:
            self.records.write(self.step, values)
        if self.step % self.settings.log_every == 0:  # else the run may yet be made longer
            means.clear()

    def _test(self, bar: StepBar) -> None:
        """Measure the model, or leave it due if a signal comes."""
        torch.manual_seed(self.settings.seed)
        with torch.no_grad():
            values = self.phase.measure(self.average, lambda: bool(self._stopped()))
        self.test_is_due = values is None
        if values is None:
            return
        if self.records:
            measured = {f"test_{name}": value for name, value in values.items()}
            self.records.write(self.step, measured)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        bar.write(f"measured after step {self.step}: {shown}")

    def _save(self) -> None:
        """Write a checkpoint. All processes must come together."""
        means = self.means.state_dict(self.accelerator)
        if means["sums"] is not None:
            self._check_finite(float(means["sums"].sum()), self.step)
        if self.records:
            try:
                checkpoint = self.phase.state_dict(self.average)
            except ValueError as error:
                raise FloatingPointError(self._advice(f"{error}")) from error
            checkpoint |= {
                "phase": self.index,
                "step": self.step,
                "average": self.average.tensors,
                "n_averaged": self.average.n_updates,
                "optimizer": self.optimizer.state_dict(),
                "means": means,
                "test_is_due": self.test_is_due,
            }
            save_checkpoint(self.files.checkpoint, checkpoint, self.identity)
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
            problem = f"the loss or its gradient is not finite at step {step}"
            raise FloatingPointError(self._advice(problem))

    def _advice(self, problem: str) -> str:
        return (
            f"{problem}: try smaller learning rates. The last checkpoint, if any, is "
            f"{self.files.checkpoint}"
        )
