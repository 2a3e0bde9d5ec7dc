"""Settings of the trainers: dataclasses, from which command lines are made.

A field is an option, with the dataclass's documentation of it as help. Options are written
nowhere else.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args

__all__ = [
    "ContextSettings",
    "FileSettings",
    "RunFiles",
    "Settings",
    "UQDMSettings",
    "argument",
    "option",
    "parse",
]

BoundSteps = Literal["all", "one"]
S = TypeVar("S", bound="Settings")

_LEAST = {"warmup": 0, "seed": 0, "workers": 0}
"""Smallest values of integers; of all others it is 1."""


def option(default: Any, changeable: bool = False) -> Any:
    """Return a field that is an option of the command.

    Args:
        default: its value where the command line does not give it.
        changeable: whether it may differ when a run is resumed, because no number of the
            run depends on it.
    """
    parsed: dict[str, Any] = {}
    if default is False:
        parsed["action"] = "store_true"
    elif default is None:
        parsed["nargs"] = None  # simple-parsing would take the option without a value
    metadata = {"changeable": changeable, "custom_args": parsed}
    return field(default=default, kw_only=True, metadata=metadata)


def argument(name: str, changeable: bool = True) -> Any:
    """Return a field that is a positional argument of the command.

    Args:
        name: its name in messages.
        changeable: as of :func:`option`.
    """
    metadata = {"changeable": changeable, "positional": True}
    return field(metadata={**metadata, "custom_args": {"metavar": name}})


class RunFiles(NamedTuple):
    """Where a run keeps its state and its records."""

    checkpoint: Path
    records: Path  # JSON lines
    tensorboard: Path  # folder

    @classmethod
    def in_folder(cls, folder: Path) -> "RunFiles":
        """Return the files of a run that has a folder of its own."""
        return cls(folder / "checkpoint.pt", folder / "metrics.jsonl", folder)

    @classmethod
    def beside(cls, output: Path) -> "RunFiles":
        """Return the files of a run that stand beside its output."""
        suffixes = (".checkpoint.pt", ".metrics.jsonl", ".tensorboard")
        return cls(*(output.with_suffix(suffix) for suffix in suffixes))


@dataclass(frozen=True)
class Settings:
    """Settings that all trainers share.

    Args:
        seed: seed of all random numbers.
        log_every: number of steps that a record averages.
        test_every: steps between measurements.
        checkpoint_every: steps between checkpoints.
        checkpoint_minutes: minutes after which a checkpoint is due in any case.

    Raises:
        ValueError: a number is out of range.
    """

    seed: int = option(0)
    log_every: int = option(50, changeable=True)
    test_every: int = option(1000, changeable=True)
    checkpoint_every: int = option(1000, changeable=True)
    checkpoint_minutes: float = option(10.0, changeable=True)

    def __post_init__(self) -> None:
        for setting in fields(self):
            value, least = getattr(self, setting.name), _LEAST.get(setting.name, 1)
            name = f"--{setting.name.replace('_', '-')}"
            if setting.type is int and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
            if setting.type is float and not value > 0:
                raise ValueError(f"{name} must be more than 0, got {value}")

    @property
    def files(self) -> RunFiles:
        """Where the run keeps its state and its records."""
        raise NotImplementedError

    def identity(self) -> dict[str, str]:
        """Return the settings that the numbers of a run depend on, as text, by name."""
        kept = [
            setting.name for setting in fields(self) if not setting.metadata["changeable"]
        ]
        return {name: str(getattr(self, name)) for name in kept}


@dataclass(frozen=True)
class UQDMSettings(Settings):
    """Settings of the trainer of a UQDM. The defaults are the published recipe.

    Args:
        images: folder of photographs, or of ImageNet 64x64's npz files.
        output: folder to write to. A run in it is resumed.
        test: folder of held-out images of either kind.
        model: a published model's name, or the path of a config.json.
        initial: checkpoint to start from, in place of --model.
        steps: step at which the run ends.
        batch_size: images per step, over all processes.
        bound: denoise all T steps of every image, or one step of each.
        learning_rate: highest learning rate of Adam.
        warmup: steps until this rate is reached.
        crop_size: side of the crops of photographs, in pixels.
        max_factor: largest factor of the box average of photographs.
        vary_colours: vary contrast, brightness and white balance of crops, for very few
            photographs.
        workers: processes that read images beside each process that trains, 0 for none.
        test_images: number of held-out images to measure.
        gradient_checkpointing: save memory by computing activations twice.
        compile: compile the network with torch.compile.

    Raises:
        ValueError: a number is out of range, or there is no such bound.
    """

    images: Path = argument("images")
    output: Path = argument("output")
    test: Path | None = option(None, changeable=True)
    model: str = option("uqdm-tiny")
    initial: Path | None = option(None)
    steps: int = option(500_000, changeable=True)
    batch_size: int = option(64)
    bound: BoundSteps = option("all")
    learning_rate: float = option(2e-4)
    warmup: int = option(1000)
    crop_size: int = option(64)
    max_factor: int = option(5)
    vary_colours: bool = option(False)
    workers: int = option(0, changeable=True)
    test_images: int = option(64, changeable=True)
    gradient_checkpointing: bool = option(False, changeable=True)
    compile: bool = option(False, changeable=True)

    def __post_init__(self) -> None:
        if self.bound not in get_args(BoundSteps):
            raise ValueError(f'--bound must be "all" or "one", got {self.bound!r}')
        super().__post_init__()

    @property
    def files(self) -> RunFiles:
        return RunFiles.in_folder(self.output)


class FileSettings(Settings):
    """Settings of a trainer whose output is one file.

    Raises:
        ValueError: as of :class:`Settings`, or the output is no file ``.npz``.
    """

    output: Path

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output.is_dir():
            raise ValueError(f"expected a file to write, got the folder {self.output}")
        if self.output.suffix != ".npz":
            raise ValueError(f"output must be a file .npz, got {self.output}")

    @property
    def files(self) -> RunFiles:
        return RunFiles.beside(self.output)


@dataclass(frozen=True)
class ContextSettings(FileSettings):
    """Settings of the trainer of a UQDM's context models.

    Args:
        model: model of the zoo, or the path of a checkpoint.
        photographs: folder of photographs.
        output: npz file to write. A run beside it is resumed.
        initial: context models to start from.
        crops: number of crops of the photographs.
        max_factor: largest factor of the box average of photographs.
        steps: steps for each latent stage, and a quarter of them for the first.
        batch_size: crops per step of a latent stage.
        learning_rate: highest learning rate of Adam for the latent stages.
        pixel_steps: steps for the pixels.
        pixel_batch_size: crops per step of the pixels.
        pixel_learning_rate: highest learning rate of Adam for the pixels.

    Raises:
        ValueError: a number is out of range, or the output is no file ``.npz``.
    """

    model: str = argument("model", changeable=False)
    photographs: Path = argument("photographs")
    output: Path = argument("output")
    initial: Path | None = option(None)
    crops: int = option(600)
    max_factor: int = option(5)
    steps: int = option(1000)
    batch_size: int = option(16)
    learning_rate: float = option(1e-2)
    pixel_steps: int = option(4000)
    pixel_batch_size: int = option(4)
    pixel_learning_rate: float = option(4e-3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 4:
            raise ValueError(
                "--steps must be at least 4, a quarter of them for the first stage, got "
                f"{self.steps}"
            )


def parse(settings: type[S], argv: list[str], prog: str, description: str) -> S:
    """Return the settings that a command line gives.

    Args:
        settings: their class.
        argv: the words of the command line.
        prog: the command, for messages.
        description: what it does; its first line is shown.

    Raises:
        SystemExit: with status 2 after a message, where the command line is wrong; with
            status 0 after the help.
    """
    from simple_parsing import ArgumentParser, DashVariant

    class Parser(ArgumentParser):
        def add_argument_group(self, title: Any = None, *args: Any, **kwargs: Any) -> Any:
            if "['settings']" in (title or ""):  # users need no class name
                return super().add_argument_group("settings")
            return super().add_argument_group(title, *args, **kwargs)

    parser = Parser(
        prog=prog,
        description=description.split("\n")[0],
        add_option_string_dash_variants=DashVariant.DASH,
    )
    parser.add_arguments(settings, "settings")
    try:
        return parser.parse_args(argv).settings
    except ValueError as error:
        parser.error(f"{error}")
