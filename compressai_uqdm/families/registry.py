"""All families of models, and opening a checkpoint of any family."""

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
"""Model classes by name. A new family is registered here."""


def open_checkpoint(path: str | Path, weights: Weights = "ema") -> ProgressiveModel[Any]:
    """Open a checkpoint of any family, and return its model, ready to code.

    Args:
        path: a file or folder, see :meth:`.ProgressiveModel.from_checkpoint`.
        weights: which weights, see :meth:`.ProgressiveModel.from_state_dict`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a checkpoint.
    """
    checkpoint = read_checkpoint(Path(path))
    try:
        family = family_of(state_dict_of(checkpoint, weights))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return FAMILIES[family].from_checkpoint(path, weights)
