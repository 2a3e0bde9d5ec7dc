"""Settings of the trainer of a CosineUQDM."""

from dataclasses import dataclass
from pathlib import Path

from ..families.dct.config import CosineConfig
from ..families.dct.transform import BLOCK
from .settings import FileSettings, argument, option

__all__ = ["DCTSettings"]


@dataclass(frozen=True)
class DCTSettings(FileSettings):
    """Settings of the trainer of a :class:`CosineUQDM`.

    Args:
        photographs: folder of photographs, of some megapixels each.
        output: npz file to write the weights to. A run beside it is resumed.
        test: folder of held-out photographs.
        initial: weights to start from. Each network starts from the one of the nearest
            trained step.
        quantization_steps: quantization step of each stage, in levels.
        dead_zones: dead zone of each stage, in quantization steps.
        trained_steps: quantization steps that the networks are trained for, in levels.
        hidden: channels of the state of a block.
        steps: steps for each network, for the pixels, and for the picture filters.
        batch_size: crops per step.
        crop_size: side of the crops, in pixels.
        min_factor: smallest factor of the box average of photographs.
        max_factor: largest factor of the box average of photographs.
        learning_rate: highest learning rate of Adam for a network that starts from nothing.
        warm_learning_rate: highest learning rate for a network that starts from weights.
        warmup: steps until this rate is reached.
        test_crops: number of held-out crops to measure.

    Raises:
        ValueError: a value is out of range.
    """

    photographs: Path = argument("photographs")
    output: Path = argument("output")
    test: Path | None = option(None, changeable=True)
    initial: Path | None = option(None)
    quantization_steps: tuple[int, ...] = option(CosineConfig.quantization_steps)
    dead_zones: tuple[float, ...] = option(CosineConfig.dead_zones)
    trained_steps: tuple[int, ...] = option(CosineConfig.trained_steps)
    hidden: int = option(CosineConfig.hidden)
    steps: int = option(1000)
    batch_size: int = option(8)
    crop_size: int = option(128)
    min_factor: int = option(2)
    max_factor: int = option(4)
    learning_rate: float = option(2e-3)
    warm_learning_rate: float = option(1e-3)
    warmup: int = option(60)
    test_every: int = option(250, changeable=True)
    test_crops: int = option(32, changeable=True)
    checkpoint_every: int = option(250, changeable=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("quantization_steps", "dead_zones", "trained_steps"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self.model()  # raises
        if self.crop_size % BLOCK:
            raise ValueError(
                f"--crop-size must be a multiple of {BLOCK}, got {self.crop_size}"
            )
        if self.min_factor > self.max_factor:
            raise ValueError(
                f"--min-factor must be at most --max-factor, {self.max_factor}, got "
                f"{self.min_factor}"
            )

    def model(self) -> CosineConfig:
        """Return the configuration of the model that is trained."""
        return CosineConfig(
            self.quantization_steps, self.dead_zones, self.trained_steps, self.hidden
        )

    @property
    def factors(self) -> range:
        """The factors of the box average."""
        return range(self.min_factor, self.max_factor + 1)
