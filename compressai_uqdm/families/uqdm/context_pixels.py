r"""The context prior of pixels: what is decoded of a picture tells of the rest of it.

Before a pixel is coded, encoder and decoder have an interval that holds it, a first
estimate, and further planes of integers (:class:`LevelInterval`). From these and from the
levels that are decoded already, a network (:class:`PixelNetwork`) computes location and
scale of a logistic distribution for one subset of values after another
(:mod:`.coding_order`). Cut into levels and limited to the interval, it is the table that a
level is coded with (:class:`LevelTables`). An interval that holds
the level is all that is asked of a family: then no level is without a code.

All of it is in integers, so that it is the same everywhere
(:mod:`compressai_uqdm.integer`).
"""

import copy
import math

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from torch import Tensor

from ...bitstream.cdf import PRECISION, logistic_cdf
from ...bitstream.parameter_updates import tables as steps_tables
from ...bitstream.symbols import RateEstimator, SymbolCoder
from ...entropy_models import head_adaptation
from ...entropy_models.coding_order import CODING_ORDER, subset
from ...entropy_models.tables import chunks
from ...fingerprint import Fingerprint, prefixed
from ...integer.arithmetic import rounded_shift
from ...settings import exact_floats
from .pixel_network import (
    HIDDEN,
    INPUT_MAX,
    SUM_BITS,
    PixelNetwork,
    channel_of,
    padded,
    phases,
)
from .pixel_prior import PixelPrior

__all__ = [
    "POSITION_BITS",
    "ContextPixels",
    "LevelInterval",
    "LevelTables",
]

POSITION_BITS = 12
"""Fractional bits of the ends of intervals."""

_UNIT = 16  # of the network's inputs in a level: one is four levels
_SMOOTH = 5  # side of the square whose mean is taken from levels

LOCATION_POINTS = 32
"""Units of a location in a level."""

N_SCALES = 64
LOG_SCALE_LOW = -3.0
SCALE_AT_ZERO = 0.17
"""Of the scale table: its size, the natural logarithm of its least entry in levels, and
the entry that an output of 0 means, as a share of the widest interval."""

_PEAK = 1 << 20  # probability of the likeliest level, in a table
_MARGIN = 8  # levels outside of an interval where its location may lie


class LevelInterval(NamedTuple):
    """What is known of one picture before its pixels are coded.

    Every array is of integers, ``[3, H, W]``.
    """

    low: np.ndarray
    """Lower end of the interval of a level, with 12 fractional bits, -1/2 to 255."""

    high: np.ndarray
    """Its upper end, 0 to 255 1/2, at least a level above or at the lower."""

    planes: tuple[np.ndarray, ...]
    """What else the network sees, with 6 fractional bits."""

    @property
    def first(self) -> np.ndarray:
        """The least level in the interval."""
        return -((-self.low) >> POSITION_BITS)

    @property
    def last(self) -> np.ndarray:
        """The greatest level in it; where none is, of damaged data, the first."""
        return np.maximum(self.high >> POSITION_BITS, self.first)


# ---- tables ----


class LevelTables:
    """Tables of the levels in an interval, by location and scale.

    Args:
        width: of the widest interval, with 12 fractional bits.
    """

    def __init__(self, width: int):
        self.width, levels = width, width / (1 << POSITION_BITS)
        self.size = (width >> POSITION_BITS) + 1
        """Number of levels that an interval may hold."""
        self._step = step = (math.log(levels) - LOG_SCALE_LOW) / (N_SCALES - 1)
        scales = np.exp(LOG_SCALE_LOW + step * np.arange(N_SCALES)).astype(np.float32)
        middle = (math.log(SCALE_AT_ZERO * levels) - LOG_SCALE_LOW) / step
        self.to_index = np.array([2**20 / (step * (1 << SUM_BITS)), middle * 2**20])
        self.to_index = np.rint(self.to_index).astype(np.int64)
        """Factor and summand that make an entry of the table of an output, times 2^20."""
        distance = np.arange(LOCATION_POINTS * (self.size + _MARGIN))
        half = LOCATION_POINTS // 2
        p = np.stack(
            [
                logistic_cdf((half - distance) / (LOCATION_POINTS * s))
                - logistic_cdf((-half - distance) / (LOCATION_POINTS * s))
                for s in scales.astype(np.float64)
            ]
        )
        self.rows = np.maximum(np.rint(p / p[:, :1] * _PEAK), 1.0)
        """For each scale, 2^20 times the probability of a level, of the likeliest's, by
        its distance from the location in 1/32."""

    def indexes(self, log_scales: np.ndarray) -> np.ndarray:
        """Entries of the scale table for outputs of the network."""
        factor, summand = self.to_index
        found = rounded_shift(log_scales * factor + summand, 20)
        return found.clip(0, N_SCALES - 1)

    def log_scales(self, outputs: np.ndarray) -> np.ndarray:
        """Natural logarithms of the scales, in levels, that outputs mean."""
        factor, summand = self.to_index / 2**20
        index = (outputs * factor + summand).clip(0, N_SCALES - 1)
        return LOG_SCALE_LOW + self._step * index

    def weights(
        self,
        locations: np.ndarray,
        indexes: np.ndarray,
        first: np.ndarray,
        last: np.ndarray,
    ) -> np.ndarray:
        """Tables as of :mod:`.bitstream.cdf`.

        Args:
            locations: in 1/32 level, ``[m]``.
            indexes: entries of the scale table, ``[m]``.
            first: the level of each table's first column, ``[m]``.
            last: the last level of its interval, ``[m]``.

        Returns:
            integers that sum to 2^24 less the number of columns, ``[m, n]``, float64.
        """
        levels = first[:, None] + np.arange(self.size)
        distance = np.abs(LOCATION_POINTS * levels - locations[:, None])
        distance = np.minimum(distance, self.rows.shape[1] - 1)
        p = self.rows[indexes[:, None], distance] * (levels <= last[:, None])
        sums = np.cumsum(p, 1)  # all below 2^24, products below 2^48: exact
        total = float((1 << PRECISION) - self.size)
        edges = np.floor(sums * total / sums[:, -1:])
        return np.diff(edges, axis=1, prepend=0.0)


# ---- the prior ----


class ContextPixels(PixelPrior):
    """Codes levels, each known to be in an interval, group after group.

    A family of models says what is :class:`LevelInterval`; see :class:`.IntervalPixels`.

    Args:
        network: what tells where levels are.

    Attributes:
        width: width of the widest interval, with 12 fractional bits, ``[1]``, or empty
            before :meth:`build`.
    """

    width: Tensor

    def __init__(self, network: PixelNetwork):
        super().__init__()
        self.network = network
        self.register_buffer("width", torch.empty(0, dtype=torch.int64))
        self._tables: LevelTables | None = None

    @property
    def has_tables(self) -> bool:
        return bool(self.width.numel())

    def build(self, width: int) -> None:
        """Build the tables for intervals of such a width at most."""
        self.width = torch.tensor([width], device=self.width.device)
        self._tables = None

    @property
    def tables(self) -> LevelTables:
        """The tables.

        Raises:
            ValueError: they were not built.
        """
        if not self.has_tables:
            raise ValueError("there are no tables of pixels yet: call update() first")
        if self._tables is None:
            self._tables = LevelTables(int(self.width))
        return self._tables

    def fingerprint(self) -> Fingerprint:
        yield "table", self.tables.rows.astype(np.int64)
        yield "to_index", self.tables.to_index
        yield from prefixed("context", self.network.fingerprint())
        yield "steps", steps_tables().astype(np.int64)

    def code_in_intervals(
        self,
        coder: SymbolCoder,
        levels: np.ndarray | None,
        intervals: LevelInterval,
        estimate: Callable[[], np.ndarray],
    ) -> np.ndarray:
        """Code the levels of one picture.

        Args:
            coder: encoder, decoder or rate estimator.
            levels: 0..255, uint8, ``[3, H, W]``, or None to decode them.
            intervals: of the levels.
            estimate: returns levels, of that shape, for values that a truncated bitstream
                does not hold; they are clipped to the intervals.

        Raises:
            ValueError: a level is outside of its interval.
        """
        first, last = intervals.first, intervals.last
        if levels is not None and ((levels < first) | (levels > last)).any():
            raise ValueError("a level is outside of the interval that it must be in")
        found = np.zeros(first.shape, np.uint8)
        is_there = np.zeros(found.shape, bool)
        for g, x, there in self._code(coder, levels, intervals):
            subset(found, g)[...], subset(is_there, g)[...] = x, there
        if not is_there.all():
            nearest = np.rint(estimate()).astype(np.int64).clip(first, last)
            found = np.where(is_there, found, nearest).astype(np.uint8)
        return found

    def likelihoods(self, levels: np.ndarray, known: LevelInterval) -> np.ndarray:
        """What their tables give to the levels of one picture, ``[3, H, W]``, float64.

        What is sent of the last layer is shared among the values of its group.
        """
        found, notes = np.empty(levels.shape), RateEstimator()
        for g, x, _ in self._code(notes, levels, known):
            of_layer, p = np.split(notes.take(), [-x.size])
            p *= np.exp(np.log(of_layer).sum() / x.size)
            subset(found, g)[...] = p.reshape(x.shape)
        return found

    def _code(
        self, coder: SymbolCoder, levels: np.ndarray | None, known: LevelInterval
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Code the levels of one picture.

        Args:
            coder: where symbols come from and go to.
            levels: ``[3, H, W]``, or None where they are to be read.
            known: of the picture.

        Yields:
            a group, its levels, int64, ``[h, w]``, and which of them are there: a stream
            may end early.
        """
        walk = _Walk(self.network, self.tables, known)
        for g in range(len(CODING_ORDER)):
            if not subset(known.low, g).size:
                continue
            target = None if levels is None else subset(levels, g).astype(np.int64)
            x, there = walk.code(coder, g, target)
            yield g, x, there
            if not there.all():
                break
            walk.reveal(g, x)


class _Walk:
    """Goes through the groups of one picture."""

    def __init__(self, network: PixelNetwork, tables: LevelTables, known: LevelInterval):
        # all groups run on the CPU, wherever the denoiser does
        self.network, self.tables = copy.deepcopy(network).cpu(), tables
        self.first, self.last = known.first, known.last
        # in units of the network's inputs
        shift = POSITION_BITS + 1 - (_UNIT.bit_length() - 1)
        middle = rounded_shift(known.low + known.high, shift)
        self._mean = _phases_of_mean(middle)
        guess = phases(middle) - self._mean
        planes = [guess, *map(phases, known.planes)]
        inputs = np.concatenate(planes).clip(-INPUT_MAX, INPUT_MAX).astype(np.int16)
        with exact_floats():
            self._shared = network.trunk(inputs)
            self._picture = padded(inputs[:12]).astype(np.float32)
            change = network.improve(self._picture, self._shared)
        inside = self._picture[:, 1:-1, 1:-1]
        outside = phases(np.ones(middle.shape, bool)) == 0
        change[outside] = 0
        inside += change
        np.clip(inside, -INPUT_MAX, INPUT_MAX, out=inside)
        self._inside = inside
        self._guess = phases(middle) + change

    def code(
        self, coder: SymbolCoder, g: int, levels: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Code a group: its levels, int64, ``[h, w]``, and which of them are there."""
        shape = subset(self.first, g).shape
        here = tuple(slice(side) for side in shape)
        first, last = (subset(ends, g).reshape(-1) for ends in (self.first, self.last))
        target = None if levels is None else levels.reshape(-1)
        with exact_floats():
            hidden, out = self.network.group(self._picture, self._shared, g)
        hidden, out = (a[:, *here].reshape(len(a), -1) for a in (hidden, out))
        guess = self._guess[channel_of(g)][here].reshape(-1) * (LOCATION_POINTS // _UNIT)
        per_level = SUM_BITS - (4 * LOCATION_POINTS).bit_length() + 1
        found, there = first.copy(), np.zeros(len(first), bool)
        steps = None
        if target is not None:
            some = slice(None, None, every := head_adaptation.stride(len(target)))
            location = guess[some] + out[0, some] / (1 << per_level)
            values = target[some], first[some], last[some], location, out[1, some]
            steps = head_adaptation.adapt_head(hidden[:, some], self._cells(*values), every)
        steps, all_there = head_adaptation.code(coder, steps, HIDDEN)
        if all_there:
            out += head_adaptation.head_delta(steps, hidden, SUM_BITS)
            locations = guess + rounded_shift(out[0], per_level)
            indexes = self.tables.indexes(out[1])
            for at in chunks(0, len(first), self.tables.size):
                weights = self.tables.weights(
                    locations[at], indexes[at], first[at], last[at]
                )
                columns = None if target is None else target[at] - first[at]
                columns, there[at] = coder.code_categorical(columns, weights)
                # of damaged data they may be outside
                found[at] = np.minimum(first[at] + columns, last[at])
        return found.reshape(shape), there.reshape(shape)

    def _cells(
        self,
        levels: np.ndarray,
        first: np.ndarray,
        last: np.ndarray,
        locations: np.ndarray,
        log_scales: np.ndarray,
    ) -> head_adaptation.CodingTargets:
        """Levels as the network places them: what its last layer is refitted to."""
        x, low, high = (torch.from_numpy(a).double() for a in (levels, first, last))
        return head_adaptation.CodingTargets(
            below=x - 0.5,
            above=x + 0.5,
            known=(low - 0.5, high + 0.5),
            locations=torch.from_numpy(locations / LOCATION_POINTS),
            units=torch.full_like(x, 4.0),
            log_scales=torch.from_numpy(self.tables.log_scales(log_scales)),
            log_unit=1.0,
            limits=(0.0, 255.0),
        )

    def reveal(self, g: int, levels: np.ndarray) -> None:
        """Take note of the levels of a group."""
        channel, (h, w) = channel_of(g), levels.shape
        value = _UNIT * levels - self._mean[channel, :h, :w]
        self._inside[channel, :h, :w] = value.clip(-INPUT_MAX, INPUT_MAX)


def _phases_of_mean(plane: np.ndarray) -> np.ndarray:
    """The mean of the square around every value, edges repeated, rounded; its phases."""
    n, area = _SMOOTH, _SMOOTH * _SMOOTH
    found = np.pad(plane, ((0, 0), (n // 2, n // 2), (n // 2, n // 2)), "edge")
    found = np.pad(np.cumsum(found, 1), ((0, 0), (1, 0), (0, 0)))
    found = found[:, n:] - found[:, :-n]
    found = np.pad(np.cumsum(found, 2), ((0, 0), (0, 0), (1, 0)))
    found = found[:, :, n:] - found[:, :, :-n]
    return phases((2 * found + area) // (2 * area))
