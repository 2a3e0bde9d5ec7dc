"""Models as files know them: by a name and a digest."""

import copy
import functools

from pathlib import Path
from typing import Any, cast

import torch

from ..errors import DamagedFileError
from ..families.dct.model import CosineUQDM
from ..families.registry import open_checkpoint
from ..families.uqdm.model import UQDM
from ..fingerprint import digest
from ..models.base import ProgressiveModel
from ..models.checkpoint import SAVED, loading
from ..zoo import RECIPES, contexts_hint, find_in_repository, is_repository
from .header import Arithmetic, Header

__all__ = ["DEFAULT_MODEL", "NAMES", "Codec", "codec_of", "open_codec"]

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
        self.digest = digest(net.fingerprint())
        self.arithmetics = cast(tuple[Arithmetic, ...], net.arithmetics)
        self._computing_in: dict[Arithmetic, ProgressiveModel[Any]] = {"integer": net}

    @loading()
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


def codec_of(
    header: Header, model: str | Codec | None = None, device: str = "cpu"
) -> Codec:
    """Open the model that decodes a file.

    A file must not make a program fetch or open anything. So the name in its header is
    followed only where it is that of a model in the package, or of a published one whose
    digest is known and whose weights are on this machine already. Every other model has
    to be named by the user.

    Args:
        header: the file's.
        model: a model that the user named, as of :func:`open_codec`, or an open one.
        device: device of the network.

    Raises:
        FileNotFoundError: the user must name the model, or its weights are missing.
        DamagedFileError: the file was encoded with other weights, more stages or another
            arithmetic than the model has.
    """
    if isinstance(model, Codec):
        codec = model
    elif model is not None:
        codec = open_codec(model, device)
    else:
        codec = open_codec(_trusted_name(header.model), device, download=False)
    if codec.digest != header.digest:
        raise DamagedFileError(
            f"the file was encoded with other weights or tables of {header.model}: "
            f"their digest is {header.digest.hex()}, here it is {codec.digest.hex()}. "
            "Give those (--model, or compressai_uqdm.load(model=...))"
        )
    if header.arithmetic not in codec.arithmetics:
        raise DamagedFileError(
            f"the file was encoded in {header.arithmetic} arithmetic, and {codec.name} "
            f"computes in {' or '.join(codec.arithmetics)}"
        )
    if len(header.lengths) > codec.net.n_stages:
        raise DamagedFileError(
            f"the file has {len(header.lengths)} stages, its model {codec.net.n_stages}"
        )
    width, height = header.size
    if header.lengths[0] < (least := codec.net.min_bytes((height, width))):
        raise DamagedFileError(
            f"the header is damaged: stage 1 of a picture of {width} x {height} pixels "
            f"takes {least} bytes or more, not {header.lengths[0]}"
        )
    return codec


def _trusted_name(name: str) -> str:
    """The name of a model in a header, where a file may choose that model.

    Raises:
        FileNotFoundError: it may not.
    """
    if name not in NAMES:
        hub = f"; {name} may be on the Hub" * is_repository(name)
        raise FileNotFoundError(
            f"the file was encoded with a model {name!r} that is not in the zoo: give its "
            f"checkpoint or repository (--model, or compressai_uqdm.load(model=...)){hub}"
        )
    if not RECIPES[name].is_verified:
        raise FileNotFoundError(
            f"the file was encoded with {name}, whose weights are not in the package and "
            f"have no known digest: if you trust them, give --model {name}, or "
            f'compressai_uqdm.load(model="{name}")'
        )
    return name


def open_codec(model: str, device: str = "cpu", download: bool = True) -> Codec:
    """Open a model by its name in the zoo, the path of its checkpoint, or its repository.

    Args:
        model: one of these; a repository of the Hugging Face Hub is that of a model that
            was pushed to it, such as ``someone/some-uqdm``.
        device: device of the network.
        download: whether weights may be fetched that are not on this machine.

    Raises:
        FileNotFoundError: there are no weights of that name.
        ValueError: they are of no UQDM.
    """
    if model in NAMES and RECIPES[model].is_packaged:
        download = False  # the same model whoever asks
    return _open(model, device, download)


@functools.lru_cache(maxsize=2)
@loading()
def _open(model: str, device: str, download: bool) -> Codec:
    if model in NAMES:
        net: Any = RECIPES[model].load(download=download)
    elif Path(model).exists():
        net, model = _from_file(Path(model)), Path(model).name
    elif is_repository(model):
        net = _from_file(find_in_repository(model, SAVED))
    else:
        raise FileNotFoundError(
            f"no model {model!r}: expected the path of a checkpoint, a repository of the "
            f"Hub as owner/name, or one of {', '.join(NAMES)}{contexts_hint(model)}"
        )
    return Codec(model, net.to(device))
