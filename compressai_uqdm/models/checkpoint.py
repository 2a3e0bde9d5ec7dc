"""Reading of checkpoints: ours, those of CompressAI's trainers, and the published ones."""

import io
import json
import re
import textwrap
import zipfile

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import safetensors.torch
import torch
import torch.nn as nn

from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..threads import single_threaded_if_forked

__all__ = [
    "PUBLISHED_FILE",
    "SAVED",
    "Weights",
    "allow_published_files",
    "check_family",
    "family_of",
    "load_weights",
    "loading",
    "published_weights",
    "read_checkpoint",
    "state_dict_of",
    "undrawn",
]

SAVED = "model.safetensors"
"""Name of the weights file that ``save_pretrained`` and ``push_to_hub`` write."""

PUBLISHED_FILE = "checkpoint.pt"
"""Name of the weights file in a published folder."""

STATE_DICTS = ("network", "state_dict", "model_state_dict")
"""Keys under which trainers, such as CompressAI's, store the state dict."""

WRAPPERS = {"_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_orig_mod", "module"}
"""Components of names that DDP, ``torch.compile`` and similar wrappers add."""

Weights = Literal["ema", "ema_schedule", "raw"]
"""A choice of a checkpoint's weights, see :func:`published_weights`."""


class undrawn(TorchFunctionMode):  # noqa: N801 (a context manager)
    """Create models without random initialization, for weights that are loaded next.

    Drawing initial values would advance the generator that a program may have seeded.
    """

    DRAWN = (
        torch.Tensor.normal_,
        torch.Tensor.uniform_,
        nn.init.kaiming_uniform_,
        nn.init.normal_,
        nn.init.uniform_,
    )

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in self.DRAWN:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def loading() -> Iterator[None]:
    """Create models and load weights independently of the process's settings.

    The models are on the CPU. They can be trained later, even if they are loaded in
    inference mode.
    """
    cpu = torch.device("cpu")
    try:
        is_default = torch.get_default_device() == cpu
    except (AssertionError, RuntimeError):  # the default device does not exist
        is_default = False
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        nullcontext() if is_default else cpu,  # a device context slows every operation
        single_threaded_if_forked(),
    ):
        yield


def allow_published_files() -> None:
    """Allow ``torch.load`` to read the published files in its safe mode.

    Besides tensors, the optimizer's state in them contains NumPy scalars.
    """
    number_types = [type(np.dtype(kind)) for kind in ("f8", "f4", "i8")]
    scalar: Any = np.float64(0).__reduce__()[0]  # NumPy 1 and 2 name it differently
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    torch.serialization.add_safe_globals(
        [*((scalar, name) for name in names), np.dtype, *number_types]
    )


@loading()
def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the dict in a file of PyTorch, safetensors or NumPy (``.npz``).

    Args:
        path: the file, or a folder that contains it: a published one, or one that
            ``save_pretrained`` wrote.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a checkpoint.
    """
    if path.is_dir():
        files = [path / name for name in (SAVED, PUBLISHED_FILE)]
        present = [file for file in files if file.exists()]
        if not present:
            raise FileNotFoundError(
                f"no checkpoint in the folder {path}: expected {SAVED}, or config.json and "
                f"{PUBLISHED_FILE}"
            )
        path = present[0]
    allow_published_files()
    if path.exists() and not path.is_file():  # a pipe, a device
        raise ValueError(f"{path} is not a regular file: expected a checkpoint")
    with path.open("rb") as file:
        start = file.read(9)
    try:
        if start[8:] == b"{":
            return safetensors.torch.load_file(path)
        if start[:2] == b"PK" and (arrays := _read_arrays(path)):
            return arrays
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # the unpickler raises many types of errors on other files
        why = type(error).__name__  # PyTorch's message advises to trust the file
        advice = "expected a file that a trainer wrote, or save_pretrained, or as published"
        if not start:
            why = "it is empty"
        elif match := re.search(r"GLOBAL (\S+)", str(error)):
            why = f"it holds a pickled object, {match[1]}, which may run any program"
            advice = "write its weights alone, with torch.save(net.state_dict(), path)"
        raise ValueError(
            f"{path} is not a checkpoint that can be read ({why}): {advice}"
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} holds no state dict but {type(checkpoint)}")
    return checkpoint


def _read_arrays(path: Path) -> dict[str, Tensor]:
    """Return the arrays of an ``.npz`` file; none of PyTorch's files, which are ZIP too.

    This is faster than ``np.load``, which opens each array twice.
    """
    with zipfile.ZipFile(path) as archive:
        return {
            name.removesuffix(".npy"): torch.from_numpy(
                np.lib.format.read_array(io.BytesIO(archive.read(name)))
            )
            for name in archive.namelist()
            if name.endswith(".npy")
        }


def state_dict_of(checkpoint: Mapping[str, Any], weights: Weights) -> dict[str, Any]:
    """Return the state dict in a checkpoint of any layout, with the model's own names.

    Args:
        checkpoint: a state dict, a trainer's dict that contains one, or a published
            checkpoint. Names may have the prefixes of wrappers such as DDP and
            ``torch.compile``.
        weights: which weights, if there are several: ``"raw"``, the last, or else their
            average. In files of our trainer both include the learned noise schedule.

    Raises:
        ValueError: the checkpoint has another layout.
    """
    if weights not in get_args(Weights):
        raise ValueError(f"weights must be one of {get_args(Weights)}, got {weights!r}")
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"expected a state dict, got {type(checkpoint)}")
    keys = ("raw_state_dict",) * (weights == "raw") + STATE_DICTS
    state_dict = _state_dict_in(checkpoint, keys)
    if state_dict is None:  # the published layout, perhaps nested in another dict
        for key in keys:
            if isinstance(checkpoint.get(key), Mapping):
                checkpoint = checkpoint[key]
                break
        state_dict = published_weights(checkpoint, weights)
    return state_dict


def _state_dict_in(
    checkpoint: Mapping[str, Any], keys: Sequence[str], depth: int = 3
) -> dict[str, Any] | None:
    """Return the dict with ``config_bytes``: this, or the first nested one.

    Nested dicts under ``keys`` come before others.
    """
    names = [name for name in checkpoint if isinstance(name, str)]
    for name in names:
        prefix = name.removesuffix("config_bytes")
        if name != prefix and (not prefix or prefix.endswith(".")):
            kept = [name for name in names if name.startswith(prefix)]
            return {_unwrapped(k.removeprefix(prefix)): checkpoint[k] for k in kept}
    others = [name for name in names if name not in keys]
    for name in (*(key for key in keys if key in names), *others) if depth else ():
        value = checkpoint[name]
        if isinstance(value, Mapping) and (
            (nested := _state_dict_in(value, keys, depth - 1)) is not None
        ):
            return nested
    return None


def _unwrapped(name: str) -> str:
    """Return the name of a weight without the components that wrappers added."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def family_of(state_dict: Mapping[str, Any]) -> str:
    """Return the name of the class of a state dict; without a configuration, ``"UQDM"``.

    Raises:
        ValueError: the configuration is damaged.
    """
    if "config_bytes" not in state_dict:
        return "UQDM"
    try:
        values = json.loads(bytes(state_dict["config_bytes"].to(torch.uint8).tolist()))
        if "cosine" in values:
            return "CosineUQDM"
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"damaged config_bytes: {error}") from error
    is_uqdm = any(name.startswith("latent_priors.") for name in state_dict)
    return "UQDM" if is_uqdm else "VDM"


def check_family(state_dict: Mapping[str, Any], cls: type) -> None:
    """Raise a ValueError unless a state dict belongs to a class or a base class of it."""
    if (family := family_of(state_dict)) not in {c.__name__ for c in cls.__mro__}:
        raise ValueError(
            f"expected the weights of a {cls.__name__}, got those of a {family}: load them "
            "as such"
        )


def load_weights(net: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load a state dict into a new model.

    Raises:
        ValueError: the state dict belongs to another architecture.
    """
    for name, value in state_dict.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"weights of another architecture: expected a tensor {name}, got "
                f"{type(value)}"
            )
    try:
        net.load_state_dict(state_dict)
    except RuntimeError as error:
        text = textwrap.shorten(str(error), 400)
        raise ValueError(f"weights of another architecture: {text}") from error


def published_weights(checkpoint: Mapping[str, Any], weights: Weights) -> dict[str, Tensor]:
    """Return the weights of the network in a published checkpoint.

    Args:
        checkpoint: dict with ``model``, a state dict, and ``ema``, whose ``shadow_params``
            are in the order of its parameters.
        weights: ``"raw"``, the last weights; ``"ema"``, their average over training;
            ``"ema_schedule"``, the averages of weights and learned noise schedule. The
            published code does not restore the schedule: its figures, like ``"ema"``, use
            the initial one.

    Raises:
        ValueError: the checkpoint has another layout.
    """
    try:
        model = {f"denoiser.{_unwrapped(k)}": w for k, w in checkpoint["model"].items()}
        if weights == "raw":
            return model
        shadow = list(checkpoint["ema"]["shadow_params"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            "expected the state dict of a UQDM, with config_bytes, or a published "
            "checkpoint, with 'model' and 'ema', got a dict with "
            f"{sorted(map(str, checkpoint))[:8]}"
        ) from error
    # Averages are in the order of parameters; those of a learned gamma come last.
    averages = dict(zip([*model, "noise_schedule.w", "noise_schedule.b"], shadow))
    if not len(model) <= len(shadow) == len(averages):
        raise ValueError(
            f"damaged checkpoint: {len(model)} weights but {len(shadow)} averages"
        )
    return averages if weights == "ema_schedule" else {k: averages[k] for k in model}
