"""Our models, put into CompressAI's zoo on import, and where weights come from.

Our data sets and criterion enter CompressAI's registries with them.
"""

import functools
import hashlib
import os

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub

from compressai import zoo as compressai_zoo
from huggingface_hub.utils import (
    LocalEntryNotFoundError,
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from . import datasets as datasets
from . import losses as losses
from .models.base import DiffusionModel
from .models.checkpoint import allow_published_files
from .models.config import GAUSSIAN, PUBLISHED
from .models.uqdm import UQDM, ContextUQDM
from .models.vdm import VDM

__all__ = ["find_weights", "load_model"]

HUB_REPOSITORY = "justuswill/UQDM"
LOCAL_ZOO = "COMPRESSAI_UQDM_ZOO"
FILES = ("config.json", "checkpoint.pt")

# Our own small model comes with the package.
NANO = "uqdm-nano"
NANO_WEIGHTS = Path(__file__).parent / "weights/uqdm-nano.safetensors"
NANO_CONTEXTS = Path(__file__).parent / "contexts/uqdm-nano.npz"

CONTEXT = "-ctx"
ARCHITECTURES: dict[str, type[DiffusionModel]] = {
    **{name: UQDM for name in PUBLISHED},
    **{name + CONTEXT: ContextUQDM for name in PUBLISHED},
    **{name: VDM for name in GAUSSIAN},
    NANO: UQDM,
    NANO + CONTEXT: ContextUQDM,
}
CONFIGS = {**PUBLISHED, **GAUSSIAN, NANO: PUBLISHED["uqdm-tiny"]}

# SHA-256 of the published weights, where we had the file to take it of.
DIGESTS = {
    "uqdm-tiny": "52644fcb40135471a2d2b526ea67ccb888425b472e8f889117fbee0ede428637",
}


def load_model(
    name: str,
    quality: int,
    metric: str = "mse",
    pretrained: bool = False,
    progress: bool = True,
    **kwargs: Any,
) -> DiffusionModel:
    """A model of the zoo.

    Args:
        name: ``"uqdm-nano"``, which comes with the package, or ``"uqdm-tiny"``,
            ``"uqdm-small"``, ``"uqdm-medium"`` or ``"uqdm-big"``, as published; one of
            these with ``"-ctx"``, the same weights with the context prior; or one of the
            published with ``vdm`` for ``uqdm``, the same network as a Gaussian diffusion.
        quality: number of stages to code, 1 (coarsest) to 5 (lossless); of a ``vdm``, to
            21, or its ``n_timesteps`` and one more.
        metric: ``"mse"``; there are no weights for another.
        pretrained: whether to load weights (of those published, their average over
            training).
        progress: show the progress of a download.
        kwargs: further arguments of the model's class.

    Raises:
        ValueError: quality or metric is none of these.
        FileNotFoundError: the weights were not found, or none are published.
    """
    if metric != "mse":
        raise ValueError(f'metric must be "mse", got {metric!r}')
    weights, cls = name.removesuffix(CONTEXT), ARCHITECTURES[name]
    if name == NANO + CONTEXT:
        kwargs.setdefault("contexts", NANO_CONTEXTS)
    if not pretrained:
        return cls(CONFIGS[weights], quality=quality, **kwargs)
    if weights in GAUSSIAN:
        raise FileNotFoundError(
            f"no weights of {name} are published: train it, with CompressAI's train.py for "
            "one, and load it with VDM.from_checkpoint or eval_model's checkpoint"
        )
    path = NANO_WEIGHTS if weights == NANO else find_weights(weights, progress)
    return cls.from_checkpoint(path, quality=quality, **kwargs)


def find_weights(name: str, progress: bool = True) -> Path:
    """The folder with ``config.json`` and ``checkpoint.pt`` of a published model.

    It is looked for in the folder that ``COMPRESSAI_UQDM_ZOO`` names, then in the
    Hub's cache, then on the Hub.

    Raises:
        FileNotFoundError: it is in none of them.
        ValueError: the weights are not those that were published.
    """
    looked = []
    local = os.environ.get(LOCAL_ZOO)
    if local:
        folder = Path(local) / name
        if all((folder / file).is_file() for file in FILES):
            return folder
        looked.append(f"{folder} ({' and '.join(FILES)})")

    shown = not are_progress_bars_disabled()
    if not progress:
        disable_progress_bars()
    try:
        paths = _download([f"checkpoints/{name}/{file}" for file in FILES])
    except Exception as error:  # those of huggingface_hub and of its HTTP library
        looked.append(f"the Hub's {HUB_REPOSITORY}, checkpoints/{name} ({error})")
        raise FileNotFoundError(
            f"no weights for {name}; looked in {', then in '.join(looked)}. Connect to "
            f"the network, or set {LOCAL_ZOO} to a folder that holds "
            f"{name}/{FILES[0]} and {name}/{FILES[1]}"
        ) from error
    finally:
        if shown:
            enable_progress_bars()
    _check_digest(name, paths[1])
    return paths[1].parent


def _download(files: Sequence[str]) -> list[Path]:
    """Files of the Hub, or of its cache where the Hub cannot be reached."""
    unreachable = None
    try:  # once: hf_hub_download asks six times within half a minute, and logs each
        url = huggingface_hub.hf_hub_url(HUB_REPOSITORY, files[0])
        huggingface_hub.get_hf_file_metadata(url)
    except Exception as error:  # those of the HTTP library too
        unreachable = error
    try:
        return [
            Path(
                huggingface_hub.hf_hub_download(
                    HUB_REPOSITORY, file, local_files_only=unreachable is not None
                )
            )
            for file in files
        ]
    except LocalEntryNotFoundError as error:
        raise unreachable or error from error


def _check_digest(name: str, path: Path) -> None:
    expected = DIGESTS.get(name)
    if expected is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(
            # the file itself: the Hub's cache restores a link to it as it is
            f"{path.resolve()} is not the published checkpoint of {name}: its SHA-256 is "
            f"{found}, not {expected}. Delete it to download it again"
        )


def _register() -> None:
    """Append our models to CompressAI's, so that the ids of its own stay."""
    allow_published_files()
    for name, cls in ARCHITECTURES.items():
        entry: Callable[..., DiffusionModel] = functools.partial(load_model, name)
        functools.update_wrapper(entry, load_model)
        compressai_zoo.image_models[name] = entry
        compressai_zoo.models[name] = entry
        compressai_zoo.image.model_architectures[name] = cls


_register()
