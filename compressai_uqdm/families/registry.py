"""Models of every family, from files that say which they are of."""

from pathlib import Path
from typing import Any

from ..models.base import ProgressiveModel
from ..models.checkpoint import Weights, family_of, read_checkpoint, state_dict_of
from .dct.model import CosineUQDM
from .uqdm.model import UQDM
from .uqdm.vdm import VDM

__all__ = ["open_checkpoint"]

FAMILIES: dict[str, type[ProgressiveModel[Any]]] = {
    cls.__name__: cls for cls in (CosineUQDM, UQDM, VDM)
}


def open_checkpoint(path: str | Path, weights: Weights = "ema") -> ProgressiveModel[Any]:
    """A model of the class that the checkpoint's configuration is of, ready to code.

    Args:
        path: as of :meth:`.ProgressiveModel.from_checkpoint`, of any family.
        weights: likewise.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint.
    """
    checkpoint = read_checkpoint(Path(path))
    try:
        family = family_of(state_dict_of(checkpoint, weights))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return FAMILIES[family].from_checkpoint(path, weights)
