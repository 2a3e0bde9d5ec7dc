r"""The prior of DCT coefficients: a context model over subsets of the coefficients.

Every block of 8x8 pixels has a hidden state. A subset (one subband of one colour, at the
blocks of one parity of a checkerboard) takes the location and scale of its logistic
distribution from the state of its block. Once the subset is coded, it updates the states
around it. 48 such steps make a stage.

.. code-block:: none

    state of a block ──► ReLU ─► 1x1 ─► ReLU ─► 1x1 ─► location, log scale of the subset
          ▲                                                 │
          └──── 3x3 ◄─── residual, magnitude, coded or not ◄┴─ coded

All arithmetic is in integers that single-precision floats hold exactly. Rounding passes
gradients through, so training runs the same arithmetic.
"""

import math

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn as nn

from compressai.ops import LowerBound
from torch import Tensor

from ...bitstream import parameter_updates
from ...bitstream.symbols import SymbolCoder
from ...entropy_models.logistic import log_mass
from ...entropy_models.uniform_noise import log_span
from ...fingerprint import Fingerprint
from ...precision import SinglePrecision
from ...quantization.nested import POINTS, NestedGrid
from ...settings import exact_floats
from .block_order import OPPOSITE_PARITY, BlockOrder
from .coefficient_coding import CELL_MAX, StageCoding
from .coefficient_posterior import CoefficientPosterior
from .coefficient_scales import LOG_SCALES, SCALE_SPAN, TAILS, dead_zone_index, scale_table
from .context_network import (
    AT_ONCE,
    SUM_BITS,
    WEIGHT_BITS,
    SubbandContextLayer,
    context_features,
    rounded,
)
from .transform import N_COEFFICIENTS, N_COLOURS, SUBBANDS

__all__ = ["CodingStep", "CoefficientPrior", "SubsetCallback"]

FACTOR_BITS = 8
_LAST, _LOWEST = len(LOG_SCALES) - 1, float(LOG_SCALES[0])
_PER_INDEX = (float(LOG_SCALES[-1]) - _LOWEST) / _LAST


class CodingStep(NamedTuple):
    """One of the 48 steps of a stage."""

    parity: int
    channels: slice
    layer: SubbandContextLayer


class SubsetCallback(Protocol):
    """Called with the entropy parameters of a subset; codes it."""

    def __call__(
        self, parity: int, channels: slice, location: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Code a subset.

        Args:
            parity: of its blocks.
            channels: its coefficients.
            location: of the prior, in 1/32 step, ``[N, n]``.
            index: scale index, ``[N, n]``.

        Returns:
            middles of the cells in 1/32 step, and which coefficients are coded.
        """


class CoefficientPrior(SinglePrecision, nn.Module):
    """Prior of the coefficients of one stage, or of several.

    The quantization step is free: scales are in units of it. The network computes in units
    of the step that it is trained for.

    Args:
        trained_step: quantization step that the network is trained for, in levels.
        hidden: channels of the hidden state of a block.

    Attributes:
        coefficient_std: standard deviations of coefficients of photographs, ``[192]``.
        dc_predictor: weights of the means of the four blocks around one, ``[3, 4]``.
        quantiles: span of the scale table, in the logarithm. It is fixed, but CompressAI's
            trainer needs a parameter of this name.
    """

    coefficient_std: Tensor

    def __init__(self, trained_step: int, hidden: int):
        super().__init__()
        self.trained_step, self.hidden = trained_step, hidden
        self.quantiles = nn.Parameter(log_span(*SCALE_SPAN))
        std = torch.full((N_COEFFICIENTS,), 100.0, dtype=torch.float32)
        self.register_buffer("coefficient_std", std)
        shares = torch.full((N_COLOURS, len(OPPOSITE_PARITY)), 0.25, dtype=torch.float32)
        self.dc_predictor = nn.Parameter(shares)
        self.likelihood_lower_bound = LowerBound(1e-30)
        # in the process's default type otherwise
        self.likelihood_lower_bound.bound = torch.tensor([1e-30], dtype=torch.float32)
        self.layers = nn.ModuleList(
            SubbandContextLayer(channels.stop - channels.start, hidden)
            for channels in SUBBANDS
            for _ in (0, 1)
        )
        # No subset follows that the last ones could inform, and DistributedDataParallel
        # waits for a gradient of every parameter that may have one.
        last = ("same_parity",), ("same_parity", "opposite_parity")
        for layer, names in zip(self.layers[-2:], last):
            for name in names:
                layer.get_parameter(name).requires_grad_(False)
                layer.get_parameter(f"{name}_bias").requires_grad_(False)

    def steps(self) -> list[CodingStep]:
        """Return the steps of a stage, in coding order."""
        places = [(parity, channels) for channels in SUBBANDS for parity in (0, 1)]
        return [CodingStep(p, c, n) for (p, c), n in zip(places, self.layers)]  # type: ignore[arg-type]

    # ---- weights ----

    def check(self) -> None:
        """Check the weights.

        Raises:
            ValueError: a weight is so large that a sum could be rounded.
        """
        for _, _, layer in self.steps():
            layer.check()

    def loss(self) -> Tensor:
        """Return 0: the span of the scale table is fixed."""
        return 0 * self.quantiles.sum()

    def integer_arrays(self) -> Fingerprint:
        """Yield the weights as integers, those of all layers in one array.

        A file of 13 arrays is read faster than one of 482. :meth:`load_state_dict` takes
        these arrays too.
        """
        yield "coefficient_std", self.coefficient_std.cpu().numpy()
        yield "dc_predictor", self.dc_predictor.detach().cpu().numpy()
        for name, _ in self.steps()[0].layer.named_parameters():
            kind = np.int32 if name.endswith("bias") else np.int16
            fixed = [layer.fixed(name).detach().flatten() for _, _, layer in self.steps()]
            yield f"layers.{name}", torch.cat(fixed).cpu().numpy().astype(kind)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any
    ) -> None:
        for name, _ in self.steps()[0].layer.named_parameters():
            weights = state_dict.pop(f"{prefix}layers.{name}", None)
            if weights is None:
                continue
            shapes = [getattr(layer, name).shape for _, _, layer in self.steps()]
            sizes = [shape.numel() for shape in shapes]
            if weights.shape != (sum(sizes),):
                raise RuntimeError(
                    f"expected {sum(sizes)} values of {prefix}layers.{name}, got "
                    f"{list(weights.shape)}"
                )
            for i, (part, shape) in enumerate(zip(weights.split(sizes), shapes)):
                state_dict[f"{prefix}layers.{i}.{name}"] = part.view(shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def fingerprint(self) -> Fingerprint:
        """Yield the arrays that a bitstream of any step depends on."""
        yield from scale_table().fingerprint()
        yield "trained_step", np.array(self.trained_step)
        yield "parameter_updates", parameter_updates.tables().astype(np.int64)
        predictor = self.dc_predictor.detach().cpu().numpy()
        yield "dc_predictor", np.rint(predictor * 2**WEIGHT_BITS)
        for i, (_, _, layer) in enumerate(self.steps()):
            for name, _ in layer.named_parameters():
                # integers have no -0.0, whose bytes differ
                yield f"{i}.{name}", layer.fixed(name).detach().cpu().numpy() + 0.0

    def stage_fingerprint(self, step: int, dead_zone: float) -> Fingerprint:
        """Yield what a bitstream of one stage depends on beside :meth:`fingerprint`."""
        yield "dead_zone_index", np.array(dead_zone_index(dead_zone))
        for name, factor in zip(("location", "index", "base"), self._factors(step)):
            yield name, factor.cpu().numpy()

    # ---- the context model ----

    def run_subsets(self, step: int, order: BlockOrder, code: SubsetCallback) -> None:
        """Go through the subsets of a stage.

        Args:
            step: the quantization step, in levels.
            order: the blocks.
            code: codes each subset.
        """
        device = self.coefficient_std.device
        # states are exact: they add up to less than 48 times 2^24
        dtype = torch.float64 if torch.is_grad_enabled() else torch.int32
        numbers = [rows.stop - rows.start for rows in order.parities]
        factors = [f.to(device) for f in self._factors(step)]
        states: list[Tensor] = []
        around: dict[str, list[Tensor]] = {}
        means = torch.empty(0, device=device)

        def zeros(n: int) -> Tensor:
            return torch.zeros(n, self.hidden, dtype=dtype, device=device)

        def propagate(parity: int, layer: SubbandContextLayer, features: Tensor) -> None:
            for name, to in (("same_parity", parity), ("opposite_parity", 1 - parity)):
                places, state = around[name][parity], states[to]
                for first in range(0, len(state), AT_ONCE):
                    # slices, for what split returns may not be changed under autograd
                    some = slice(first, first + AT_ONCE)
                    sums = layer.propagate_context(name, features, places[some])
                    state[some].add_(sums.to(dtype))

        for parity, channels, layer in self.steps():
            if states:
                state = states[parity]
            else:  # all zero, so all blocks have one prior
                state = zeros(numbers[parity] if torch.is_grad_enabled() else 1)
            found = self._entropy_parameters(state, channels, layer, factors)
            location, index = (x.expand(numbers[parity], -1) for x in found)
            if channels.start < N_COLOURS and parity == 1:
                # the mean of a block is near that of the four around it
                weights = rounded(self.dc_predictor[channels.start], 2.0**WEIGHT_BITS)
                predicted = rounded(means @ weights.double() / 2**WEIGHT_BITS)
                location = location + predicted[:, None]
            values, coded = code(parity, channels, location, index)
            if not states:  # not earlier: damaged bitstreams must not take memory
                states = [zeros(n) for n in numbers]
                around = {
                    name: [places.to(device) for places in getattr(order, name)]
                    for name in ("same_parity", "opposite_parity")
                }
            with torch.no_grad():
                if channels.start < N_COLOURS and parity == 0:
                    residual = (values - location) * coded
                    places = around["opposite_parity"][0]
                    means = self._means_around(location, residual, index, places)
                features = context_features(
                    location, values, coded, step, self.trained_step
                )
            del found, location, index, values, coded  # a step's tensors take memory
            propagate(parity, layer, features)
            del features

    def _entropy_parameters(
        self,
        state: Tensor,
        channels: slice,
        layer: SubbandContextLayer,
        factors: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return locations and scale indexes, ``[N, n]``, from states of blocks."""
        location_factor, index_factor, base = factors
        scale = 2.0 ** -(SUM_BITS + FACTOR_BITS)
        n = channels.stop - channels.start

        def of(state: Tensor) -> tuple[Tensor, Tensor]:
            out = layer.entropy_parameters(state).double()
            index = (out[:, n:] * index_factor + base[channels]) * scale
            location = rounded(out[:, :n] * location_factor[channels], scale)
            return location, rounded(index.clamp(-0.25, _LAST + 0.25))

        locations, indexes = zip(*map(of, state.split(AT_ONCE)))
        return torch.cat(locations), torch.cat(indexes)

    def _factors(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return factors from outputs to locations and indexes, float64 integers."""
        std = self.coefficient_std.double()
        points = (0.3 * std).clamp(min=0.1 * self.trained_step) * (POINTS / step)
        base = (torch.log(0.4 * std / step) - _LOWEST) / _PER_INDEX
        one = 1 << FACTOR_BITS
        return (
            (points * one).round(),
            std.new_tensor(round(one / _PER_INDEX)),
            (base * (one << SUM_BITS)).round(),
        )

    @torch.no_grad()
    @exact_floats()
    def codes_first(self, step: int, dead_zone: float) -> bool:
        """Return whether a first stage codes the first coefficient of half of the blocks.

        Args:
            step: the quantization step, in levels.
            dead_zone: as of :meth:`code`.
        """
        _, channels, layer = self.steps()[0]
        device = self.coefficient_std.device
        factors = [f.to(device) for f in self._factors(step)]
        state = torch.zeros(1, self.hidden, dtype=torch.int32, device=device)
        _, index = self._entropy_parameters(state, channels, layer, factors)
        return bool(index[0, 0] >= dead_zone_index(dead_zone))

    def _means_around(
        self, location: Tensor, residual: Tensor, index: Tensor, around: Tensor
    ) -> Tensor:
        """Return means of the four blocks around each of the other parity, ``[N, 4]``."""
        shrink = (256 * _shrinkage(index.device)[index.long()]).round()
        mean = location + (shrink * residual / 256).round()
        padded = torch.cat([mean[:, 0], mean.new_zeros(1)])
        missing = around == len(mean)
        for a, b in ((0, 3), (3, 0), (1, 2), (2, 1)):  # across an edge, the one opposite
            around = around.clone()
            around[:, a] = torch.where(missing[:, a], around[:, b], around[:, a])
        return padded[around]

    # ---- coding and training ----

    @torch.no_grad()
    @exact_floats()
    def code(
        self,
        coder: SymbolCoder,
        order: BlockOrder,
        step: int,
        grid: Callable[[int], NestedGrid],
        dead_zone: float,
        before: CoefficientPosterior | None,
        finest: Tensor | None,
    ) -> CoefficientPosterior:
        """Code a stage.

        Args:
            coder: encoder, decoder or rate estimator.
            order: the blocks.
            step: the quantization step, in levels.
            grid: returns the quantization cells of the first n coefficients of each block.
            dead_zone: coefficients whose predicted scale is below so many steps are not
                coded.
            before: the posterior of the stages before.
            finest: cells of the finest grid that hold the coefficients, int16,
                ``[B h w, 192]``, or None to decode.
        """
        coding = StageCoding(coder, order, grid, dead_zone, before, finest)
        self.run_subsets(step, order, coding)
        return coding.posterior(self.coefficient_std)

    @exact_floats()
    def training_likelihoods(
        self,
        order: BlockOrder,
        grid: NestedGrid,
        dead_zone: float,
        before: CoefficientPosterior | None,
        cells: Tensor,
    ) -> tuple[Tensor, CoefficientPosterior]:
        """Return likelihoods of the coefficients of a stage, with gradients.

        They are of all coefficients: uncoded ones are trained too, otherwise the dead zone
        is never learned.

        Args:
            order: the blocks.
            grid: the stage's quantization cells.
            dead_zone: as of :meth:`code`.
            before: the posterior of the stages before.
            cells: those that hold the coefficients, int64, ``[B h w, 192]``.

        Returns:
            likelihoods, float64, of that shape, and the posterior.
        """
        values = POINTS * cells + grid.middle
        if before is not None:
            # lower edge of the decoded cell, in 1/32 step
            starts = POINTS * grid.first_in(before.cells) - POINTS // 2 + grid.middle
        found: dict[str, list[list[Tensor]]] = {}

        def code(
            parity: int, channels: slice, location: Tensor, index: Tensor
        ) -> tuple[Tensor, Tensor]:
            here = order.parities[parity], channels
            v, half = values[here].double(), POINTS / 2
            s = torch.exp(_LOWEST + index * _PER_INDEX) * (POINTS * 3**0.5 / math.pi)
            p = log_mass((v - half - location) / s, (v + half - location) / s)
            coded = index >= dead_zone_index(dead_zone)
            if before is not None:
                start = starts[here].double()
                end = start + POINTS * grid.ratio
                inside = location.clamp(start - TAILS * s, end + TAILS * s)
                refinement = log_mass(
                    (v - half - inside) / s, (v + half - inside) / s
                ) - log_mass((start - inside) / s, (end - inside) / s)
                p = torch.where(before.coded[here], refinement, p)
                coded = coded | before.coded[here]
            kept = {"p": p, "coded": coded, "location": location, "index": index}
            for name, value in kept.items():
                found.setdefault(name, [[], []])[parity].append(value)
            return v, coded

        self.run_subsets(grid.width, order, code)
        # subsets come in the order of their channels
        p, coded, location, index = (
            torch.cat([torch.cat(subsets, 1) for subsets in found[name]])
            for name in ("p", "coded", "location", "index")
        )
        offset = (location.detach() - values).clamp(-CELL_MAX, CELL_MAX)
        index = index.detach().clamp(0, _LAST).byte()
        posterior = CoefficientPosterior(
            cells.short(), coded, offset.short(), index, order, grid
        )
        return self.likelihood_lower_bound(p.exp()), posterior


def _shrinkage(device: torch.device) -> Tensor:
    """Return the signal's share of a residual's variance, by scale index."""
    scale = np.exp(LOG_SCALES).astype(np.float32).astype(np.float64)
    return torch.from_numpy(scale**2 / (scale**2 + 1 / 12)).to(device)
