"""Networks of integer layers: their bounds, their names in files, and their digest."""

import copy

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from torch import Tensor

from ..fingerprint import Fingerprint
from .arithmetic import EXACT, HIDDEN_BITS, WEIGHT_BITS, activate
from .layers import IntegerConv1x1, IntegerConv2d, IntegerLayer

__all__ = ["IntegerNetwork", "SubsetNetwork"]

_KEPT_BELOW = EXACT * 62 // 64  # what training leaves the weights of a sum; bias, rounding
_INT16_MAX = (1 << 15) - 1


class IntegerNetwork(nn.Module):
    """A network whose layers are :class:`.IntegerLayer`.

    In files and digests an array has the path of its layer, with ``_`` for ``.``, and
    ``_bias`` behind it for a bias. They hold integers. ``load_state_dict`` takes these
    arrays, and the float weights of ``state_dict``.
    """

    added_to: ClassVar[Mapping[str, str]] = {}
    """Layers whose sums are added to those of another, by name."""

    file_names: ClassVar[Mapping[str, str]] = {}
    """Arrays that have another name in files and digests."""

    def integer_layers(self) -> Iterator[tuple[str, IntegerLayer]]:
        """Yield the layers by name."""
        for path, module in self.named_modules():
            if isinstance(module, IntegerLayer):
                yield path.replace(".", "_"), module

    def set_trained(self, trained: bool) -> Self:
        """Make all weights parameters, or buffers, as of :class:`.IntegerLayer`."""
        for _, layer in self.integer_layers():
            layer.set_trained(trained)
        return self

    def on_cpu(self) -> Self:
        """Return the network where pictures are coded: itself, or a copy on the CPU."""
        _, layer = next(self.integer_layers())
        tensor = layer.bias if layer.weight is None else layer.weight
        return self if tensor.device.type == "cpu" else copy.deepcopy(self).cpu()

    # ---- bounds ----

    @torch.no_grad()
    def check(self) -> None:
        """Check the weights.

        Raises:
            ValueError: a weight is so large that a sum could be rounded, or that 16 bits
                do not hold it.
        """
        for name, layers in self._sums().items():
            terms = []
            for layer in layers:
                if layer.bias is not None:
                    terms.append(layer.integer_bias().double().abs())
                if layer.weight is not None:
                    weight = layer.integer_weight().double().abs()
                    terms.append(_per_output(layer, weight) * layer.numbers.input_max)
                    if weight.max() > _INT16_MAX:
                        raise ValueError(
                            f"weights {name!r} are too large: one is {weight.max():.0f}, "
                            f"and must be at most {_INT16_MAX}"
                        )
            largest = _total(terms).max()
            if not largest < EXACT:  # nor is it a number otherwise
                raise ValueError(
                    f"weights {name!r} are too large: a sum may reach {largest:.0f}, and "
                    "must stay below 2^24"
                )

    @torch.no_grad()
    def keep_sums_small(self) -> None:
        """Shrink weights whose sums could come near 2^24."""
        for layers in self._sums().values():
            weighted = [layer for layer in layers if layer.weight is not None]
            if not weighted:
                continue
            total = _total(
                [
                    _per_output(layer, layer.weight.abs())
                    * (layer.numbers.input_max << layer.numbers.weight_bits)
                    for layer in weighted
                ]
            )
            shrink = (_KEPT_BELOW / total).clamp(max=1)
            for layer in weighted:
                factor = shrink[..., : layer.weight.shape[bool(layer.subsets)]]
                inputs = layer.weight.dim() - factor.dim()
                layer.weight.mul_(factor.reshape(*factor.shape, *[1] * inputs))

    def _sums(self) -> dict[str, list[IntegerLayer]]:
        """Return the layers, those together that are added, by the name of the first."""
        found: dict[str, list[IntegerLayer]] = {}
        for name, layer in self.integer_layers():
            found.setdefault(self.added_to.get(name, name), []).append(layer)
        return found

    # ---- files and digests ----

    def arrays(self) -> dict[str, tuple[str, IntegerLayer]]:
        """Return the path in the state dict and the layer of every array of a file."""
        found = {}
        for path, layer in self.named_modules():
            if not isinstance(layer, IntegerLayer):
                continue
            name = path.replace(".", "_")
            for part, file_name in (("weight", name), ("bias", f"{name}_bias")):
                if getattr(layer, part) is not None:
                    key = self.file_names.get(file_name, file_name)
                    found[key] = f"{path}.{part}", layer
        return found

    @torch.no_grad()
    def integer_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of a file: weights in int16, biases in int32."""
        found = {}
        for name, (path, layer) in self.arrays().items():
            is_weight = path.endswith(".weight")
            values = layer.integer_weight() if is_weight else layer.integer_bias()
            found[name] = values.cpu().numpy().astype(np.int16 if is_weight else np.int32)
        return found

    def fingerprint(self) -> Fingerprint:
        """Yield the arrays that a bitstream depends on."""
        yield from self.integer_arrays().items()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        for name, (path, layer) in self.arrays().items():
            value = state_dict.pop(prefix + name, None)
            if value is None:
                continue
            if not value.is_floating_point():
                is_weight = path.endswith(".weight")
                offset = 0 if is_weight else layer.rounding_offset
                bits = layer.numbers.weight_bits if is_weight else layer.numbers.sum_bits
                value = ((value.double() - offset) * 2.0**-bits).float()
            state_dict[prefix + path] = value
        super()._load_from_state_dict(state_dict, prefix, *args)


class SubsetNetwork(IntegerNetwork):
    r"""A network with weights of its own for each subset of values.

    .. code-block:: none

        planes ──► conv ──► + ReLU ──► 1x1 ReLU ──► 1x1 ──► + location, scale
                    └─────────── linear ────────────────────┘

    A subclass makes ``conv``, whose last output is the linear path, and may add more to
    the sums of the first layer. The last 1x1 layer can be adapted to an image.

    Args:
        subsets: their number.
        hidden: channels of the two hidden layers.
        rounded_to: as of :class:`.IntegerLayer`, of the hidden layers.
    """

    conv: IntegerConv2d

    def __init__(self, subsets: int, hidden: int, rounded_to: int | None):
        super().__init__()
        self.mix = IntegerConv1x1(hidden, hidden, subsets=subsets, rounded_to=rounded_to)
        self.head = IntegerConv1x1(hidden, 2, subsets=subsets)

    def outputs(self, sums: Tensor, linear: Tensor, subset: int) -> tuple[Tensor, Tensor]:
        """Return the last hidden activations and the outputs.

        Args:
            sums: of the first layer, ``[B, n, h, w]``.
            linear: of the linear path, ``[B, h, w]``.
            subset: its number.

        Returns:
            integers, float32, ``[B, n, h, w]``; and integers with 15 fractional bits for
            location and log scale, float64, ``[B, 2, h, w]``.
        """
        conv_bits = self.conv.numbers.sum_bits
        shift = conv_bits - HIDDEN_BITS
        hidden = activate(self.mix(activate(sums, shift), subset), WEIGHT_BITS)
        location, scale = self.head(hidden, subset).double().unbind(1)
        location = location + linear.double() * 2.0 ** (
            self.head.numbers.sum_bits - conv_bits
        )
        return hidden, torch.stack([location, scale], 1)


def _per_output(layer: IntegerLayer, weight: Tensor) -> Tensor:
    """Return the sum of the weights of every output, ``[out]`` or ``[subsets, out]``."""
    return weight.flatten(1 + bool(layer.subsets)).sum(-1)


def _total(terms: Sequence[Tensor]) -> Tensor:
    """Add the sums of layers, of which some have fewer outputs."""
    n = max(term.shape[-1] for term in terms)
    return torch.stack([F.pad(term, (0, n - term.shape[-1])) for term in terms]).sum(0)
