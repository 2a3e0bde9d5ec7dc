"""Models as files know them: by a name and a digest."""

import copy
import functools

from pathlib import Path
from typing import Any, cast

import torch

from ..identity import digest
from ..models.base import ProgressiveModel
from ..models.checkpoint import read_checkpoint
from ..models.cosine import CosineConfig, CosineUQDM
from ..models.uqdm import UQDM
from ..zoo import RECIPES
from .header import Arithmetic

__all__ = ["DEFAULT_MODEL", "NAMES", "Codec", "open_codec"]

DEFAULT_MODEL = "uqdm-photo"

NAMES = tuple(name for name, recipe in RECIPES.items() if recipe.cls.arithmetics)
"""Models of the zoo that can code."""


class Codec:
    """A model, with the name and the digest by which files know it.

    Args:
        name: its name.
        net: the model, on its device.

    Attributes:
        arithmetics: those it can compute in, first that of files unless they say
            otherwise.
    """

    def __init__(self, name: str, net: UQDM | CosineUQDM):
        net.update()
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
                f"{arithmetic}"
            )
        if arithmetic not in self._computing_in:
            net = copy.deepcopy(self.net).to(getattr(torch, arithmetic))
            self._computing_in[arithmetic] = net
        return self._computing_in[arithmetic]


def _class_of(path: Path) -> type[UQDM] | type[CosineUQDM]:
    """The class of the model in a checkpoint, which its configuration tells."""
    if path.is_dir():
        return UQDM
    config = read_checkpoint(path).get("config_bytes", torch.empty(0))
    return CosineUQDM if CosineConfig.is_in(config) else UQDM


@functools.lru_cache(maxsize=2)
def open_codec(model: str, device: str = "cpu") -> Codec:
    """A model by its name in the zoo, or by the path of its checkpoint.

    Raises:
        FileNotFoundError: there are no weights of that name.
        ValueError: they are of no UQDM.
    """
    if model in NAMES:
        net: Any = RECIPES[model].load()
    elif Path(model).exists():
        net = _class_of(Path(model)).from_checkpoint(model)
    else:
        raise FileNotFoundError(
            f"no model {model!r}: expected the path of a checkpoint, or one of "
            f"{', '.join(NAMES)}"
        )
    return Codec(Path(model).name, net.to(device))
