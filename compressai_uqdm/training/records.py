"""Records of a run: means over steps, as JSON lines and for TensorBoard."""

import json
import math

from typing import Any

from accelerate import Accelerator
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ..atomic import write_atomically
from .settings import RunFiles

__all__ = ["Records", "RunningMeans"]


class RunningMeans:
    """Means of a step's values since the last record, over all processes.

    It goes into checkpoints, so that a record is of the same steps whether or not the run
    was interrupted among them.
    """

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.steps, self.seconds = 0, 0.0

    def add(self, values: Tensor, seconds: float) -> None:
        """Take in one step: its values in this process, and how long it took."""
        self.sums = values if self.sums is None else self.sums + values
        self.steps += 1
        self.seconds += seconds

    def means(self, accelerator: Accelerator) -> list[float]:
        """The means so far. All processes must ask together, after one step or more."""
        assert self.sums is not None
        return accelerator.reduce(self.sums / self.steps, "mean").tolist()

    def clear(self) -> None:
        """Begin the next record."""
        self.sums, self.steps, self.seconds = None, 0, 0.0

    def state_dict(self, accelerator: Accelerator) -> dict[str, Any]:
        """For a checkpoint. All processes must ask together."""
        sums = None if self.sums is None else accelerator.gather(self.sums[None]).cpu()
        return {"sums": sums, "steps": self.steps, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any], accelerator: Accelerator) -> None:
        """Inverse of :meth:`state_dict`; with other processes, each takes the mean.

        Raises:
            ValueError: it is of something else.
        """
        try:
            sums = state["sums"]
            if sums is not None:
                same = len(sums) == accelerator.num_processes
                sums = sums[accelerator.process_index] if same else sums.mean(0)
                sums = sums.to(accelerator.device)
            self.sums = sums
            self.steps, self.seconds = int(state["steps"]), float(state["seconds"])
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"damaged means: {error!r}") from error


class Records:
    """The files of records of a run, while a phase of it is trained.

    Args:
        files: the run's files.
        phase: title of the phase, where the run has several: then each line names its
            phase, and TensorBoard shows each phase by itself.
        step: the step that the run resumes at. Records of later steps of this phase,
            which a killed run wrote, are dropped.
    """

    def __init__(self, files: RunFiles, phase: str | None, step: int):
        self.path, self.phase = files.records, phase
        files.records.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            lines = self.path.read_text(errors="replace").splitlines()
            kept = [line for line in lines if self._step(line) <= step]
            with write_atomically(self.path) as file:
                file.write("".join(line + "\n" for line in kept).encode())
        folder = files.tensorboard / phase if phase else files.tensorboard
        self.board = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write the values of a step."""
        place = {} if self.phase is None else {"phase": self.phase}
        with self.path.open("a") as file:
            file.write(json.dumps({**place, "step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write what is buffered."""
        self.board.flush()

    def close(self) -> None:
        """Close the files."""
        self.board.close()

    def _step(self, line: str) -> float:
        """Return the step of a record of this phase; 0 if it is of another phase.

        It is infinity where the line is damaged, as a killed run's last line.
        """
        try:
            record = json.loads(line)
            step = float(record["step"])
            return step if record.get("phase") == self.phase else 0
        except (AttributeError, KeyError, TypeError, ValueError):
            return math.inf
