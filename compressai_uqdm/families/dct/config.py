"""Configuration of a CosineUQDM."""

import json

from dataclasses import asdict, dataclass, fields

import numpy as np
import torch

from torch import Tensor

from ...checks import check_count
from ...quantization.nested import MAX_RATIO

__all__ = ["CosineConfig"]


@dataclass(frozen=True)
class CosineConfig:
    """Configuration of a :class:`.CosineUQDM`.

    Args:
        quantization_steps: of each stage, in levels; each is a multiple of the next.
        dead_zones: of each stage, in its steps: coefficients whose predicted standard
            deviation is smaller are not coded in the stage.
        trained_steps: quantization step that each context network is trained for. A stage
            uses the network of the nearest step, by ratio; stages may share one.
        hidden: channels of the hidden state of a block.

    Raises:
        ValueError: a value is out of range.
    """

    quantization_steps: tuple[int, ...] = (192, 64, 32, 16, 8)
    dead_zones: tuple[float, ...] = (0.3, 0.3, 0.3, 0.35, 0.42)
    trained_steps: tuple[int, ...] = (192, 48, 8)
    hidden: int = 96

    def __post_init__(self) -> None:
        for name in ("quantization_steps", "dead_zones", "trained_steps"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_count(self, "hidden")
        steps = self.quantization_steps
        pairs = zip(steps, steps[1:])
        valid = all(0 < b < a <= MAX_RATIO * b and a % b == 0 for a, b in pairs)
        if not steps or steps[0] < 1 or not valid:
            raise ValueError(
                "quantization_steps must be positive integers, each a multiple of the next "
                f"and at most {MAX_RATIO} times it, got {steps}"
            )
        if not self.trained_steps or min(self.trained_steps) < 1:
            raise ValueError(
                f"trained_steps must be positive integers, got {self.trained_steps}"
            )
        valid = all(0.02 <= dead_zone <= 4 for dead_zone in self.dead_zones)
        if len(self.dead_zones) != len(steps) or not valid:
            raise ValueError(
                "dead_zones must be as many as quantization_steps, each in 0.02..4, got "
                f"{self.dead_zones}"
            )

    @property
    def networks(self) -> tuple[int, ...]:
        """Trained steps of the networks in use, those of the first stages first."""
        return tuple(dict.fromkeys(map(self._trained_step, self.quantization_steps)))

    def network(self, stage: int) -> int:
        """Return the index among :attr:`networks` of a stage, which counts from 0."""
        return self.networks.index(self._trained_step(self.quantization_steps[stage]))

    def stages(self, network: int) -> list[int]:
        """Return the stages, counted from 0, that use a network."""
        n_stages = len(self.quantization_steps)
        return [i for i in range(n_stages) if self.network(i) == network]

    def _trained_step(self, step: int) -> int:
        return min(self.trained_steps, key=lambda t: max(t, step) / min(t, step))

    def to_tensor(self) -> Tensor:
        """Return the configuration as bytes of JSON, uint8, for a state dict."""
        text = json.dumps({"cosine": asdict(self)}, sort_keys=True)
        return torch.from_numpy(np.array(bytearray(text.encode())))

    @classmethod
    def from_tensor(cls, data: Tensor) -> "CosineConfig":
        """Read what :meth:`to_tensor` returns.

        Raises:
            ValueError: it is no such configuration.
        """
        try:
            values = json.loads(bytes(data.tolist()).decode())["cosine"]
            if unknown := sorted(set(values) - {f.name for f in fields(cls)}):
                raise ValueError(f"unknown keys {unknown}")
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not the configuration of a CosineUQDM: {error}") from error
