"""Our models by name: what each is made of, and where its weights come from.

On import they enter CompressAI's zoo, and our data sets and criterion its registries.
"""

from . import libraries  # noqa: F401  isort: skip

import functools
import hashlib
import os

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub

from compressai import zoo as compressai_zoo
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)

from . import datasets as datasets
from . import losses as losses
from .families.dct.config import CosineConfig
from .families.dct.model import CosineUQDM
from .families.uqdm.config import GAUSSIAN, PUBLISHED, UQDMConfig
from .families.uqdm.model import UQDM
from .families.uqdm.vdm import VDM
from .models.base import ProgressiveModel
from .models.checkpoint import allow_published_files

__all__ = [
    "RECIPES",
    "Recipe",
    "find_in_repository",
    "find_weights",
    "is_repository",
    "load_model",
]

HUB_REPOSITORY = "justuswill/UQDM"
LOCAL_ZOO = "COMPRESSAI_UQDM_ZOO"
FILES = ("config.json", "checkpoint.pt")
ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Recipe:
    """What a name of the zoo stands for.

    Args:
        name: the name.
        cls: class of the model.
        config: its configuration.
        weights: a file in the package, the name of a folder of published weights, or
            None where there are none.
        contexts: file of the networks of its context priors, if it has them.
        digest: SHA-256 of the published weights, where we had them to take it of.
    """

    name: str
    cls: type[ProgressiveModel[Any]]
    config: UQDMConfig | CosineConfig
    weights: Path | str | None = None
    contexts: Path | None = None
    digest: str | None = None

    @property
    def is_packaged(self) -> bool:
        """Whether its weights are in the package."""
        return isinstance(self.weights, Path)

    @property
    def is_verified(self) -> bool:
        """Whether its weights are in the package, or checked against a known digest."""
        return self.is_packaged or self.digest is not None

    def load(
        self, progress: bool = True, download: bool = True, **kwargs: Any
    ) -> ProgressiveModel[Any]:
        """The model with its weights, ready to code.

        Args:
            progress: show the progress of a download.
            download: whether weights may be fetched that are not on this machine.
            kwargs: arguments of the class.

        Raises:
            FileNotFoundError: there are none, or they were not found.
        """
        if self.weights is None:
            raise FileNotFoundError(
                f"no weights of {self.name} are published: train it, with CompressAI's "
                "train.py for one, and load it with from_checkpoint or eval_model's "
                "checkpoint"
            )
        path = self.weights
        if not isinstance(path, Path):
            path = find_weights(path, self.digest, progress, download)
        if self.contexts:
            kwargs["contexts"] = self.contexts
        return self.cls.from_checkpoint(path, **kwargs)

    def __call__(self) -> "Recipe":
        """Itself: CompressAI's update_model calls what is no class, to get one."""
        return self

    def from_state_dict(self, state_dict: Mapping[str, Any]) -> ProgressiveModel[Any]:
        """A model with weights from elsewhere, and the contexts of this name.

        CompressAI's tools call it on a checkpoint that is given with a name.
        """
        net = self.cls.from_state_dict(state_dict)
        if self.contexts and isinstance(net, UQDM) and net.config.latent_prior == "uniform":
            net.load_contexts(self.contexts)
        return net


def _with_contexts(recipe: Recipe, contexts: Path) -> Recipe:
    assert isinstance(recipe.config, UQDMConfig)
    config = replace(
        recipe.config, latent_prior="context", pixel_prior="context", latent_stages=3
    )
    return replace(recipe, name=f"{recipe.name}-ctx", config=config, contexts=contexts)


def _published(name: str, digest: str | None = None) -> Recipe:
    return Recipe(name, UQDM, PUBLISHED[name], weights=name, digest=digest)


_plain = [
    _published(
        "uqdm-tiny", "52644fcb40135471a2d2b526ea67ccb888425b472e8f889117fbee0ede428637"
    ),
    _published("uqdm-small"),
    _published("uqdm-medium"),
    _published("uqdm-big"),
]
_nano = Recipe(
    "uqdm-nano", UQDM, PUBLISHED["uqdm-tiny"], ASSETS / "uqdm-nano/weights.safetensors"
)
_recipes = [
    *_plain,
    # fitted to uqdm-tiny; its three larger kin take them over
    *(_with_contexts(recipe, ASSETS / "uqdm-tiny/contexts.npz") for recipe in _plain),
    *(Recipe(name, VDM, config) for name, config in GAUSSIAN.items()),
    _nano,
    _with_contexts(_nano, ASSETS / "uqdm-nano/contexts.npz"),
    Recipe("uqdm-photo", CosineUQDM, CosineConfig(), ASSETS / "uqdm-photo/weights.npz"),
]

RECIPES = {recipe.name: recipe for recipe in _recipes}
"""All names, in the order in which they enter CompressAI's zoo."""


def load_model(
    name: str,
    quality: int,
    metric: str = "mse",
    pretrained: bool = False,
    progress: bool = True,
    **kwargs: Any,
) -> ProgressiveModel[Any]:
    """A model of the zoo.

    Args:
        name: ``"uqdm-nano"``, which comes with the package, or ``"uqdm-tiny"``,
            ``"uqdm-small"``, ``"uqdm-medium"`` or ``"uqdm-big"``, as published; one of
            these with ``"-ctx"``, the same weights with the context prior; or one of the
            published with ``vdm`` for ``uqdm``, the same network as a Gaussian diffusion;
            or ``"uqdm-photo"``, ours in a cosine basis, in the package too.
        quality: number of stages to code, 1 (coarsest) to 5 (lossless); with ``"-ctx"``,
            to 4, as of ``"uqdm-photo"``; of a ``vdm``, to 21, or its ``n_timesteps``
            and one more.
        metric: ``"mse"``; there are no weights for another.
        pretrained: whether to load weights (of those published, their average over
            training).
        progress: show the progress of a download.
        kwargs: further arguments of the model's class.

    CompressAI's ``eval_model`` codes a black frame around pictures whose sides are not
    multiples of 64, so it tells more bits than ``compress`` takes; it needs more than 160
    pixels a side. ``docs/compressai.md`` says what to do.

    Raises:
        ValueError: quality or metric is none of these.
        FileNotFoundError: the weights were not found, or none are published.
    """
    if metric != "mse":
        raise ValueError(f'metric must be "mse", got {metric!r}')
    recipe = RECIPES[name]
    if not pretrained:
        return recipe.cls(recipe.config, quality=quality, **kwargs)
    return recipe.load(progress, quality=quality, **kwargs)


def find_weights(
    name: str, digest: str | None = None, progress: bool = True, download: bool = True
) -> Path:
    """The folder with ``config.json`` and ``checkpoint.pt`` of a published model.

    Args:
        name: of the model.
        digest: SHA-256 of ``checkpoint.pt``, checked after a download.
        progress: show the progress of a download.
        download: whether to ask the Hub for what is not on this machine.

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
        files = [f"checkpoints/{name}/{file}" for file in FILES]
        paths = (_download if download else _find_in_cache)(HUB_REPOSITORY, files)
    except Exception as error:  # those of huggingface_hub and of its HTTP library
        if not download:
            looked.append("the Hub's cache")
            raise FileNotFoundError(
                f"no weights for {name} on this machine; looked in "
                f"{', then in '.join(looked)}. A file never starts a download: give "
                f"--model {name}, or compressai_uqdm.load(model={name!r}), for that"
            ) from error
        looked.append(f"the Hub's {HUB_REPOSITORY}, checkpoints/{name} ({error})")
        raise FileNotFoundError(
            f"no weights for {name}; looked in {', then in '.join(looked)}. Connect to "
            f"the network, or set {LOCAL_ZOO} to a folder that holds "
            f"{name}/{FILES[0]} and {name}/{FILES[1]}"
        ) from error
    finally:
        if shown:
            enable_progress_bars()
    if digest is not None:
        _check_digest(name, paths[1], digest)
    return paths[1].parent


def is_repository(name: str) -> bool:
    """Whether a repository of the Hub may have that name: ``owner/name``."""
    try:
        validate_repo_id(name)
    except ValueError:
        return False
    return name.count("/") == 1


def find_in_repository(repository: str, file: str) -> Path:
    """A file of a repository of the Hub, or of its cache where that cannot be reached.

    Raises:
        FileNotFoundError: there is none, or it cannot be fetched.
    """
    try:
        return _download(repository, [file])[0]
    except Exception as error:  # those of huggingface_hub and of its HTTP library
        raise FileNotFoundError(
            f"no model in the Hub's {repository}, where {file} was looked for ({error}). "
            "Check the name, and connect to the network; private repositories need hf auth "
            "login"
        ) from error


def _find_in_cache(repository: str, files: Sequence[str]) -> list[Path]:
    """Files of the Hub that were fetched before.

    ``hf_hub_download(..., local_files_only=True)`` may send requests of its own.

    Raises:
        FileNotFoundError: one of them was not.
    """
    found = [huggingface_hub.try_to_load_from_cache(repository, file) for file in files]
    paths = [Path(path) for path in found if isinstance(path, str)]
    if len(paths) < len(files):
        raise FileNotFoundError(f"{repository} is not in the Hub's cache")
    return paths


def _download(repository: str, files: Sequence[str]) -> list[Path]:
    """Files of the Hub, or of its cache where the Hub cannot be reached."""
    unreachable = None
    try:  # once: hf_hub_download asks six times within half a minute, and logs each
        url = huggingface_hub.hf_hub_url(repository, files[0])
        huggingface_hub.get_hf_file_metadata(url)
    except Exception as error:  # those of the HTTP library too
        unreachable = error
    if unreachable is None:
        return [Path(huggingface_hub.hf_hub_download(repository, f)) for f in files]
    try:
        return _find_in_cache(repository, files)
    except FileNotFoundError:
        raise unreachable from None


def _check_digest(name: str, path: Path, expected: str) -> None:
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
    for name, recipe in RECIPES.items():
        entry: Callable[..., ProgressiveModel[Any]] = functools.partial(load_model, name)
        functools.update_wrapper(entry, load_model)
        compressai_zoo.image_models[name] = entry
        compressai_zoo.models[name] = entry
        compressai_zoo.image.model_architectures[name] = recipe


_register()
