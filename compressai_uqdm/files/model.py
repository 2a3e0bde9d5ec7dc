"""Models as files know them: by a name and a digest."""

import copy
import functools

from pathlib import Path
from typing import cast

import torch

from ..identity import digest
from ..models.uqdm import UQDM
from ..zoo import RECIPES
from .header import Arithmetic

__all__ = ["DEFAULT_MODEL", "NAMES", "Codec", "open_codec"]

DEFAULT_MODEL = "uqdm-nano-ctx"

NAMES = tuple(name for name, recipe in RECIPES.items() if issubclass(recipe.cls, UQDM))
"""Models of the zoo that can code."""


class Codec:
    """A model, with the name and the digest by which files know it.

    Args:
        name: its name.
        net: the model, on its device.
    """

    def __init__(self, name: str, net: UQDM):
        net.update()
        self.name, self.net = name, net.eval()
        self.digest = digest(net.parts())
        self._computing_in: dict[Arithmetic, UQDM] = {}

    def computing_in(self, arithmetic: Arithmetic) -> UQDM:
        """The model, in that arithmetic."""
        if arithmetic not in self._computing_in:
            net = copy.deepcopy(self.net).to(getattr(torch, arithmetic))
            self._computing_in[arithmetic] = net
        return self._computing_in[arithmetic]


@functools.lru_cache(maxsize=2)
def open_codec(model: str, device: str = "cpu") -> Codec:
    """A model by its name in the zoo, or by the path of its checkpoint.

    Raises:
        FileNotFoundError: there are no weights of that name.
        ValueError: they are of no UQDM.
    """
    if model in NAMES:
        net = cast(UQDM, RECIPES[model].load())
    elif Path(model).exists():
        net = UQDM.from_checkpoint(model)
    else:
        raise FileNotFoundError(
            f"no model {model!r}: expected the path of a checkpoint, or one of "
            f"{', '.join(NAMES)}"
        )
    return Codec(Path(model).name, net.to(device))
