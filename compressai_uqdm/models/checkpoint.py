"""Reading checkpoints: ours, CompressAI's trainers', and the published layout."""

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
"""The file with the weights that ``save_pretrained`` and ``push_to_hub`` write."""

PUBLISHED_FILE = "checkpoint.pt"
"""The file with the weights in a published folder."""

STATE_DICTS = ("network", "state_dict", "model_state_dict")
"""Where trainers keep the state dict, CompressAI's among them."""

WRAPPERS = {"_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_orig_mod", "module"}
"""Parts of names that come from DDP, ``torch.compile`` and the like."""

Weights = Literal["ema", "ema_schedule", "raw"]
"""Which of a checkpoint's weights, see :func:`published_weights`."""


class undrawn(TorchFunctionMode):  # noqa: N801 (a context manager)
    """Make models whose parameters all come from elsewhere.

    Layers would draw them at random, from the generator that a program may have seeded.
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
    """Make models whose weights are loaded next, independent of the process around.

    They are on the CPU, and may be trained where they were loaded for inference.
    """
    cpu = torch.device("cpu")
    try:
        is_default = torch.get_default_device() == cpu
    except (AssertionError, RuntimeError):  # one that is not there
        is_default = False
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        nullcontext() if is_default else cpu,  # it makes every operation slower
        single_threaded_if_forked(),
    ):
        yield


def allow_published_files() -> None:
    """Let ``torch.load`` read the published files in its safe mode.

    They hold, beside tensors, a NumPy number or two in the optimizer's state.
    """
    number_types = [type(np.dtype(kind)) for kind in ("f8", "f4", "i8")]
    scalar: Any = np.float64(0).__reduce__()[0]  # by its names in NumPy 1 and 2
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    torch.serialization.add_safe_globals(
        [*((scalar, name) for name in names), np.dtype, *number_types]
    )


@loading()
def read_checkpoint(path: Path) -> dict[str, Any]:
    """The dict in a file, of whatever format: PyTorch's, safetensors or ``.npz``.

    Args:
        path: the file, or a folder with one, as published or as ``save_pretrained``
            writes it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
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
    except Exception as error:  # the unpickler fails in many ways on what is no pickle
        why = type(error).__name__  # its text advises to trust the file
        advice = "expected a file that a trainer wrote, or save_pretrained, or as published"
        if not start:
            why = "it is empty"
        elif found := re.search(r"GLOBAL (\S+)", str(error)):
            why = f"it holds a pickled object, {found[1]}, which may run any program"
            advice = "write its weights alone, with torch.save(net.state_dict(), path)"
        raise ValueError(
            f"{path} is not a checkpoint that can be read ({why}): {advice}"
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} holds no state dict but {type(checkpoint)}")
    return checkpoint


def _read_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of an ``.npz`` file, faster than ``np.load``, which opens each twice.

    There are none in PyTorch's files, which are ZIP files too.
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
    """The state dict in a checkpoint of any layout, by the names that its model has.

    Args:
        checkpoint: a state dict; a dict that holds one, as trainers write it, ours with
            that of the last weights too; or the published one. Names may have the
            prefixes of what the model was wrapped in, as for DDP or by
            ``torch.compile``.
        weights: which, where there are several; ``"raw"``, or else the average. In our
            own files both come with the noise schedule that was learned.

    Raises:
        ValueError: it is none of these.
    """
    if weights not in get_args(Weights):
        raise ValueError(f"weights must be one of {get_args(Weights)}, got {weights!r}")
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"expected a state dict, got {type(checkpoint)}")
    keys = ("raw_state_dict",) * (weights == "raw") + STATE_DICTS
    found = _state_dict_in(checkpoint, keys)
    if found is None:  # the published layout, perhaps within another
        for key in keys:
            if isinstance(checkpoint.get(key), Mapping):
                checkpoint = checkpoint[key]
                break
        found = published_weights(checkpoint, weights)
    return found


def _state_dict_in(
    checkpoint: Mapping[str, Any], keys: Sequence[str], depth: int = 3
) -> dict[str, Any] | None:
    """A dict with a configuration: this, or the first within it, of these keys first."""
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
            (found := _state_dict_in(value, keys, depth - 1)) is not None
        ):
            return found
    return None


def _unwrapped(name: str) -> str:
    """The name of a weight without what its part of the model was wrapped in."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def family_of(state_dict: Mapping[str, Any]) -> str:
    """The name of the class that a state dict is of; a published one has none in it.

    Raises:
        ValueError: its configuration is damaged.
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
    """Raise a ValueError unless a state dict is of this class, or of one above it."""
    if (found := family_of(state_dict)) not in {c.__name__ for c in cls.__mro__}:
        raise ValueError(
            f"expected the weights of a {cls.__name__}, got those of a {found}: load them "
            "as such"
        )


def load_weights(net: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load a state dict into a new model.

    Raises:
        ValueError: it is of another architecture.
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
    """The state dict that a published checkpoint holds a part of.

    Args:
        checkpoint: dict with ``model``, a state dict, and ``ema``, whose
            ``shadow_params`` are in the order of its parameters.
        weights: ``"raw"``, the last; ``"ema"``, their average over training;
            ``"ema_schedule"``, with it the average of the learned noise schedule, which
            the published code does not restore: its figures, and ``"ema"``, are of the
            initial schedule.

    Raises:
        ValueError: the dict has another layout.
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
    # Averages are in the order of parameters; last, if learned, come gamma's.
    averages = dict(zip([*model, "noise_schedule.w", "noise_schedule.b"], shadow))
    if not len(model) <= len(shadow) == len(averages):
        raise ValueError(
            f"damaged checkpoint: {len(model)} weights but {len(shadow)} averages"
        )
    return averages if weights == "ema_schedule" else {k: averages[k] for k in model}
