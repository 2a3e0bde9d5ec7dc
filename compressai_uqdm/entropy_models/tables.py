"""Priors whose probabilities are integer tables, built once by ``update()``."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from compressai.entropy_models import EntropyModel
from torch import Tensor

from ..fingerprint import Fingerprint
from ..precision import SinglePrecision

__all__ = ["TabledEntropyModel", "chunks"]

_CHUNK = 1 << 22  # table entries gathered at once, to bound memory; of the format


def chunks(start: int, end: int, table_size: int) -> Iterator[slice]:
    """Yield slices of start..end, each of as many tables as may be gathered at once."""
    step = max(1, _CHUNK // table_size)
    for first in range(start, end, step):
        yield slice(first, min(first + step, end))


class TabledEntropyModel(SinglePrecision, EntropyModel):
    """An entropy model whose tables are rows of one integer CDF each.

    In CompressAI's buffers: ``_quantized_cdf``, ``[rows, n]``; ``_cdf_length``, the part
    of each row that counts; ``_offset``, the first symbol of each. They are empty until
    ``update()``, and travel in the state dict.
    """

    _offset: Tensor
    _quantized_cdf: Tensor
    _cdf_length: Tensor

    def __init__(self) -> None:
        super().__init__(likelihood_bound=1e-30)
        # CompressAI's have the default type and device of PyTorch, not of the process
        self.likelihood_lower_bound.bound = torch.tensor([1e-30], dtype=torch.float32)
        for name in ("_offset", "_quantized_cdf", "_cdf_length"):
            setattr(self, name, torch.empty(0, dtype=torch.int32))
        self._derived: dict[str, Any] = {}  # from these buffers, made on first use

    @property
    def has_tables(self) -> bool:
        """Whether :meth:`update` was called."""
        return bool(self._quantized_cdf.numel())

    def fingerprint(self) -> Fingerprint:
        """The tables, for the identity of a model in files."""
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
        # buffers get the shapes of what is loaded, which may be from before or after
        # update()
        for name, buffer in list(self.named_buffers(recurse=False)):
            loaded = state_dict.get(prefix + name)
            if loaded is not None and loaded.shape != buffer.shape:
                setattr(self, name, buffer.new_empty(loaded.shape))
        self._derived = {}
        super()._load_from_state_dict(state_dict, prefix, *args)
