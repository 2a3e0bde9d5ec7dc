"""The base class of priors that code with integer tables, built once by ``update()``."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from compressai.entropy_models import EntropyModel
from torch import Tensor

from ..fingerprint import Fingerprint
from ..precision import SinglePrecision

__all__ = ["TabledEntropyModel", "chunks"]

_CHUNK = 1 << 22  # table entries gathered at once, to bound memory; part of the format


def chunks(start: int, end: int, table_size: int) -> Iterator[slice]:
    """Yield slices that cover start..end, each short enough to gather its tables at once.

    Args:
        start: first value.
        end: end of the values.
        table_size: entries of the table of one value.
    """
    step = max(1, _CHUNK // table_size)
    for first in range(start, end, step):
        yield slice(first, min(first + step, end))


class TabledEntropyModel(SinglePrecision, EntropyModel):
    """An entropy model with integer CDF tables in CompressAI's buffers.

    The buffers are ``_quantized_cdf``, ``[rows, n]``; ``_cdf_length``, the used length of
    each row; ``_offset``, the first symbol of each row. They are empty until ``update()``
    builds them, and the state dict holds them.
    """

    _offset: Tensor
    _quantized_cdf: Tensor
    _cdf_length: Tensor

    def __init__(self) -> None:
        super().__init__(likelihood_bound=1e-30)
        # CompressAI's constructors ignore the default device, and take the default type
        self.likelihood_lower_bound.bound = torch.tensor([1e-30], dtype=torch.float32)
        for name in ("_offset", "_quantized_cdf", "_cdf_length"):
            setattr(self, name, torch.empty(0, dtype=torch.int32))
        self._derived: dict[str, Any] = {}  # computed from these buffers on first use

    @property
    def has_tables(self) -> bool:
        """Whether the tables were built."""
        return bool(self._quantized_cdf.numel())

    def fingerprint(self) -> Fingerprint:
        """Yield the tables, see :mod:`.fingerprint`."""
        self._check_cdf_size()
        yield "cdf", self._quantized_cdf.cpu().numpy()
        yield "length", self._cdf_length.cpu().numpy()
        yield "offset", self._offset.cpu().numpy()

    def _set_tables(
        self, cdf: np.ndarray, length: np.ndarray, offset: np.ndarray, device: torch.device
    ) -> None:
        self._quantized_cdf = torch.from_numpy(cdf.astype(np.int32)).to(device)
        self._cdf_length = torch.from_numpy(length.astype(np.int32)).to(device)
        self._offset = torch.from_numpy(offset.astype(np.int32)).to(device)
        self._derived = {}

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any
    ) -> None:
        # buffers take the shapes of the loaded ones, saved before or after update()
        for name, buffer in list(self.named_buffers(recurse=False)):
            loaded = state_dict.get(prefix + name)
            if loaded is not None and loaded.shape != buffer.shape:
                setattr(self, name, buffer.new_empty(loaded.shape))
        self._derived = {}
        super()._load_from_state_dict(state_dict, prefix, *args)
