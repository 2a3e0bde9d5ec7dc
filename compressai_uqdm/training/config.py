"""What a run is: all that its numbers depend on, and where they go."""

from argparse import ArgumentParser
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

__all__ = ["Settings", "TrainingConfig", "changeable"]

BoundSteps = Literal["all", "one"]

_LEAST = {"warmup": 0, "seed": 0, "workers": 0}  # of the other integers: 1


def changeable(default: Any) -> Any:
    """What may differ when a run goes on: no number of it depends on this."""
    return field(default=default, metadata={"changeable": True})


@dataclass(frozen=True)
class Settings:
    """What the settings of all runs have in common: fields are the command's options.

    Raises:
        ValueError: a number is out of range.
    """

    def __post_init__(self) -> None:
        for known in fields(self):
            value, least = getattr(self, known.name), _LEAST.get(known.name, 1)
            option = f"--{known.name.replace('_', '-')}"
            if known.type is int and value < least:
                raise ValueError(f"{option} must be at least {least}, got {value}")
            if known.type is float and not value > 0:
                raise ValueError(f"{option} must be more than 0, got {value}")

    @classmethod
    def parse(cls, parser: ArgumentParser, argv: list[str]) -> Self:
        """What a command line says; where it says nothing, the defaults stand."""
        defaults = {known.name: known.default for known in fields(cls)}
        parser.set_defaults(**{k: v for k, v in defaults.items() if v is not MISSING})
        try:
            return cls(**vars(parser.parse_args(argv)))
        except ValueError as error:
            parser.error(f"{error}")

    def identity(self) -> dict[str, str]:
        """What the numbers of a run depend on, as text, by name."""
        kept = [known.name for known in fields(self) if not known.metadata]
        return {name: str(getattr(self, name)) for name in kept}


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """A run of the trainer. The defaults are the published recipe.

    Args:
        images: folder of photographs, or of ImageNet 64x64's npz files.
        output: folder to write to; a run that is there goes on.
        test: folder of held-out images, either kind.
        model: a published model's name, or the path of a ``config.json``.
        initial: checkpoint to start from, in place of ``model``.
        steps: where the run ends.
        batch_size: images per step, over all processes.
        bound: denoise all T steps of every image, or one of each.
        learning_rate: of Adam.
        warmup: steps until that rate is reached.
        crop_size: side of photographs' crops, in pixels.
        max_factor: largest factor that photographs are box-averaged by.
        vary_colours: where very few photographs must stand for many.
        seed: of everything random.
        workers: processes that read images beside each process that trains; 0: none.
        log_every: steps that a record is the mean of.
        test_every: steps between measurements on held-out images.
        test_images: how many of these are measured.
        checkpoint_every: steps between checkpoints.
        checkpoint_minutes: minutes after which there is a checkpoint in any case.
        gradient_checkpointing: less memory for more time.
        compile: ``torch.compile`` the network.

    Raises:
        ValueError: a number is out of range, or there is no such bound.
    """

    images: Path = field(metadata={"changeable": True})
    output: Path = field(metadata={"changeable": True})
    test: Path | None = changeable(None)
    model: str = "uqdm-tiny"
    initial: Path | None = None
    steps: int = changeable(500_000)
    batch_size: int = 64
    bound: BoundSteps = "all"
    learning_rate: float = 2e-4
    warmup: int = 1000
    crop_size: int = 64
    max_factor: int = 5
    vary_colours: bool = False
    seed: int = 0
    workers: int = changeable(0)
    log_every: int = changeable(50)
    test_every: int = changeable(1000)
    test_images: int = changeable(64)
    checkpoint_every: int = changeable(1000)
    checkpoint_minutes: float = changeable(10.0)
    gradient_checkpointing: bool = changeable(False)
    compile: bool = changeable(False)

    def __post_init__(self) -> None:
        if self.bound not in get_args(BoundSteps):
            raise ValueError(f'--bound must be "all" or "one", got {self.bound!r}')
        super().__post_init__()
