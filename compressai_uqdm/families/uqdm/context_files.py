"""Files of the networks that are context priors: those of latents, and that of pixels."""

import zipfile

from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn as nn

from ...atomic import write_atomically
from .context_prior import ContextPrior
from .interval_pixels import PLANES
from .pixel_network import PixelNetwork

__all__ = ["Contexts", "read_contexts", "save_contexts"]

Network = TypeVar("Network", ContextPrior, PixelNetwork)


class Contexts(NamedTuple):
    """The context priors of a UQDM."""

    latents: list[ContextPrior]
    """Those of its latent stages; as many as there are follow one another."""

    pixels: PixelNetwork
    """That of the pixels, which follow then."""


def save_contexts(path: Path, contexts: Contexts) -> None:
    """Write the networks to a NumPy file, by LZMA: an eighth smaller than NumPy does it."""
    networks: dict[str, nn.Module] = {"pixels": contexts.pixels}
    networks |= {str(stage): network for stage, network in enumerate(contexts.latents)}
    arrays = {
        f"{stage}.{name}": weight.numpy()
        for stage, network in networks.items()
        for name, weight in network.state_dict().items()
    }
    with (
        write_atomically(path) as output,
        zipfile.ZipFile(output, "w", zipfile.ZIP_LZMA) as archive,
    ):
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def read_contexts(path: Path) -> Contexts:
    """The networks in a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else, or a network is missing, of another shape, or
            with weights that are so large that sums could be rounded.
    """
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except OSError:
        raise
    except Exception as error:  # of zipfile, NumPy and their decompressors
        raise ValueError(
            f"{path} is no file of context priors ({type(error).__name__}). Make it with "
            "python -m compressai_uqdm.train_context"
        ) from error
    stages = {name.split(".")[0] for name in arrays} - {"pixels"}
    latents = [
        _filled(ContextPrior(), arrays, str(stage), path) for stage in range(len(stages))
    ]
    return Contexts(latents, _filled(PixelNetwork(PLANES), arrays, "pixels", path))


def _filled(
    network: Network, arrays: dict[str, np.ndarray], stage: str, path: Path
) -> Network:
    state = {name: f"{stage}.{name}" for name, _ in network.named_buffers()}
    if missing := sorted(set(state.values()) - set(arrays)):
        raise ValueError(
            f"{path} is no file of context priors: {missing[0]!r} is missing. Make it "
            "with python -m compressai_uqdm.train_context"
        )
    try:
        network.load_state_dict(
            {name: torch.from_numpy(arrays[key]) for name, key in state.items()}
        )
        network.check()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return network
