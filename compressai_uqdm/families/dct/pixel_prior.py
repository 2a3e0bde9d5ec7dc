r"""The prior of pixels after the last stage in the cosine basis.

The coefficients that are known make a picture, and tell how far it may be off at every
pixel. One colour at one phase of the 2x2 lattice after another (:mod:`.coding_order`) is
coded by a logistic whose location and scale a network gives, from the window of 5x5 pixels
around each:

.. code-block:: none

    errors decoded so far, in deviations ─┐
    picture, less its mean around it ─────┼─ 5x5 ─┐
    log deviations ───────────────────────┘       + ReLU ─► 1x1 ReLU ─► 1x1 ─┐
    log deviations by frequency, of the block ────┘                          │
    errors decoded so far ───────────────── linear 5x5 ─────────────────────►+
                                                              location, log scale

The 1x1 on the right is adapted to the picture by its encoder (:mod:`.head_adaptation`).
Weights and activations are fixed-point numbers, and no sum reaches 2^24
(:mod:`compressai_uqdm.integer`).
"""

import math

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F

from torch import Tensor

from ...bitstream.parameter_updates import tables as steps_tables
from ...bitstream.symbols import SymbolCoder
from ...entropy_models import head_adaptation
from ...entropy_models.coding_order import CODING_ORDER, subset
from ...entropy_models.uniform_noise import SCALE_LEVELS, UniformNoiseConditional, log_span
from ...fingerprint import Fingerprint, prefixed
from ...integer.arithmetic import (
    HIDDEN_BITS,
    HIDDEN_MAX,
    WEIGHT_BITS,
    IntegerNetwork,
    activate,
    check_sums,
    rounded_shift,
    row_chunks,
)
from ...settings import exact_floats
from ...threads import parallel_map
from .transform import BLOCK, SUBBANDS, n_blocks

__all__ = ["CosinePixels", "PixelPosterior", "Moments", "WindowNetwork", "deviations_of"]

HIDDEN = 48
"""Hidden channels of a group."""

INPUT_BITS, INPUT_MAX = 6, 512
"""Fractional bits of the network's inputs, and their largest magnitude."""

SIDE = 5
"""Of the window, and of the square whose mean is taken from the picture."""

N_BANDS = 12
"""Four bands of frequencies of three colours."""

POSITION_BITS, VARIANCE_BITS = 16, 14
"""Fractional bits of positions, in levels, and of variances, in their squares."""

SCALE_SPAN = (0.05, 60.0)
"""Span of the scale table, in levels."""

FEW = 16
"""Where a fit looks at one of so many values, the network runs twice at these: what it
gives at all of them would take too much memory."""

LEVELS, POINTS = 256, 32
"""Levels, and points of a location in each."""

SUM_BITS = HIDDEN_BITS + WEIGHT_BITS
CONV_BITS = SUM_BITS - INPUT_BITS  # fractional bits of weights of inputs

_SPARSE_PARTS = 8  # that values far apart are computed in, to bound memory
_PICTURE_SHIFT = 3  # a unit of the network is eight levels of the picture
DEVIATION_BITS = 12
"""Fractional bits of deviations; their inverses have 4 more."""

_LOWEST, _LOWEST_IN_BAND = -121, -295  # logarithms, in 1/64: of 0.15 and 0.01 levels
_HIGHEST = 262  # of 60 levels
_BANDS = ((0, 6), (6, 15), (15, 21), (21, 24))  # in groups of coefficients


class Moments(NamedTuple):
    """What coefficients tell of some rows of blocks of one picture, in integers."""

    positions: np.ndarray
    """The pixels, in levels with 16 fractional bits, ``[3, n, W]``."""

    variances: np.ndarray
    """Of these, with 14 fractional bits, as that."""

    coefficients: np.ndarray
    """Variances of the coefficients, likewise, ``[192, ceil(n / 8), w]``."""


class PixelPosterior(NamedTuple):
    """What coefficients tell of one picture's pixels, in integers."""

    positions: np.ndarray
    """The picture, in levels with 16 fractional bits, int32, ``[3, H, W]``."""

    planes: np.ndarray
    """What the network sees of it, int16 with 6 fractional bits, ``[6, H, W]``: the
    picture less its mean around each pixel, in eight levels, and natural logarithms of how
    far it is off."""

    bands: np.ndarray
    """These of the coefficients of four bands of three colours, ``[12, h, w]``."""

    @property
    def log_deviations(self) -> np.ndarray:
        """Natural logarithms of how far the picture is off, ``[3, H, W]``."""
        return self.planes[3:]

    @classmethod
    def of(
        cls,
        size: tuple[int, int],
        parts: Iterable[slice],
        moments: Callable[[slice], Moments],
    ) -> "PixelPosterior":
        """The guess of a picture.

        Args:
            size: (H, W).
            parts: rows of blocks; together they are all.
            moments: gives those of some rows of blocks.
        """
        H, W = size
        positions = np.empty((3, H, W), np.int32)
        planes = np.empty((6, H, W), np.int16)
        of_bands = np.empty((N_BANDS, n_blocks(H), n_blocks(W)), np.int16)

        def fill(blocks: slice) -> None:
            part = moments(blocks)
            rows = slice(BLOCK * blocks.start, BLOCK * blocks.stop)
            positions[:, rows] = part.positions
            planes[3:, rows] = _log_deviation(part.variances, _LOWEST)
            means = _means_of_bands(part.coefficients)
            of_bands[:, blocks] = _log_deviation(means, _LOWEST_IN_BAND)

        parallel_map(fill, parts)
        _see_detail(positions, planes[:3])
        return cls(positions, planes, of_bands)


def _means_of_bands(variances: np.ndarray) -> np.ndarray:
    """Means of the coefficients of each band and colour, ``[12, h, w]``."""
    starts = [channels.start for channels in SUBBANDS]
    sums = np.add.reduceat(variances, starts, axis=0)  # of the groups
    counts = np.diff([*starts, len(variances)])
    means = [
        sums[low + c : high : 3].sum(0) // counts[low + c : high : 3].sum()
        for c in range(3)
        for low, high in _BANDS
    ]
    return np.stack(means)


def _see_detail(positions: np.ndarray, found: np.ndarray) -> None:
    """A picture, less its mean around every pixel, as the network sees it."""
    n, (_, H, W) = SIDE // 2, positions.shape
    across = np.arange(-n, W + n).clip(0, W - 1)
    shift = POSITION_BITS + _PICTURE_SHIFT - INPUT_BITS

    def see(rows: slice) -> None:
        down = np.arange(rows.start - n, rows.stop + n).clip(0, H - 1)
        around = positions[:, down[:, None], across].astype(np.int64)
        around = np.pad(around.cumsum(1), ((0, 0), (1, 0), (0, 0)))
        around = around[:, SIDE:] - around[:, :-SIDE]
        around = np.pad(around.cumsum(2), ((0, 0), (0, 0), (1, 0)))
        mean = (around[:, :, SIDE:] - around[:, :, :-SIDE]) // SIDE**2
        detail = rounded_shift(positions[:, rows] - mean, shift)
        found[:, rows] = detail.clip(-INPUT_MAX, INPUT_MAX)

    parallel_map(see, row_chunks(H, W))


def _log_deviation(variances: np.ndarray, lowest: int) -> np.ndarray:
    """Logarithm of the root of variances, with 6 fractional bits, within bounds."""
    edges = thresholds()[lowest - _LOWEST_IN_BAND :]
    return (np.searchsorted(edges, variances, "right") + lowest).astype(np.int16)


def thresholds() -> np.ndarray:
    """Variances, with 14 fractional bits, where the next logarithm begins."""
    i = np.arange(_LOWEST_IN_BAND, _HIGHEST)
    edges = np.exp((2 * i + 1) / (1 << INPUT_BITS)) * (1 << VARIANCE_BITS)
    return np.rint(edges).astype(np.int64)


def deviations() -> tuple[np.ndarray, np.ndarray]:
    """Deviations with 12 fractional bits, and their inverses with 16, by logarithm."""
    deviation = np.exp(np.arange(_LOWEST, _HIGHEST + 1) / (1 << INPUT_BITS))
    one = 1 << DEVIATION_BITS
    return (
        np.rint(deviation * one).astype(np.int64),
        np.rint(16 * one / deviation).astype(np.int64),
    )


def deviations_of(log_deviations: np.ndarray) -> np.ndarray:
    """Deviations with 12 fractional bits, int64, by their logarithms."""
    return deviations()[0][log_deviations.astype(np.int64) - _LOWEST]


# ---- the network ----


Part: TypeAlias = tuple[slice, Tensor, Tensor]
"""Rows of a group, and what the network gives there: hidden activations and outputs."""

SHAPES = {
    "conv": (len(CODING_ORDER), HIDDEN + 1, 9, SIDE, SIDE),
    "conv_bias": (len(CODING_ORDER), HIDDEN),
    "bands": (len(CODING_ORDER), HIDDEN, N_BANDS),
    "mix": (len(CODING_ORDER), HIDDEN, HIDDEN),
    "mix_bias": (len(CODING_ORDER), HIDDEN),
    "head": (len(CODING_ORDER), 2, HIDDEN),
    "head_bias": (len(CODING_ORDER), 2),
}
"""Of the network's parameters; the last output of ``conv`` is the linear path."""


class WindowNetwork(IntegerNetwork):
    """The network of integers that tells where pixels are, by the window around them.

    Attributes:
        conv, bands: of a group's first layer, int32, shapes as in ``SHAPES``;
            ``conv_bias``.
        mix, mix_bias: of its second.
        head, head_bias: of its outputs.
    """

    bands: Tensor
    conv_bias: Tensor

    def __init__(self) -> None:
        super().__init__(SHAPES)

    def check(self) -> None:
        w = dict(self.named_buffers())
        conv = w["conv"].flatten(2)
        check_sums(
            "conv",
            (conv[:, :-1], INPUT_MAX),
            (w["bands"], INPUT_MAX),
            bias=w["conv_bias"],
        )
        check_sums(
            "conv", (conv[:, -1:], INPUT_MAX), bias=conv.new_zeros(len(CODING_ORDER), 1)
        )
        for name in ("mix", "head"):
            check_sums(name, (w[name], HIDDEN_MAX), bias=w[f"{name}_bias"])

    def group(
        self, errors: np.ndarray, guess: PixelPosterior, g: int
    ) -> Callable[[slice], Part]:
        """The network at the values of one group.

        Args:
            errors: those so far, int16, ``[3, H, W]``.
            guess: what is known of the picture.
            g: number of the group.

        Returns:
            a function that runs it at some rows of the group, and gives of these the
            outputs of :meth:`layers`: hidden activations, and what to move the guess by,
            in deviations, and the logarithm of the scale, less that of the deviation,
            with 15 fractional bits.
        """
        _, (row, column) = CODING_ORDER[g]
        _, H, W = errors.shape
        n = -(-(W - column) // 2)
        # mirrored, pixels stay in their phase: what is not decoded yet is not seen
        before, width = SIDE // 2 - column, 2 * n + SIDE - 2
        sides = (0, 0), (0, 0), (before, width - before - W)
        w = self._weights(g)

        def run(rows: slice) -> Part:
            h = rows.stop - rows.start
            first = 2 * rows.start + row - SIDE // 2
            down = _mirrored(np.arange(first, first + 2 * h + SIDE - 2), H)
            seen = np.concatenate([planes[:, down] for planes in (errors, guess.planes)])
            window = torch.from_numpy(np.pad(seen, sides, "reflect")).float()
            top = rows.start // 4  # a block is four of a group's values wide and high
            of_blocks = torch.from_numpy(guess.bands[:, top : -(-rows.stop // 4)]).float()
            of_blocks = torch.einsum("oi,ihw->ohw", w["bands"], of_blocks)
            of_blocks += w["conv_bias"][:, None, None]
            spread = of_blocks[:, :, None, :, None].expand(-1, -1, 4, -1, 4)
            spread = spread.flatten(3).flatten(1, 2)
            spread = spread[:, rows.start - 4 * top :][:, :h, :n]
            return rows, *self._layers(window, spread, w)

        return run

    def some(
        self, errors: np.ndarray, guess: PixelPosterior, g: int, every: int
    ) -> tuple[Tensor, Tensor]:
        """Run it at every so many values of a group: outputs of :meth:`layers`."""
        _, (row, column) = CODING_ORDER[g]
        _, H, W = errors.shape
        h, n = -(-(H - row) // 2), -(-(W - column) // 2)
        around, w = np.arange(SIDE) - SIDE // 2, self._weights(g)

        def run(some: np.ndarray) -> tuple[Tensor, Tensor]:
            y, x = 2 * (some // n) + row, 2 * (some % n) + column
            down = _mirrored(y + around[:, None, None], H)
            across = _mirrored(x + around[:, None], W)
            seen = [planes[:, down, across] for planes in (errors, guess.planes)]
            windows = torch.from_numpy(np.concatenate(seen)).float().flatten(0, 2)
            of_blocks = torch.from_numpy(guess.bands[:, y // 8, x // 8]).float()
            of_blocks = torch.addmm(w["conv_bias"][:, None], w["bands"], of_blocks)
            return self._later_layers(w["conv"].flatten(1) @ windows, of_blocks, w)

        found = parallel_map(run, np.array_split(np.arange(0, h * n, every), _SPARSE_PARTS))
        hidden, out = (torch.cat(pieces, 1) for pieces in zip(*found))
        return hidden, out

    def layers(self, window: Tensor, of_blocks: Tensor, g: int) -> tuple[Tensor, Tensor]:
        """The network itself, whose sums are exact.

        Args:
            window: planes at and around n values of h rows, integers, float32,
                ``[9, 2 h + 3, 2 n + 3]``.
            of_blocks: what the bands of their blocks add to the first layer's sums, with
                its bias, float32, ``[48, h, n]``.
            g: number of the group.

        Returns:
            as :meth:`group`, integers, float32, ``[48, h, n]``, and float64, ``[2, h, n]``.
        """
        return self._layers(window, of_blocks, self._weights(g))

    def _layers(
        self, window: Tensor, of_blocks: Tensor, w: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        sums = F.conv2d(window[None], w["conv"], stride=2)[0]
        return self._later_layers(sums, of_blocks, w)

    def _later_layers(
        self, sums: Tensor, of_blocks: Tensor, w: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        hidden = activate((sums[:-1] + of_blocks).flatten(1), SUM_BITS)
        hidden = activate(torch.addmm(w["mix_bias"][:, None], w["mix"], hidden), SUM_BITS)
        out = torch.addmm(w["head_bias"][:, None], w["head"], hidden).double()
        out = out.reshape(2, *of_blocks.shape[1:])
        out = torch.stack([out[0] + sums[-1].double(), out[1]])
        return hidden.reshape(of_blocks.shape), out

    def _weights(self, g: int) -> dict[str, Tensor]:
        return {name: buffer[g].cpu().float() for name, buffer in self.named_buffers()}

    def fractional_bits(self, name: str) -> int:
        if name.endswith("bias"):
            return SUM_BITS
        return CONV_BITS if name in ("conv", "bands") else WEIGHT_BITS

    def rounding_offset(self, name: str) -> int:
        return 1 << (WEIGHT_BITS - 1) if name in ("conv_bias", "mix_bias") else 0


# ---- the prior ----


class CosinePixels(UniformNoiseConditional):
    """Codes the levels of pixels, given what coefficients tell of them.

    A level is a cell of width 1 of a logistic; those at the ends, 0 and 255, have all that
    lies beyond them.
    """

    def __init__(self) -> None:
        super().__init__("logistic")
        self.quantiles.data = log_span(*SCALE_SPAN)
        self.network = WindowNetwork()

    def update(self, force: bool = False) -> bool:
        self.network.check()
        return super().update(force)

    def fingerprint(self) -> Fingerprint:
        yield from super().fingerprint()
        yield "thresholds", thresholds()
        yield from zip(("deviations", "inverses"), deviations())
        yield "to_entry", np.array(_to_entry())
        yield from prefixed("network", self.network.fingerprint())
        yield "steps", steps_tables().astype(np.int64)

    @torch.no_grad()
    @exact_floats()
    def code(
        self, coder: SymbolCoder, guess: PixelPosterior, levels: np.ndarray | None
    ) -> np.ndarray:
        """Code the levels of one picture.

        Args:
            coder: where symbols come from and go to.
            guess: what is known of the picture.
            levels: 0..255, ``[3, H, W]``, or None where they are to be read.

        Returns:
            the levels, uint8. Where a stream ends early, they are at their location.
        """
        self._check_cdf_size()
        errors = np.zeros_like(guess.log_deviations)
        found = np.empty(errors.shape, np.uint8)
        for rows in row_chunks(*found.shape[1:]):
            nearest = rounded_shift(guess.positions[:, rows], POSITION_BITS)
            found[:, rows] = nearest.clip(0, LEVELS - 1)
        for g in range(len(CODING_ORDER)):
            positions, log_deviations = (
                subset(plane, g) for plane in (guess.positions, guess.log_deviations)
            )
            if not positions.size:
                continue
            run = self.network.group(errors, guess, g)
            target = steps = parts = None
            if levels is not None:
                target = subset(levels, g).reshape(-1)
                every = head_adaptation.stride(target.size)
                if every < FEW:
                    parts = parallel_map(run, row_chunks(*positions.shape))
                    hidden, out = _every(parts, every)
                else:
                    hidden, out = self.network.some(errors, guess, g, every)
                values = (target, positions, log_deviations)
                cells = _cells(out, *(value.reshape(-1)[::every] for value in values))
                steps = head_adaptation.adapt_head(hidden.numpy(), cells, every)
            steps, all_there = head_adaptation.code(coder, steps, HIDDEN)
            if not all_there:
                break
            at, entry = _places(positions, log_deviations, run, parts, steps)
            x, there = self._code_group(coder, target, at.reshape(-1), entry.reshape(-1))
            subset(found, g)[...] = x.reshape(positions.shape)
            if not there.all():
                break
            _tell_errors(subset(errors, g), subset(found, g), positions, log_deviations)
        return found

    def _code_group(
        self,
        coder: SymbolCoder,
        levels: np.ndarray | None,
        at: np.ndarray,
        entry: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Code levels, ``[m]``, by their locations in 1/32 level and entries of scales."""
        nearest = (at + POINTS // 2) // POINTS
        j = at - POINTS * nearest
        found, there = nearest.copy(), np.zeros(len(at), bool)
        for R, first, where in self._runs(entry):
            weights = self.table_weights(R)[entry[where] - first, j[where] + POINTS // 2]
            _fold(weights, R + 1 - nearest[where], LEVELS + R - nearest[where])
            symbols = None
            if levels is not None:
                symbols = (levels[where] - nearest[where]).clip(-R - 1, R + 1) + R + 1
            symbols, is_there = coder.code_categorical(symbols, weights)
            found[where] = np.where(
                is_there, nearest[where] + symbols - R - 1, found[where]
            )
            there[where] = is_there
            escaped = where[is_there & (np.abs(symbols - R - 1) > R)]
            wanted = None if levels is None else levels[escaped]
            exact, are_there = coder.code_uniform(wanted, len(escaped), LEVELS)
            # until it has come, such a level is known to be past the table's end
            found[escaped] = np.where(are_there, exact, found[escaped])
            there[escaped] = are_there
        return found.clip(0, LEVELS - 1), there


def _mirrored(places: np.ndarray, size: int) -> np.ndarray:
    """Places outside of 0..size - 1 seen in a mirror at the first and the last."""
    period = max(2 * size - 2, 1)
    return size - 1 - np.abs(places % period - (size - 1))


def _to_entry() -> tuple[int, int]:
    """Factor and summand that make an entry of scales of a logarithm, times 2^24."""
    low, high = (math.log(scale) for scale in SCALE_SPAN)
    per_entry = (high - low) / (SCALE_LEVELS - 1)
    return round(2.0 ** (24 - SUM_BITS) / per_entry), round(-low / per_entry * 2**24)


def _every(parts: Iterable[Part], every: int) -> tuple[Tensor, Tensor]:
    """What the network gives at every so many values, ``[48, m]`` and ``[2, m]``."""
    found, first = [], 0
    for _, hidden, out in parts:
        here = slice(-first % every, None, every)
        found.append((hidden.flatten(1)[:, here], out.flatten(1)[:, here]))
        first += out[0].numel()
    hidden, out = (torch.cat(pieces, 1) for pieces in zip(*found))
    return hidden, out


def _places(
    positions: np.ndarray,
    log_deviations: np.ndarray,
    run: Callable[[slice], Part],
    parts: list[Part] | None,
    steps: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Locations, in 1/32 level, and entries of scales, of a group's values, ``[h, n]``.

    Args:
        positions: of the guess.
        log_deviations: of the guess.
        run: as of :meth:`WindowNetwork.group`.
        parts: what that gives, where it is there already.
        steps: what is added to the last layer.
    """
    at = np.empty(positions.shape, np.int16)
    entry = np.empty(positions.shape, np.uint8)

    def place(part: Part) -> None:
        rows, hidden, out = part
        here = positions[rows], log_deviations[rows]
        at[rows], entry[rows] = _place(*here, hidden, out, steps)

    if parts is None:
        parallel_map(lambda rows: place(run(rows)), row_chunks(*positions.shape))
    else:
        parallel_map(place, parts)
    return at, entry


def _place(
    positions: np.ndarray,
    log_deviations: np.ndarray,
    hidden: Tensor,
    out: Tensor,
    steps: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Those of some rows."""
    outputs = out.to(torch.int64).numpy()
    outputs[1] += log_deviations.astype(np.int64) << (SUM_BITS - INPUT_BITS)
    if steps.any():
        added = head_adaptation.head_delta(steps, hidden.flatten(1).numpy(), SUM_BITS)
        outputs += added.reshape(outputs.shape)
    shift = SUM_BITS + DEVIATION_BITS - POSITION_BITS
    at = outputs[0] * deviations_of(log_deviations)
    at += positions.astype(np.int64) << shift
    at = rounded_shift(at, shift + POSITION_BITS - POINTS.bit_length() + 1)
    factor, base = _to_entry()
    entry = rounded_shift(outputs[1] * factor + base, 24)
    return at.clip(0, POINTS * (LEVELS - 1)), entry.clip(0, SCALE_LEVELS - 1)


def _tell_errors(
    errors: np.ndarray,
    levels: np.ndarray,
    positions: np.ndarray,
    log_deviations: np.ndarray,
) -> None:
    """How far the values of a group are from where they were guessed, ``[h, n]``."""
    _, inverse = deviations()

    def tell(rows: slice) -> None:
        error = levels[rows].astype(np.int64) << POSITION_BITS
        error -= positions[rows]
        error *= inverse[log_deviations[rows].astype(np.int64) - _LOWEST]
        error = rounded_shift(error, POSITION_BITS + 16 - INPUT_BITS)
        errors[rows] = error.clip(-INPUT_MAX, INPUT_MAX)

    parallel_map(tell, row_chunks(*levels.shape))


def _cells(
    out: Tensor, levels: np.ndarray, positions: np.ndarray, log_deviations: np.ndarray
) -> head_adaptation.CodingTargets:
    """Levels as the network places them, ``[m]``: what its last layer is refitted to."""
    x, infinity = torch.from_numpy(levels).double(), torch.inf
    unit = torch.from_numpy(deviations_of(log_deviations)).double()
    unit /= 1 << DEVIATION_BITS
    move, log_deviation = out.double() / (1 << SUM_BITS)
    log_deviation += torch.from_numpy(log_deviations).double() / (1 << INPUT_BITS)
    low, high = (math.log(scale) for scale in SCALE_SPAN)
    return head_adaptation.CodingTargets(
        below=(x - 0.5).where(x > 0, -infinity),
        above=(x + 0.5).where(x < LEVELS - 1, infinity),
        known=None,
        locations=torch.from_numpy(positions).double() / (1 << POSITION_BITS) + move * unit,
        units=unit,
        log_scales=log_deviation.clamp(low, high) + math.log(math.sqrt(3) / math.pi),
        log_unit=1.0,
        limits=(0.0, LEVELS - 1.0),
    )


def _fold(weights: np.ndarray, first: np.ndarray, last: np.ndarray) -> None:
    """Give what lies before the first column of each row, and after the last, to these."""
    rows = np.flatnonzero(first > 0)
    columns = np.arange(weights.shape[1])
    before = columns < first[rows, None]
    weights[rows, first[rows]] += (weights[rows] * before).sum(1)
    weights[rows] = np.where(before, 0, weights[rows])
    rows = np.flatnonzero(last < weights.shape[1] - 1)
    after = columns > last[rows, None]
    weights[rows, last[rows]] += (weights[rows] * after).sum(1)
    weights[rows] = np.where(after, 0, weights[rows])
