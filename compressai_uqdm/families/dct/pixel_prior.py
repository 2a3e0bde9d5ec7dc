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

import functools
import math

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn as nn

from torch import Tensor

from ...bitstream import parameter_updates
from ...bitstream.symbols import SymbolCoder
from ...entropy_models import head_adaptation
from ...entropy_models.coding_order import CODING_ORDER, subset
from ...entropy_models.scale_table import N_SCALES, ScaleTable
from ...fingerprint import Fingerprint, prefixed
from ...integer.arithmetic import (
    rounded_shift,
    row_chunks,
)
from ...precision import SinglePrecision
from ...settings import exact_floats
from ...threads import parallel_map
from .pixel_network import HIDDEN, SUM_BITS, Part, PixelNetwork
from .pixel_posterior import (
    DEVIATION_BITS,
    INPUT_BITS,
    INPUT_MAX,
    LOWEST,
    POSITION_BITS,
    PixelPosterior,
    deviations,
    deviations_of,
    thresholds,
)

__all__ = ["PixelPrior"]

SCALE_SPAN = (0.05, 60.0)
"""Span of the scale table, in levels."""

RECOMPUTED_FROM = 16
"""Above this stride of the fit, activations are recomputed instead of cached: those of all
values would take too much memory."""

LEVELS, POINTS = 256, 32
"""Levels, and points of a location in each."""


class PixelPrior(SinglePrecision, nn.Module):
    """Codes the levels of pixels, given their posterior.

    A level is a cell of width 1 under a logistic distribution; 0 and 255 take all that lies
    beyond them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = PixelNetwork()

    def check(self) -> None:
        """Check the weights, as of :meth:`.IntegerNetwork.check`."""
        self.network.check()

    def fingerprint(self) -> Fingerprint:
        """Yield the arrays that a bitstream depends on."""
        yield from scale_table().fingerprint()
        yield "thresholds", thresholds()
        yield from zip(("deviations", "inverses"), deviations())
        yield "to_index", np.array(_to_index())
        yield from prefixed("network", self.network.fingerprint())
        yield "parameter_updates", parameter_updates.tables().astype(np.int64)

    @torch.no_grad()
    @exact_floats()
    def code(
        self, coder: SymbolCoder, posterior: PixelPosterior, levels: np.ndarray | None
    ) -> np.ndarray:
        """Code the levels of one picture.

        Args:
            coder: encoder, decoder or rate estimator.
            posterior: of the pixels.
            levels: 0..255, ``[3, H, W]``, or None to decode them.

        Returns:
            the levels, uint8; where a bitstream is truncated, the posterior mean.
        """
        errors = np.zeros_like(posterior.log_deviation)
        found = np.empty(errors.shape, np.uint8)
        for rows in row_chunks(*found.shape[1:]):
            nearest = rounded_shift(posterior.mean[:, rows], POSITION_BITS)
            found[:, rows] = nearest.clip(0, LEVELS - 1)
        for g in range(len(CODING_ORDER)):
            mean, log_deviation = (
                subset(plane, g) for plane in (posterior.mean, posterior.log_deviation)
            )
            if not mean.size:
                continue
            run = self.network.group(errors, posterior, g)
            target = update = parts = None
            if levels is not None:
                target = subset(levels, g).reshape(-1)
                stride = head_adaptation.stride(target.size)
                if stride < RECOMPUTED_FROM:
                    parts = parallel_map(run, row_chunks(*mean.shape))
                    hidden, out = _strided(parts, stride)
                else:
                    hidden, out = self.network.some(errors, posterior, g, stride)
                some = (a.reshape(-1)[::stride] for a in (target, mean, log_deviation))
                targets = _coding_targets(out, *some)
                update = head_adaptation.adapt_head(hidden.numpy(), targets, stride)
            update, is_whole = head_adaptation.code(coder, update, HIDDEN)
            if not is_whole:
                break
            location, index = _entropy_parameters(mean, log_deviation, run, parts, update)
            x, there = self._code_subset(
                coder, target, location.reshape(-1), index.reshape(-1)
            )
            subset(found, g)[...] = x.reshape(mean.shape)
            if not there.all():
                break
            _set_errors(subset(errors, g), subset(found, g), mean, log_deviation)
        return found

    def _code_subset(
        self,
        coder: SymbolCoder,
        levels: np.ndarray | None,
        location: np.ndarray,
        index: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Code levels, ``[m]``, by locations in 1/32 level and scale indexes."""
        nearest = (location + POINTS // 2) // POINTS
        j = location - POINTS * nearest
        found, there = nearest.copy(), np.zeros(len(location), bool)
        for R, where, rows in scale_table().runs(index):
            weights = scale_table().weights(R)[rows, j[where] + POINTS // 2]
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
            # a truncated bitstream may hold the escape without its level
            found[escaped] = np.where(are_there, exact, found[escaped])
            there[escaped] = are_there
        return found.clip(0, LEVELS - 1), there


@functools.cache
def scale_table() -> ScaleTable:
    """Return the table that all pixels are coded with."""
    # logarithms in single precision, as the tables of the format were made
    low, high = (float(np.float32(math.log(scale))) for scale in SCALE_SPAN)
    return ScaleTable.spanning("logistic", low, high)


def _to_index() -> tuple[int, int]:
    """Factor and summand that make an entry of scales of a logarithm, times 2^24."""
    low, high = (math.log(scale) for scale in SCALE_SPAN)
    per_entry = (high - low) / (N_SCALES - 1)
    return round(2.0 ** (24 - SUM_BITS) / per_entry), round(-low / per_entry * 2**24)


def _strided(parts: Iterable[Part], stride: int) -> tuple[Tensor, Tensor]:
    """What the network gives at every so many values, ``[48, m]`` and ``[2, m]``."""
    found, first = [], 0
    for _, hidden, out in parts:
        here = slice(-first % stride, None, stride)
        found.append((hidden.flatten(1)[:, here], out.flatten(1)[:, here]))
        first += out[0].numel()
    hidden, out = (torch.cat(pieces, 1) for pieces in zip(*found))
    return hidden, out


def _entropy_parameters(
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
        run: as of :meth:`PixelNetwork.group`.
        parts: what that gives, where it is there already.
        steps: what is added to the last layer.
    """
    at = np.empty(positions.shape, np.int16)
    entry = np.empty(positions.shape, np.uint8)

    def place(part: Part) -> None:
        rows, hidden, out = part
        here = positions[rows], log_deviations[rows]
        at[rows], entry[rows] = _of_rows(*here, hidden, out, steps)

    if parts is None:
        parallel_map(lambda rows: place(run(rows)), row_chunks(*positions.shape))
    else:
        parallel_map(place, parts)
    return at, entry


def _of_rows(
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
    factor, base = _to_index()
    entry = rounded_shift(outputs[1] * factor + base, 24)
    return at.clip(0, POINTS * (LEVELS - 1)), entry.clip(0, N_SCALES - 1)


def _set_errors(
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
        error *= inverse[log_deviations[rows].astype(np.int64) - LOWEST]
        error = rounded_shift(error, POSITION_BITS + 16 - INPUT_BITS)
        errors[rows] = error.clip(-INPUT_MAX, INPUT_MAX)

    parallel_map(tell, row_chunks(*levels.shape))


def _coding_targets(
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
