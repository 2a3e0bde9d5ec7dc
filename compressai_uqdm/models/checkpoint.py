"""Reading checkpoints: ours, CompressAI's trainers', and the published layout."""

import io
import zipfile

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import safetensors.torch
import torch

from torch import Tensor

from ..denoisers.vdm_unet import UNetConfig
from .config import PUBLISHED, UQDMConfig

__all__ = [
    "Weights",
    "allow_published_files",
    "config_of",
    "published_weights",
    "read_checkpoint",
    "state_dict_of",
]

Weights = Literal["ema", "ema_schedule", "raw"]
"""Which of a checkpoint's weights, see :func:`published_weights`."""


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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The dict in a file, of whatever layout.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    allow_published_files()
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if path.suffix == ".npz":
            return _read_arrays(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # the unpickler fails in many ways on what is no pickle
        kind = type(error).__name__  # its text advises to trust the file
        raise ValueError(
            f"{path} is not a checkpoint that can be read ({kind}): expected a file that a "
            "trainer wrote, or save_pretrained, or as published"
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} holds no state dict but {type(checkpoint)}")
    return checkpoint


def _read_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of an ``.npz`` file, faster than ``np.load``, which opens each twice."""
    with zipfile.ZipFile(path) as archive:
        return {
            name.removesuffix(".npy"): torch.from_numpy(
                np.lib.format.read_array(io.BytesIO(archive.read(name)))
            )
            for name in archive.namelist()
        }


def state_dict_of(checkpoint: Mapping[str, Any], weights: Weights) -> Mapping[str, Any]:
    """The state dict in a checkpoint of any layout.

    Args:
        checkpoint: a state dict; a dict that holds one, as CompressAI's trainers write
            it, or ours, which holds that of the last weights too; or the published one.
        weights: which, where there are several; ``"raw"``, or else the average. In our
            own files both come with the noise schedule that was learned.

    Raises:
        ValueError: it is none of these.
    """
    if weights not in get_args(Weights):
        raise ValueError(f"weights must be one of {get_args(Weights)}, got {weights!r}")
    keys = ("raw_state_dict",) if weights == "raw" else ()
    for key in (*keys, "network", "state_dict", "model_state_dict"):
        if key in checkpoint:
            checkpoint = checkpoint[key]
            break
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"expected a state dict, got {type(checkpoint)}")
    return (
        checkpoint
        if "config_bytes" in checkpoint
        else published_weights(checkpoint, weights)
    )


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
        model = {f"denoiser.{name}": w for name, w in checkpoint["model"].items()}
        if weights == "raw":
            return model
        shadow = list(checkpoint["ema"]["shadow_params"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            "expected the state dict of a UQDM or a published checkpoint (with 'model' "
            f"and 'ema'), got a dict with {sorted(map(str, checkpoint))[:8]}"
        ) from error
    # Averages are in the order of parameters; last, if learned, come gamma's.
    averages = dict(zip([*model, "noise_schedule.w", "noise_schedule.b"], shadow))
    if not len(model) <= len(shadow) == len(averages):
        raise ValueError(
            f"damaged checkpoint: {len(model)} weights but {len(shadow)} averages"
        )
    return averages if weights == "ema_schedule" else {k: averages[k] for k in model}


def config_of(state_dict: Mapping[str, Tensor]) -> UQDMConfig:
    """The published model that these weights are of, told by width and depth.

    Raises:
        ValueError: none.
    """
    try:
        width = len(state_dict["denoiser.conv_in.bias"])
    except KeyError as error:
        raise ValueError("not the weights of a UQDM: there is no conv_in") from error
    blocks = [name for name in state_dict if name.startswith("denoiser.down_blocks.")]
    depth = len({name.split(".")[2] for name in blocks})
    for config in PUBLISHED.values():
        network = cast(UNetConfig, config.network)
        if (network.embedding_dim, network.n_blocks) == (width, depth):
            return config
    raise ValueError(
        f"a UQDM of width {width} and depth {depth} is none of the published models: "
        "pass its config"
    )
