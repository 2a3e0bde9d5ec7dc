r"""The last layer of a network of pixels, refitted to one picture.

A network has seen other photographs; a picture has its own grain, sharpness and colours.
Before the values of a group, its encoder may send what to add to the group's last layer,
in whole steps: of its two biases, of its weights for locations, and for scales. Both sides
then go on with outputs

    o_r = w_r a + b_r + Delta_r a + delta_r,    r of location and log scale,

a the hidden activations. The encoder finds the steps by Newton's method on the bits of the
group, less what they cost (:func:`fit`); so fitted, the last layer of a network of 48
hidden channels saves a photograph 1.5% of its bits and costs it 0.1%.

Adapting a decoder's network by what is sent with the picture is known from Strümpler et
al., "Implicit Neural Representations for Image Compression" (ECCV 2022), and van Rozendaal
et al., "Overfitting for Fun and Profit" (ICLR 2021); here a layer is linear in what is
sent, and the fit a matter of two small systems of equations.
"""

import functools
import math

from typing import NamedTuple

import numpy as np
import torch

from torch import Tensor

from ..coder import PartsCoder
from ..integer import HIDDEN_BITS
from ..tables import PRECISION, logistic_cdf, quantize_cdf, symbol_weights

__all__ = ["Cells", "added", "code", "fit", "tables"]

STEP_BITS = 5
"""Fractional bits of a step, of the outputs' units."""

STEPS_MAX = 127
"""Steps in either direction: sums of them stay far below 2^24."""

SPREADS = 0.05 * 1.6 ** np.arange(16)
"""Scales, in steps, of the logistics that steps are coded with; by the first, zeros cost
next to nothing."""

_SAMPLE = 1 << 15  # values that a fit looks at
_ITERATIONS = 2  # a third saves another 0.02%
_RIDGE = 30.0  # precision of what steps are expected to be, in units of outputs
_FAR = 60.0  # scales: as good as infinitely far


class Cells(NamedTuple):
    """The levels of a group as its network places them, float64, ``[m]`` each."""

    below: Tensor
    """Lower edge of a level's cell; -inf where all that lies below belongs to it."""

    above: Tensor
    """Its upper edge."""

    first: Tensor
    """Lower end of what the level is known to be in; -inf where it may be anywhere."""

    last: Tensor
    """Upper end of it."""

    locations: Tensor
    """Where the network has the logistic, in levels."""

    units: Tensor
    """What the location moves by, in levels, where its output grows by 1."""

    log_scales: Tensor
    """Natural logarithm of the logistic's scale, in levels."""


@functools.cache
def tables() -> np.ndarray:
    """Weights of the steps -127..127 for each spread, float32, ``[16, 255]``."""
    edges = np.arange(-STEPS_MAX, STEPS_MAX) + 0.5
    cdf = logistic_cdf(edges / SPREADS[:, None])
    return symbol_weights(quantize_cdf(cdf, 2 * STEPS_MAX + 1))


def added(steps: np.ndarray, hidden: np.ndarray, bits: int) -> np.ndarray:
    """What steps add to the outputs.

    Args:
        steps: ``[2, n + 1]``, biases last.
        hidden: hidden activations, integers, ``[n, m]``.
        bits: fractional bits of the outputs.

    Returns:
        int64, ``[2, m]``.
    """
    sums = steps[:, :-1].astype(np.float32) @ hidden.astype(np.float32)  # exact
    found = sums.astype(np.int64) << bits - STEP_BITS - HIDDEN_BITS
    return found + (steps[:, -1:] << bits - STEP_BITS)


# ---- coding ----


def _parts(steps: np.ndarray) -> list[np.ndarray]:
    """What has a spread of its own: biases, weights of locations, weights of scales."""
    return [steps[:, -1], steps[0, :-1], steps[1, :-1]]


def _uniform(n: int) -> np.ndarray:
    return np.full((1, n), (1 << PRECISION) // n - 1, np.float32)


def code(coder: PartsCoder, steps: np.ndarray | None, n: int) -> tuple[np.ndarray, bool]:
    """Code the steps of a group.

    Args:
        coder: where symbols come from and go to.
        steps: ``[2, n + 1]``, or None where they are to be read.
        n: number of hidden channels.

    Returns:
        the steps, int64, and whether all of them were there.
    """
    found = np.zeros((2, n + 1), np.int64)
    is_any, there = coder.code_parts(
        None if steps is None else np.array([int(steps.any())]), _uniform(2)
    )
    if not there.all() or not is_any[0]:
        return found, bool(there.all())
    given = [None] * 3 if steps is None else _parts(steps)
    for part, values in zip(_parts(found), given):
        spread = None if values is None else np.array([_cheapest(values)[1]])
        spread, there = coder.code_parts(spread, _uniform(len(SPREADS)))
        if not there.all():
            return found, False
        weights = np.repeat(tables()[spread], len(part), 0)
        symbols = None if values is None else values + STEPS_MAX
        symbols, there = coder.code_parts(symbols, weights)
        part[:] = np.where(there, symbols - STEPS_MAX, 0)
        if not there.all():
            return found, False
    return found, True


def _cheapest(values: np.ndarray) -> tuple[float, int]:
    """Bits of steps by the spread that suits them best, and which that is."""
    bits = -np.log2((tables()[:, values + STEPS_MAX] + 1.0) / (1 << PRECISION)).sum(1)
    return float(bits.min()), int(bits.argmin())


def _cost(steps: np.ndarray) -> float:
    """Nats of steps."""
    bits = sum(_cheapest(part)[0] + math.log2(len(SPREADS)) for part in _parts(steps))
    return bits * math.log(2)


# ---- fitting ----


def fit(hidden: np.ndarray, cells: Cells) -> np.ndarray:
    """The steps of a group that save the most: those of all weights, of biases, or none.

    Args:
        hidden: hidden activations, integers, ``[n, m]``.
        cells: the levels.

    Returns:
        int64, ``[2, n + 1]``.
    """
    n, m = hidden.shape
    every = -(-m // _SAMPLE)
    cells = Cells(*(values[::every] for values in cells))
    a = torch.ones(n + 1, len(cells.below), dtype=torch.float64)
    a[:-1] = torch.from_numpy(hidden[:, ::every].astype(np.float64)) / (1 << HIDDEN_BITS)
    none = np.zeros((2, n + 1), np.int64)
    nothing = torch.zeros(2, n + 1, dtype=torch.float64)
    before = _nats(nothing, a, cells)
    best, most = none, 0.0
    for start in (n, 0):  # biases alone, and all
        change = torch.zeros_like(nothing)
        change[:, start:] = _newton(a[start:], cells)
        steps = np.rint(change.numpy() * (1 << STEP_BITS)).astype(np.int64)
        steps = steps.clip(-STEPS_MAX, STEPS_MAX)
        after = _nats(torch.from_numpy(steps / (1 << STEP_BITS)), a, cells)
        saved = every * (before - after) - _cost(steps)
        if saved > most:
            best, most = steps, saved
    return best


def _at(change: Tensor, a: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
    """Locations and scales with such a change."""
    move, log_factor = change @ a
    locations = (cells.locations + move * cells.units).clamp(0, 255)
    return locations, (cells.log_scales + log_factor).exp()


def _nats(change: Tensor, a: Tensor, cells: Cells) -> float:
    """What the levels cost then."""
    locations, scales = _at(change, a, cells)
    inside = _log_mass(cells.below, cells.above, locations, scales)
    return (_log_mass(cells.first, cells.last, locations, scales) - inside).sum().item()


def _log_mass(low: Tensor, high: Tensor, locations: Tensor, scales: Tensor) -> Tensor:
    """Logarithm of a logistic's mass in an interval."""
    u, v = _ends(low, high, locations, scales)
    difference = torch.log(-torch.expm1((u - v).clamp(max=-1e-9)))
    logsigmoid = torch.nn.functional.logsigmoid
    return logsigmoid(v) + logsigmoid(-u) + difference


def _ends(
    low: Tensor, high: Tensor, locations: Tensor, scales: Tensor
) -> tuple[Tensor, Tensor]:
    u, v = ((end - locations) / scales for end in (low, high))
    return u.clamp(-1e4, 1e4), v.clamp(-1e4, 1e4)


def _newton(a: Tensor, cells: Cells) -> Tensor:
    r"""Change of the last layer, ``[2, n]``, that makes the levels cheapest.

    Args:
        a: activations, ``[n, m]``.
        cells: the levels.

    With F the logistic function and u, v the ends of a cell in units of the scale s,

        d log(F(v) - F(u)) / d location = (F(u) + F(v) - 1) / s,

    whose own derivative is -(f(u) + f(v)) / s^2, f = F'; and of log s it is
    (u f(u) - v f(v)) / (F(v) - F(u)), the curvature taken at the middle of the cell. So
    for both the matrix is a sum of a a^T with positive weights. What the level is known
    to be in is left out of the curvature, and steps are halved where they do not help.
    """
    change = torch.zeros(2, len(a), dtype=torch.float64)
    ridge = _RIDGE * torch.eye(len(a), dtype=torch.float64)

    def loss(change: Tensor) -> float:
        return _nats(change, a, cells) + _RIDGE / 2 * change.square().sum().item()

    least = loss(change)
    for _ in range(_ITERATIONS):
        locations, scales = _at(change, a, cells)
        inner = _slopes(cells.below, cells.above, locations, scales)
        outer = _slopes(cells.first, cells.last, locations, scales)
        z = _middle(cells, locations, scales)
        curvature_of_scale = z * torch.tanh(z / 2) + z * z / 2 / torch.cosh(z / 2) ** 2
        moves = (locations > 0) & (locations < 255)
        per_unit = cells.units / scales * moves
        slopes = ((inner[0] - outer[0]) * per_unit, inner[1] - outer[1])
        curvatures = (inner[2] * per_unit**2, curvature_of_scale)
        newton = torch.stack(
            [
                torch.linalg.solve((a * c) @ a.T + ridge, a @ s - _RIDGE * now)
                for s, c, now in zip(slopes, curvatures, change)
            ]
        )
        for halvings in range(5):
            tried = change + newton / 2**halvings
            value = loss(tried)
            if value < least:
                change, least = tried, value
                break
    return change


def _slopes(
    low: Tensor, high: Tensor, locations: Tensor, scales: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the logarithm of the mass, by location / s and log s; and f(u) + f(v)."""
    u, v = _ends(low, high, locations, scales)
    F_u, F_v = torch.sigmoid(u), torch.sigmoid(v)
    f_u, f_v = F_u * (1 - F_u), F_v * (1 - F_v)
    near_u, near_v = u.clamp(-_FAR, _FAR), v.clamp(-_FAR, _FAR)
    by_scale = (near_u * f_u - near_v * f_v) / (F_v - F_u).clamp(min=1e-9)
    return F_u + F_v - 1, by_scale, f_u + f_v


def _middle(cells: Cells, locations: Tensor, scales: Tensor) -> Tensor:
    u, v = _ends(cells.below, cells.above, locations, scales)
    return ((u.clamp(-_FAR, _FAR) + v.clamp(-_FAR, _FAR)) / 2).clamp(-_FAR / 2, _FAR / 2)
