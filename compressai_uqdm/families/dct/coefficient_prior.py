r"""The prior of a stage in the cosine basis: groups of coefficients, one after another.

Every block of 8x8 pixels has a hidden state. A group of coefficients (a band of
frequencies of one colour, at the blocks of one colour of a checkerboard) gets the location
and the scale of its logistic from the state of its block; once coded, it adds to the
states around it. 48 such steps make a stage.

.. code-block:: none

    state of a block ──► ReLU ─► 1x1 ─► ReLU ─► 1x1 ─► location, log scale of a group
          ▲                                                 │
          └──── 3x3 ◄─── residual, magnitude, sent or not ◄─┴─ coded

All of it is in integers that single-precision floats hold exactly: weights and activations
are fixed-point numbers, and no sum reaches 2^24. Rounding lets gradients through, so the
same arithmetic is trained.
"""

import functools
import itertools
import math

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn as nn

from torch import Tensor

from ...bitstream import parameter_updates as steps
from ...bitstream.cdf import PRECISION
from ...bitstream.symbols import SymbolCoder
from ...entropy_models.logistic import log_mass
from ...entropy_models.uniform_noise import UniformNoiseConditional, log_span
from ...fingerprint import Fingerprint
from ...quantization.nested import POINTS, NestedGrid
from ...settings import exact_floats
from . import scale_adaptation as scales
from .block_order import CROSS, OWN, BlockOrder
from .interpolation import fill
from .transform import SUBBANDS

__all__ = ["CosineConditional", "CoefficientPosterior"]

SCALE_SPAN = (0.01, 64.0)
"""Span of the scale table, in units of Delta."""

# Fractional bits and bounds of the fixed-point numbers.
WEIGHT_BITS = 8
ACTIVATION_BITS = 4
FEATURE_MAX = 127
HIDDEN_MAX = 1023
SUM_BITS = WEIGHT_BITS + ACTIVATION_BITS
FACTOR_BITS = 8
MEAN_BITS = 4
VARIANCE_UNITS, MAX_VARIANCE = 1 << 20, (1 << 31) - 1
EXACT = 1 << 24
AT_ONCE = 1 << 13  # blocks, to bound memory
CELL_MAX, POINTS_MAX = (1 << 15) - 1, 1 << 30

N_COLOURS = 3
TAILS = 4.0
"""Standard deviations that a location may lie outside of a known cell: farther away, the
tables would have nothing in it."""


class MomentTable:
    """Moments of a value in a cell, by entry and by the location from its middle.

    Args:
        cdf: of the prior, by entry.
        R: half-widths of its tables, by entry.
        scale: of each entry, float64.

    Attributes:
        zero: where in the rows of the CDF the location is, by entry.
        reach: how far the locations of each entry reach.
        starts: where its moments start among those of all.
        unsent: variances of values that are in no cell, by entry.
    """

    def __init__(self, cdf: np.ndarray, R: np.ndarray, scale: np.ndarray):
        self._cdf, self.zero = cdf, ((R + 1) * POINTS).astype(np.int32)
        self.reach = np.ceil(TAILS * POINTS * scale).astype(np.int32) + POINTS // 2
        self.starts = np.cumsum([0, *(2 * self.reach[:-1] + 1)], dtype=np.int64)
        unsent = np.rint(scale**2 * VARIANCE_UNITS)
        self.unsent = unsent.clip(max=MAX_VARIANCE).astype(np.int32)

    @property
    def means(self) -> np.ndarray:
        """From the middle, those of all entries in a row."""
        return self._moments[0]

    @property
    def variances(self) -> np.ndarray:
        """Likewise."""
        return self._moments[1]

    @functools.cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        # only pictures and pixels ask for them, after the last stage that there is
        one = POINTS << MEAN_BITS
        unit, inside = VARIANCE_UNITS / one**2, one**2 / (12 * POINTS**2)  # of a part
        means, variances = [], []
        for cdf, middle, reach in zip(self._cdf, self.zero, self.reach):
            # the cell's 32 parts, at locations from -reach to reach
            first = middle - POINTS // 2 - reach
            edges = first + np.arange(2 * reach + POINTS + 1)
            mass = np.diff(cdf[edges.clip(0, 2 * middle)].astype(np.int64))
            place = np.arange(len(mass))
            # sums over windows are differences of sums, and in integers exact
            total, moment, square = (
                (sums[POINTS:] - sums[:-POINTS])[::-1]
                for sums in (
                    np.append(0, (mass * place**power).cumsum()) for power in range(3)
                )
            )
            # in place of the first of a window, its middle
            centre = 2 * place[: len(total)][::-1] + POINTS - 1
            half = 1 << MEAN_BITS - 1
            mean = (2 * moment - centre * total) * half
            squares = (4 * square - 4 * centre * moment + centre**2 * total) * half**2
            total = np.maximum(total, 1)
            mean = mean / total
            variance = squares / total - mean**2 + inside
            means.append(np.rint(mean).astype(np.int32))
            variances.append(np.rint(variance * unit).astype(np.int32))
        return np.concatenate(means), np.concatenate(variances)


class CoefficientPosterior(NamedTuple):
    """What is known of the coefficients after a stage, matrices being ``[B h w, 192]``."""

    cells: Tensor  # int16; where sent, the cell that holds the coefficient, else any near
    sent: Tensor  # bool
    offsets: Tensor  # int16; of the prior's location from the cell's middle, in its 1/32
    entries: Tensor  # uint8; of the scale table
    board: BlockOrder
    grid: NestedGrid
    table: MomentTable
    missing: Tensor | None  # bool; what a stream did not reach that ends early
    before: "CoefficientPosterior | None"  # a stage earlier, for these

    def moments(self, b: int, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Of the coefficients of some rows of blocks of image b, ``[192, n, w]``.

        Returns:
            their means, in 1/512 of the stage's width, and the variances around these, in
            1/2^20 of its square; int64.
        """
        found = self.moments_of(self.board.rows(b, rows))
        width = self.board.shape[2]
        means, variances = (m.T.reshape(m.shape[1], -1, width) for m in found)
        return means, variances

    def moments_of(self, places: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Those of some rows of the matrices, ``[m, 192]``."""

        def here(matrix: Tensor) -> np.ndarray:
            return matrix.index_select(0, places.to(matrix.device)).cpu().numpy()

        cells, sent, offsets, entries = map(here, self[:4])
        middle = self.grid.map(lambda m: m[places.to(m.device)]).middle.cpu().numpy()
        means = POINTS * cells.astype(np.int64) + middle << MEAN_BITS
        reach = self.table.reach[entries]
        at = self.table.starts[entries] + reach + offsets.clip(-reach, reach)
        means += np.where(sent, self.table.means[at], offsets.astype(np.int64) << MEAN_BITS)
        variances = np.where(sent, self.table.variances[at], self.table.unsent[entries])
        variances = variances.astype(np.int64)
        if self.before is not None and self.missing is not None:
            is_missing = here(self.missing)
            coarser, wider = self.before.moments_of(places)
            means[is_missing] = coarser[is_missing] * self.grid.ratio
            wider = (wider[is_missing] * self.grid.ratio**2).clip(max=MAX_VARIANCE)
            variances[is_missing] = wider
        return means, variances


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return (x * factor).round_()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def rounded(x: Tensor, factor: float = 1.0) -> Tensor:
    """The integers nearest to multiples of x, with the gradient of these multiples."""
    return _Rounded.apply(x, factor)


def _activate(sums: Tensor) -> Tensor:
    """A layer's activations, float32, from its sums: rounded, ReLU, with an upper bound.

    Sums from 2^24 on are beyond the bound, and so they are where a float32 rounds them.
    """
    # whose gradient takes one pass; clamp's takes three
    return nn.functional.hardtanh(rounded(sums.float(), 2.0**-WEIGHT_BITS), 0, HIDDEN_MAX)


@functools.cache
def _magnitudes(device: torch.device) -> Tensor:
    """log(1 + 2 q), in fixed point, of q in 1/32: as far as it is below the bound."""
    q = np.arange(POINTS * (1 << 11)) / POINTS
    values = np.rint(np.log1p(2 * q) * (1 << ACTIVATION_BITS))
    return torch.from_numpy(values.clip(max=FEATURE_MAX).astype(np.float32)).to(device)


def _features(
    location: Tensor, values: Tensor, sent: Tensor, width: int, unit: int
) -> Tensor:
    """What coefficients of blocks tell those around: ``[N + 1, 3 n]``, zeros last.

    Args:
        location: of each coefficient's prior, in 1/32 of the width, ``[N, n]``.
        values: of the coefficients, likewise.
        sent: which are known.
        width: of the cells.
        unit: what the network counts in.
    """
    factor = round(width / unit * 2**16) / 2**16  # products with it are exact

    def counted(points: Tensor) -> Tensor:
        return (points * factor).round_()

    def of(location: Tensor, values: Tensor, sent: Tensor) -> Tensor:
        residual = counted((values - location) * sent)
        features = [
            residual.sign() * _magnitude(residual),
            _magnitude(counted(values)) * sent,
            (sent.to(values) - 0.5) * (1 << ACTIVATION_BITS),
        ]
        return torch.cat(features, 1).float()

    N, n = values.shape
    found = torch.zeros(N + 1, 3 * n, dtype=torch.float32, device=values.device)
    found[:-1, 2 * n :] = -0.5 * (1 << ACTIVATION_BITS)
    # of most blocks nothing was sent
    for rows in sent.any(1).nonzero()[:, 0].split(AT_ONCE):
        known = (plane.index_select(0, rows) for plane in (location, values, sent))
        found.index_copy_(0, rows, of(*known))
    return found


def _bits(name: str) -> int:
    """Fractional bits of a parameter; those of biases are those of sums."""
    return SUM_BITS if name.endswith("bias") else WEIGHT_BITS


class Group(nn.Module):
    """Weights of one step.

    Args:
        n: coefficients of the group.
        hidden: width of the state.
    """

    def __init__(self, n: int, hidden: int):
        super().__init__()

        def weights(outputs: int, inputs: int, gain: float) -> nn.Parameter:
            bound = gain / math.sqrt(inputs)
            weight = torch.empty(outputs, inputs, dtype=torch.float32)
            return nn.Parameter(weight.uniform_(-bound, bound))

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, dtype=torch.float32))

        self.bias = zeros(hidden)
        self.mix = weights(hidden, hidden, 1.0)
        self.mix_bias = zeros(hidden)
        self.head = zeros(2 * n, hidden)
        self.head_bias = zeros(2 * n)
        self.own = weights(hidden, len(OWN) * 3 * n, 0.37)
        self.own_bias = zeros(hidden)
        self.cross = weights(hidden, len(CROSS) * 3 * n, 0.33)
        self.cross_bias = zeros(hidden)

    def fixed(self, name: str) -> Tensor:
        """A parameter as integers."""
        return rounded(getattr(self, name).float(), 2.0 ** _bits(name))

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any
    ) -> None:
        # weights may come as the integers that they are rounded to
        for name, _ in self.named_parameters():
            value = state_dict.get(prefix + name)
            if value is not None and not value.is_floating_point():
                state_dict[prefix + name] = value.float() * 2.0 ** -_bits(name)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def look(self, state: Tensor) -> Tensor:
        """Location and log scale, ``[N, 2 n]``, from states of blocks, ``[N, hidden]``."""
        h = _activate(state + self.fixed("bias").to(state.dtype))
        h = _activate(torch.addmm(self.fixed("mix_bias"), h, self.fixed("mix").T))
        return torch.addmm(self.fixed("head_bias"), h, self.fixed("head").T)

    def spread(self, name: str, features: Tensor, around: Tensor) -> Tensor:
        """What features add to states, ``[N, hidden]``.

        Args:
            name: ``"own"``, to states of blocks of the same colour, or ``"cross"``.
            features: ``[M + 1, 3 n]``, zeros last.
            around: places of the features of the blocks around each.
        """
        bias, weights = self.fixed(f"{name}_bias"), self.fixed(name).T
        # by one index it is four times as fast
        seen = features.index_select(0, around.flatten())
        return torch.addmm(bias, seen.view(len(around), len(weights)), weights)

    def check(self) -> None:
        """Raise a ValueError where a sum could be rounded."""
        inputs = {"mix": HIDDEN_MAX, "head": HIDDEN_MAX}
        for name in ("own", "cross", "mix", "head"):
            largest = inputs.get(name, FEATURE_MAX)
            weight, bias = self.fixed(name), self.fixed(f"{name}_bias")
            total = weight.double().abs().sum(1) * largest + bias.double().abs()
            if total.max() >= EXACT:
                raise ValueError(
                    f"weights {name!r} are too large: a sum may reach {int(total.max())}, "
                    "and must stay below 2^24"
                )


class Step(NamedTuple):
    """One of the 48 steps of a stage."""

    colour: int  # of the checkerboard
    channels: slice
    group: Group


class CosineConditional(UniformNoiseConditional):
    """Prior of the coefficients of one stage, or of several, in the cosine basis.

    Cells may be of any width Delta: scales are in units of it, but what the network sees
    and says of values is in units of its own.

    Args:
        unit: what the network counts in, in levels: the width of the cells that it knows
            best.
        hidden: width of the state of a block.

    Attributes:
        spread: standard deviations of the coefficients of photographs, ``[192]``.
        neighbours: weights of the means of blocks around one for it, ``[3, 4]``.
    """

    spread: Tensor

    def __init__(self, unit: int, hidden: int):
        super().__init__("logistic")
        self.quantiles.data = log_span(*SCALE_SPAN)
        self.unit, self.hidden = unit, hidden
        self.register_buffer("spread", torch.full((192,), 100.0, dtype=torch.float32))
        shares = torch.full((N_COLOURS, len(CROSS)), 0.25, dtype=torch.float32)
        self.neighbours = nn.Parameter(shares)
        self.groups = nn.ModuleList(
            Group(channels.stop - channels.start, hidden)
            for channels in SUBBANDS
            for _ in (0, 1)
        )
        # no group follows that the last ones could inform, and DistributedDataParallel
        # waits for a gradient of every parameter that may have one
        for group, names in zip(self.groups[-2:], (["own"], ["own", "cross"])):
            for name in names:
                group.get_parameter(name).requires_grad_(False)
                group.get_parameter(f"{name}_bias").requires_grad_(False)

    def steps(self) -> list[Step]:
        places = [(colour, channels) for channels in SUBBANDS for colour in (0, 1)]
        return [Step(c, s, g) for (c, s), g in zip(places, self.groups)]  # type: ignore[arg-type]

    def arrays(self) -> Fingerprint:
        """What :meth:`load_state_dict` needs, weights as the integers that they are rounded
        to, those of all groups one after another: 13 arrays are read faster than 482."""
        yield "spread", self.spread.cpu().numpy()
        yield "neighbours", self.neighbours.detach().cpu().numpy()
        for name, _ in self.steps()[0].group.named_parameters():
            kind = np.int32 if name.endswith("bias") else np.int16
            fixed = [group.fixed(name).detach().flatten() for _, _, group in self.steps()]
            yield f"groups.{name}", torch.cat(fixed).cpu().numpy().astype(kind)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any
    ) -> None:
        for name, _ in self.steps()[0].group.named_parameters():
            weights = state_dict.pop(f"{prefix}groups.{name}", None)
            if weights is None:
                continue
            shapes = [getattr(group, name).shape for _, _, group in self.steps()]
            sizes = [shape.numel() for shape in shapes]
            if weights.shape != (sum(sizes),):
                raise RuntimeError(
                    f"expected {sum(sizes)} values of {prefix}groups.{name}, got "
                    f"{list(weights.shape)}"
                )
            parts = weights.split(sizes)
            for i, (part, shape) in enumerate(zip(parts, shapes)):
                state_dict[f"{prefix}groups.{i}.{name}"] = part.view(shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    # ---- integers around the network ----

    def _factors(self, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """What turns outputs into points and entries: float64 integers, 8 more bits."""
        spread = self.spread.double()
        low, high = (math.log(scale) for scale in SCALE_SPAN)
        per_entry = (high - low) / 127
        points = (0.3 * spread).clamp(min=0.1 * self.unit) * (POINTS / width)
        base = (torch.log(0.4 * spread / width) - low) / per_entry
        one = 1 << FACTOR_BITS
        return (
            (points * one).round(),
            spread.new_tensor(round(one / per_entry)),
            (base * (one << SUM_BITS)).round(),
        )

    def _look(
        self, state: Tensor, channels: slice, group: Group, factors: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Locations and entries of a group, ``[N, n]``, from states of blocks."""
        points, entries, base = factors
        scale = 2.0 ** -(SUM_BITS + FACTOR_BITS)
        n = channels.stop - channels.start

        def of(state: Tensor) -> tuple[Tensor, Tensor]:
            out = group.look(state).double()
            entry = (out[:, n:] * entries + base[channels]) * scale
            location = rounded(out[:, :n] * points[channels], scale)
            return location, rounded(entry.clamp(-0.25, 127.25))

        locations, indexes = zip(*map(of, state.split(AT_ONCE)))
        return torch.cat(locations), torch.cat(indexes)

    @torch.no_grad()
    @exact_floats()
    def codes_first(self, width: int, threshold: float) -> bool:
        """Whether a first stage codes the first coefficient of every block of one colour.

        Args:
            width: of the stage's cells, in levels.
            threshold: as of :meth:`code`.
        """
        _, channels, group = self.steps()[0]
        factors = [f.to(self.spread.device) for f in self._factors(width)]
        state = torch.zeros(1, self.hidden, dtype=torch.int32, device=self.spread.device)
        _, index = self._look(state, channels, group, factors)
        return bool(index[0, 0] >= dead_zone_index(threshold))

    def run_groups(self, width: int, board: BlockOrder, reveal: "Reveal") -> None:
        """Go through the groups.

        Args:
            width: Delta, of the stage's cells, in levels.
            board: the blocks.
            reveal: is told of every group's prior, and tells what came.
        """
        device = self.spread.device
        # states are exact: they add up to less than 48 times 2^24
        dtype = torch.float64 if torch.is_grad_enabled() else torch.int32
        numbers = [rows.stop - rows.start for rows in board.colours]
        factors = [f.to(device) for f in self._factors(width)]
        states: list[Tensor] = []
        own: list[Tensor] = []
        cross: list[Tensor] = []
        means = torch.empty(0, device=device)

        def zeros(n: int) -> Tensor:
            return torch.zeros(n, self.hidden, dtype=dtype, device=device)

        def spread(colour: int, group: Group, features: Tensor) -> None:
            for name, around, state in (
                ("own", own[colour], states[colour]),
                ("cross", cross[colour], states[1 - colour]),
            ):
                for first in range(0, len(state), AT_ONCE):
                    # sliced: what split gives may not be changed where gradients are kept
                    some = slice(first, first + AT_ONCE)
                    sums = group.spread(name, features, around[some])
                    state[some].add_(sums.to(dtype))

        for colour, channels, group in self.steps():
            if states:
                state = states[colour]
            else:  # all are 0, and so the prior is the same for all blocks
                state = zeros(numbers[colour] if torch.is_grad_enabled() else 1)
            found = self._look(state, channels, group, factors)
            location, index = (x.expand(numbers[colour], -1) for x in found)
            if channels.start < N_COLOURS and colour == 1:
                # the mean of a block is near that of the four around it
                weights = rounded(self.neighbours[channels.start], 2.0**WEIGHT_BITS)
                location = (
                    location + rounded(means @ weights.double() / 2**WEIGHT_BITS)[:, None]
                )
            values, sent = reveal(colour, channels, location, index)
            if not states:  # only now: damaged data do not come so far
                states = [zeros(n) for n in numbers]
                own, cross = (
                    [a.to(device) for a in around] for around in (board.own, board.cross)
                )
            with torch.no_grad():
                if channels.start < N_COLOURS and colour == 0:
                    means = self._means(
                        location, (values - location) * sent, index, cross[0]
                    )
                features = _features(location, values, sent, width, self.unit)
            del found, location, index, values, sent  # what is kept of a step takes memory
            spread(colour, group, features)
            del features

    def _means(
        self, location: Tensor, residual: Tensor, index: Tensor, around: Tensor
    ) -> Tensor:
        """Means of the four blocks around each of the other colour, ``[N, 4]``."""
        shrink = (256 * self._shrink()[index.long()]).round()
        mean = location + (shrink * residual / 256).round()
        padded = torch.cat([mean[:, 0], mean.new_zeros(1)])
        missing = around == len(mean)
        for a, b in ((0, 3), (3, 0), (1, 2), (2, 1)):  # across an edge, the one opposite
            around = around.clone()
            around[:, a] = torch.where(missing[:, a], around[:, b], around[:, a])
        return padded[around]

    def _shrink(self) -> Tensor:
        """The share of a residual that is the value's and not the noise's, by entry."""
        low, high = (math.log(scale) for scale in SCALE_SPAN)
        scale = np.exp(np.linspace(low, high, 128)).astype(np.float32).astype(np.float64)
        return torch.from_numpy(scale**2 / (scale**2 + 1 / 12)).to(self.spread.device)

    # ---- coding ----

    def update(self, force: bool = False) -> bool:
        for _, _, group in self.steps():
            group.check()
        self.__dict__.pop("moment_table", None)
        return super().update(force)

    def fingerprint(self) -> Fingerprint:
        yield from super().fingerprint()
        yield "unit", np.array(self.unit)
        yield "steps", steps.tables().astype(np.int64)
        yield "neighbours", np.rint(self.neighbours.detach().cpu().numpy() * 2**WEIGHT_BITS)
        for i, (_, _, group) in enumerate(self.steps()):
            for name, _ in group.named_parameters():
                # integers have no -0.0, whose bytes are others
                yield f"{i}.{name}", group.fixed(name).detach().cpu().numpy() + 0.0

    def stage_parts(self, width: int, threshold: float) -> Fingerprint:
        """What the integers of a stage follow from beside :meth:`fingerprint`."""
        yield "first_sent", np.array(dead_zone_index(threshold))
        for name, factor in zip(("points", "entries", "base"), self._factors(width)):
            yield name, factor.cpu().numpy()

    @torch.no_grad()
    @exact_floats()
    def code(
        self,
        coder: SymbolCoder,
        board: BlockOrder,
        first: NestedGrid,
        grid: Callable[[], NestedGrid],
        threshold: float,
        before: CoefficientPosterior | None,
        finest: Tensor | None,
    ) -> CoefficientPosterior:
        """Code a stage.

        Args:
            coder: where symbols come from and go to.
            board: the blocks.
            first: the cells of the first step's coefficients, or of all.
            grid: gives the stage's cells; called after the first step.
            threshold: coefficients whose predicted standard deviation is less than so many
                Delta are left for later.
            before: what is known of the stages before.
            finest: the cells of the finest grid that hold the coefficients, int16,
                ``[B h w, 192]``, or None where cells are to be read.
        """
        self._check_cdf_size()
        coding = _Coding(self, coder, board, first, grid, threshold, before, finest)
        self.run_groups(first.width, board, coding)
        return coding.known()

    @exact_floats()
    def training_likelihoods(
        self,
        board: BlockOrder,
        grid: NestedGrid,
        threshold: float,
        before: CoefficientPosterior | None,
        cells: Tensor,
    ) -> tuple[Tensor, CoefficientPosterior]:
        """Likelihoods of a stage's coefficients, with gradients, sent or not.

        Were those that are left for later not learned, none would learn when to leave.

        Args:
            board: the blocks.
            grid: the stage's cells.
            threshold: as of :meth:`code`.
            before: what is known of the stages before.
            cells: those that hold the coefficients, int64, ``[B h w, 192]``.

        Returns:
            likelihoods, float64, of that shape, and what is known then.
        """
        values = POINTS * cells + grid.middle
        if before is not None:
            # of the part of a known cell, in 1/32
            starts = POINTS * grid.first_in(before.cells) - POINTS // 2 + grid.middle
        low, high = (math.log(scale) for scale in SCALE_SPAN)
        found: dict[str, list[list[Tensor]]] = {}

        def reveal(
            colour: int, channels: slice, location: Tensor, index: Tensor
        ) -> tuple[Tensor, Tensor]:
            here = board.colours[colour], channels
            v = values[here].double()
            s = torch.exp(low + index * ((high - low) / 127)) * (POINTS * 3**0.5 / math.pi)
            p = log_mass((v - POINTS / 2 - location) / s, (v + POINTS / 2 - location) / s)
            sent = index >= dead_zone_index(threshold)
            if before is not None:
                start = starts[here].double()
                end = start + POINTS * grid.ratio
                inside = location.clamp(start - TAILS * s, end + TAILS * s)
                part = log_mass(
                    (v - POINTS / 2 - inside) / s, (v + POINTS / 2 - inside) / s
                ) - log_mass((start - inside) / s, (end - inside) / s)
                p = torch.where(before.sent[here], part, p)
                sent = sent | before.sent[here]
            kept = {"p": p, "sent": sent, "location": location, "index": index}
            for name, value in kept.items():
                found.setdefault(name, [[], []])[colour].append(value)
            return v, sent

        self.run_groups(grid.width, board, reveal)
        # groups come in the order of their channels
        p, sent, location, index = (
            torch.cat([torch.cat(groups, 1) for groups in found[name]])
            for name in ("p", "sent", "location", "index")
        )
        offsets = (location.detach() - values).clamp(-CELL_MAX, CELL_MAX)
        known = CoefficientPosterior(
            cells.short(),
            sent,
            offsets.short(),
            index.detach().clamp(0, 127).byte(),
            board,
            grid,
            self.moment_table,
            None,
            None,
        )
        return self.likelihood_lower_bound(p.exp()), known

    @functools.cached_property
    def moment_table(self) -> MomentTable:
        """What a cell and a prior tell of a coefficient."""
        cdf, scale = self.array("_quantized_cdf"), self.scale_table.cpu().numpy()
        return MomentTable(cdf, cdf_half_width(self), scale.astype(np.float64))

    def part_weights(
        self, offset: np.ndarray, start: np.ndarray, entry: np.ndarray, ratio: int
    ) -> np.ndarray:
        """Tables of the parts of known cells, ``[m, ratio]``, see :mod:`.cdf`."""
        cdf, table = self.array("_quantized_cdf"), self.moment_table
        zero = table.zero[entry]
        low = POINTS * start - POINTS // 2
        reach = table.reach[entry] - POINTS // 2
        location = offset.clip(low - reach, low + POINTS * ratio + reach)
        first, row = low - location + zero, cdf.shape[1] * entry.astype(np.int32)
        edges = np.empty((ratio + 1, len(entry)), np.int32)
        for i, edge in enumerate(edges):
            at = (first + POINTS * i).clip(0, 2 * zero)
            cdf.reshape(-1).take(at + row, out=edge, mode="clip")
        total = (np.diff(edges, axis=0) + 1).cumsum(0, dtype=np.int64)
        edges = np.floor(total * float((1 << PRECISION) - ratio) / total[-1])
        return np.diff(edges, axis=0, prepend=0).astype(np.float32).T


class _Coding:
    """A stage while it is coded: tells what came of each group, and keeps it.

    Args:
        prior: of the stage.
        coder: where symbols come from and go to.
        board: the blocks.
        first: the cells of the first step's coefficients, or of all.
        grid: gives the stage's cells.
        threshold: below which nothing is sent.
        before: what is known of the stages before.
        finest: the cells of the finest grid, where they are there.
    """

    def __init__(
        self,
        prior: CosineConditional,
        coder: SymbolCoder,
        board: BlockOrder,
        first: NestedGrid,
        grid: Callable[[], NestedGrid],
        threshold: float,
        before: CoefficientPosterior | None,
        finest: Tensor | None,
    ):
        self.prior, self.coder, self.grid = prior, coder, first
        self._all = grid
        self.before, self.finest = before, finest
        self.dead_zone_index = dead_zone_index(threshold)
        self.board = board
        self.missing: np.ndarray | None = None
        self.moves: dict[int, np.ndarray] = {}  # of the scales of groups, by image

    def __call__(
        self, colour: int, channels: slice, location: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        here = self.board.colours[colour], channels
        kinds = location.clamp(-POINTS_MAX, POINTS_MAX).int(), index.int()
        both = torch.stack(kinds).cpu().numpy()  # in one transfer
        is_first = (colour, channels.start) == (0, 0)
        if not is_first:
            self.grid = self._all()
        grid = self.grid.map(lambda matrix: matrix[here])
        middle = grid.middle.numpy()
        offset, entry = both[0] - middle, both[1].clip(0, 127).astype(np.uint8)
        del kinds, both
        first, is_refinement = np.zeros_like(offset), np.zeros(offset.shape, bool)
        if self.before is not None:
            is_refinement = self.before.sent[here].numpy()
            first = grid.ratio * self.before.cells[here].numpy().astype(np.int32)
            first -= grid.offset.numpy()
        is_significant = (entry >= self.dead_zone_index) & ~is_refinement
        target = None
        if self.finest is not None:
            target = self.finest[here].numpy().astype(np.int32) - grid.start.numpy()
            target //= grid.factor
        group = _Group(target, first, offset, entry, is_refinement, is_significant)
        if colour == 0:  # the other colour's scales move likewise
            self.moves[channels.start] = self._code_moves(group)
        moves = self.moves[channels.start][self.board.images[colour]]
        moved = (entry + moves).clip(0, 127).astype(np.uint8)
        cell, there = self._code_cells(group, moved)

        if is_first:  # only now: damaged data do not come so far
            self.cells, self.sent, self.offsets, self.entries = (
                np.zeros((len(self.grid.dither), 192), dtype)
                for dtype in (np.int16, bool, np.int16, np.uint8)
            )
        self.cells[here], self.sent[here] = cell, there
        self.offsets[here] = (offset - POINTS * cell).clip(-CELL_MAX, CELL_MAX)
        self.entries[here] = np.where(there, moved, entry)
        not_there = (is_refinement | is_significant) & ~there
        if self.missing is not None:
            # of groups after the one where a stream ended, nothing at all is known
            self.missing[here] = True
        elif not_there.any():
            self.missing = np.zeros(self.cells.shape, bool)
            self.missing[here] = not_there
        middles = torch.from_numpy(POINTS * cell + middle).to(location)
        return middles, torch.from_numpy(there).to(location.device)

    def _code_moves(self, group: "_Group") -> np.ndarray:
        """Entries that the scales of a group are moved by, ``[B, n]``, int16."""
        B, images = self.board.shape[0], self.board.images[0]
        wanted: list[list[np.ndarray] | None] = [None] * B
        if group.cells is not None:
            ends = itertools.pairwise(np.searchsorted(images, np.arange(B + 1)))
            wanted = [[_fit_scales(self.grid.ratio, group.of(*some))] for some in ends]
        n = group.entry.shape[1]
        moves = [steps.code(self.coder, moves, [n])[0][0] for moves in wanted]
        return np.stack(moves).astype(np.int16)

    def _code_cells(
        self, group: "_Group", entry: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The cells of a group, by these entries, and which of them are there."""
        target, first, offset, _, is_refinement, is_significant = group
        cell, there = np.zeros_like(offset), np.zeros(offset.shape, bool)
        parts = np.nonzero(is_refinement)
        for i in range(0, len(parts[0]), AT_ONCE):
            of = tuple(axis[i : i + AT_ONCE] for axis in parts)
            r = None if target is None else target[of] - first[of]
            known = offset[of], first[of], entry[of]
            weights = self.prior.part_weights(*known, self.grid.ratio)
            r, there[of] = self.coder.code_categorical(r, weights)
            cell[of] = first[of] + r

        nearest = (offset + POINTS // 2) // POINTS
        j = (offset - POINTS * nearest)[is_significant]
        k = None if target is None else (target - nearest)[is_significant]
        k, there[is_significant] = self.prior.code_symbols(
            self.coder, k, entry[is_significant], j
        )
        cell[is_significant] = nearest[is_significant] + k
        # of damaged data they may be anywhere
        return np.where(there, cell, nearest).clip(-CELL_MAX, CELL_MAX), there

    def known(self) -> CoefficientPosterior:
        """What is known after the stage."""
        # its cells are known: no one asks for where they begin
        grid = replace(self.grid, offset_before=None)
        known = CoefficientPosterior(
            torch.from_numpy(self.cells),
            torch.from_numpy(self.sent),
            torch.from_numpy(self.offsets),
            torch.from_numpy(self.entries),
            self.board,
            grid,
            self.prior.moment_table,
            None if self.missing is None else torch.from_numpy(self.missing),
            None if self.missing is None else self.before,
        )
        if self.missing is not None and self.before is None:
            _fill_blocks(known, self.prior)
        return known


def _fill_blocks(known: CoefficientPosterior, prior: CosineConditional) -> None:
    """Fill the blocks of a first stage that a stream which ends early did not reach.

    The locations that the network gives them differ by the colour of the checkerboard:
    they would be seen as a grid of dots. The means of blocks are interpolated from those
    that came. All else of a block whose brightness did not come is zero, as uncertain as
    in any photograph.

    Args:
        known: the stage; its offsets and entries are changed.
        prior: of the stage.
    """
    assert known.missing is not None
    missing = known.missing.numpy()
    offsets, entries = known.offsets.numpy(), known.entries.numpy()
    middles = POINTS * known.cells.numpy().astype(np.int32) + known.grid.middle.numpy()
    blank = missing & missing[:, :1]
    widest = np.searchsorted(
        prior.scale_table.cpu().numpy(), prior.spread.cpu().numpy() / known.grid.width
    )
    entries[...] = np.where(blank, widest.clip(max=127), entries)
    target = np.where(blank, 0, middles + offsets)
    table, some = known.table, slice(N_COLOURS)
    reach = table.reach[entries[:, some]]
    at = table.starts[entries[:, some]] + reach + offsets[:, some].clip(-reach, reach)
    inside = middles[:, some] + (table.means[at] >> MEAN_BITS)
    target[:, some] = np.where(known.sent[:, some].numpy(), inside, target[:, some])
    for channel in range(N_COLOURS):
        column = torch.from_numpy(target[:, channel : channel + 1])
        is_there = torch.from_numpy(~missing[:, channel : channel + 1])
        planes = known.board.planes(column)[:, 0].numpy()
        there = known.board.planes(is_there)[:, 0].numpy()
        filled = [fill(p, t) if t.any() else p for p, t in zip(planes, there)]
        found = known.board.matrix(torch.from_numpy(np.stack(filled))[:, None])
        target[:, channel] = found[:, 0].numpy()
    changed = (target - middles).clip(-CELL_MAX, CELL_MAX)
    offsets[...] = np.where(missing, changed, offsets)


class _Group(NamedTuple):
    """A group before it is coded, ``[N, n]`` each."""

    cells: np.ndarray | None  # those that hold the coefficients, where they are there
    first: np.ndarray  # where a part is sent, the first cell that it may be
    offset: np.ndarray  # the location, from the middle of cell 0
    entry: np.ndarray  # of the scale table
    is_refinement: np.ndarray  # where a part of a known cell is sent
    is_significant: np.ndarray  # where a cell is

    def of(self, start: int, end: int) -> "_Group":
        """That of some blocks."""
        return _Group(*(None if a is None else a[start:end] for a in self))  # type: ignore[arg-type]


def _fit_scales(ratio: int, group: _Group) -> np.ndarray:
    """Entries to move the scales of a group of one image by, ``[n]``.

    Args:
        ratio: parts of a known cell.
        group: with its cells.
    """
    cells, first, offset, entry, is_refinement, is_significant = group
    assert cells is not None
    places = (is_refinement | is_significant).nonzero()
    every = scales.stride(len(places[0]))
    places = tuple(place[::every] for place in places)
    zero = POINTS // 2 + offset[places]
    below, start = POINTS * cells[places] - zero, POINTS * first[places] - zero
    low, high = (math.log(scale) for scale in SCALE_SPAN)
    per_entry = (high - low) / 127
    values = (
        places[1],
        below,
        below + POINTS,
        np.where(is_refinement[places], start, -np.inf),
        np.where(is_refinement[places], start + POINTS * ratio, np.inf),
        low + entry[places] * per_entry + math.log(POINTS * 3**0.5 / math.pi),
    )
    return scales.fit(scales.CodedValues(*values), cells.shape[1], per_entry, every)


class Reveal(Protocol):
    """Tells what came of a group."""

    def __call__(
        self, colour: int, channels: slice, location: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Middles of the cells in 1/32 of the width, and which were sent, ``[N, n]``."""


def dead_zone_index(threshold: float) -> int:
    """The first entry of the scale table whose coefficients are sent."""
    low, high = (math.log(scale) for scale in SCALE_SPAN)
    return math.ceil((math.log(threshold) - low) / (high - low) * 127)


def cdf_half_width(prior: UniformNoiseConditional) -> np.ndarray:
    """Half-widths R of the tables, by entry."""
    return -prior.array("_offset").astype(np.int64)


def _magnitude(points: Tensor) -> Tensor:
    table = _magnitudes(points.device)
    return table[points.abs().clamp(max=len(table) - 1).long()].to(points)
