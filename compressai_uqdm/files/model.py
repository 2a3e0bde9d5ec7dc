"""Models as files know them: by a name and a digest."""

import copy
import functools

from pathlib import Path
from typing import Any, cast

import torch

from ..identity import digest
from ..models.base import ProgressiveModel
from ..models.checkpoint import SAVED
from ..models.cosine import CosineUQDM
from ..models.families import open_checkpoint
from ..models.uqdm import UQDM
from ..zoo import RECIPES, find_in_repository, is_repository
from .header import Arithmetic

__all__ = ["DEFAULT_MODEL", "NAMES", "Codec", "open_codec"]

DEFAULT_MODEL = "uqdm-photo"

NAMES = tuple(name for name, recipe in RECIPES.items() if recipe.cls.arithmetics)
"""Models of the zoo that can code."""


class Codec:
    """A model, with the name and the digest by which files know it.

    Args:
        name: its name.
        net: the model, on its device, ready to code.

    Attributes:
        arithmetics: those it can compute in, first that of files unless they say
            otherwise.
    """

    def __init__(self, name: str, net: UQDM | CosineUQDM):
        self.name, self.net = name, net.eval()
        self.digest = digest(net.parts())
        self.arithmetics = cast(tuple[Arithmetic, ...], net.arithmetics)
        self._computing_in: dict[Arithmetic, ProgressiveModel[Any]] = {"integer": net}

    def computing_in(self, arithmetic: Arithmetic) -> ProgressiveModel[Any]:
        """The model, in that arithmetic.

        Raises:
            ValueError: it has no such arithmetic.
        """
        if arithmetic not in self.arithmetics:
            raise ValueError(
                f"{self.name} computes in {' or '.join(self.arithmetics)}, not in "
                f"{arithmetic}: leave the arithmetic out"
            )
        if arithmetic not in self._computing_in:
            net = copy.deepcopy(self.net).to(getattr(torch, arithmetic))
            self._computing_in[arithmetic] = net
        return self._computing_in[arithmetic]


def _from_file(path: Path) -> UQDM | CosineUQDM:
    """A model from a checkpoint of any layout.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of no model that can code.
    """
    net = open_checkpoint(path)
    if not isinstance(net, (UQDM, CosineUQDM)):
        raise ValueError(f"{path} is of a {type(net).__name__}, which cannot code pictures")
    return net


@functools.lru_cache(maxsize=2)
def open_codec(model: str, device: str = "cpu") -> Codec:
    """A model by its name in the zoo, the path of its checkpoint, or its repository.

    Args:
        model: one of these; a repository of the Hugging Face Hub is that of a model that
            was pushed to it, such as ``someone/some-uqdm``.
        device: where it is to be.

    Raises:
        FileNotFoundError: there are no weights of that name.
        ValueError: they are of no UQDM.
    """
    if model in NAMES:
        net: Any = RECIPES[model].load()
    elif Path(model).exists():
        net, model = _from_file(Path(model)), Path(model).name
    elif is_repository(model):
        net = _from_file(find_in_repository(model, SAVED))
    else:
        raise FileNotFoundError(
            f"no model {model!r}: expected the path of a checkpoint, a repository of the "
            f"Hub as owner/name, or one of {', '.join(NAMES)}"
        )
    return Codec(model, net.to(device))
