"""Files of the networks that are context priors: those of latents, and that of pixels."""

import zipfile

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ...atomic import write_atomically
from ...integer.network import IntegerNetwork
from ...models.checkpoint import undrawn
from .context_network import LatentContextNetwork
from .interval_pixels import PLANES
from .pixel_network import PixelNetwork

__all__ = ["Contexts", "read_contexts", "save_contexts"]


class Contexts(NamedTuple):
    """The context priors of a UQDM."""

    latents: list[LatentContextNetwork]
    """Those of its latent stages; as many as there are follow one another."""

    pixels: PixelNetwork
    """That of the pixels, which follow then."""


def save_contexts(path: Path, contexts: Contexts) -> None:
    """Write the networks to a NumPy file, by LZMA: an eighth smaller than NumPy does it."""
    networks: dict[str, IntegerNetwork] = {"pixels": contexts.pixels}
    networks |= {str(stage): network for stage, network in enumerate(contexts.latents)}
    arrays = {
        f"{stage}.{name}": array
        for stage, network in networks.items()
        for name, array in network.integer_arrays().items()
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
    with undrawn():
        latents, pixels = [LatentContextNetwork() for _ in stages], PixelNetwork(PLANES)
    for stage, network in enumerate(latents):
        _fill(network, arrays, str(stage), path)
    _fill(pixels, arrays, "pixels", path)
    return Contexts(latents, pixels)


def _fill(
    network: IntegerNetwork, arrays: dict[str, np.ndarray], stage: str, path: Path
) -> None:
    state = {name: f"{stage}.{name}" for name in network.arrays()}
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
