r"""The last layer of a context network, refitted to one picture.

A network has seen other photographs; a picture has its own grain, sharpness and colours.
Before the values of a subset, its encoder may send an update of the subset's last layer,
in whole steps (:mod:`.parameter_updates`): of its two biases, of its weights for
locations, and of those for scales. Both sides then go on with outputs

    o_r = w_r a + b_r + Delta_r a + delta_r,    r of location and log scale,

a the hidden activations. The encoder finds the steps by Newton's method on the bits of the
group, less what they cost (:func:`adapt_head`).
"""

import functools

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import torch

from torch import Tensor

from ..bitstream.parameter_updates import STEPS_MAX, cost
from ..bitstream.parameter_updates import code as code_steps
from ..bitstream.symbols import SymbolCoder
from ..integer.arithmetic import HIDDEN_BITS
from ..settings import exact_floats
from ..threads import parallel_map
from .logistic import log_mass

__all__ = ["CodingTargets", "head_delta", "code", "adapt_head", "stride"]

STEP_BITS = 5
"""Fractional bits of a step, of the outputs' units."""

_AT_ONCE = 1 << 16  # values, to bound memory
_SAMPLE = 1 << 15  # values that a fit looks at
_PART = 1 << 14  # of these, for a thread: with fewer, threads wait for one another
_ITERATIONS = 3  # the third saves 0.02 to 0.07%
_CLEARLY = 8.0  # times what steps cost
_RIDGE = 30.0  # precision of what steps are expected to be, in units of outputs
_FAR = 60.0  # scales: as good as infinitely far
_CPU = torch.device("cpu")


class CodingTargets(NamedTuple):
    """The values of a group as its network places them.

    Tensors are float64, ``[m]``, in whatever unit values have.
    """

    below: Tensor
    """Lower edge of a value's cell; -inf where all that lies below belongs to it."""

    above: Tensor
    """Its upper edge."""

    known: tuple[Tensor, Tensor] | None
    """Ends of what the value is known to be in; None where it may be anywhere."""

    locations: Tensor
    """Where the network has the logistic."""

    units: Tensor
    """What the location moves by where its output grows by 1."""

    log_scales: Tensor
    """Natural logarithm of the logistic's scale."""

    log_unit: float
    """What that moves by where its output grows by 1."""

    limits: tuple[float, float]
    """Where locations may be."""

    def at(self, places: slice) -> "CodingTargets":
        """Some of them."""
        known = self.known and (self.known[0][places], self.known[1][places])
        return CodingTargets(
            self.below[places],
            self.above[places],
            known,
            self.locations[places],
            self.units[places],
            self.log_scales[places],
            self.log_unit,
            self.limits,
        )


Part: TypeAlias = tuple[Tensor, CodingTargets]
"""Some values, and what their last layer sees: activations and a one, ``[n + 1, m]``."""


def head_delta(steps: np.ndarray, hidden: np.ndarray, bits: int) -> np.ndarray:
    """What steps add to the outputs.

    Args:
        steps: ``[2, n + 1]``, biases last.
        hidden: hidden activations, integers, ``[n, m]``.
        bits: fractional bits of the outputs.

    Returns:
        int64, ``[2, m]``.
    """
    found = np.repeat(steps[:, -1:] << bits - STEP_BITS, hidden.shape[1], 1)
    # double precision, that no setting makes less of; and PyTorch's products, for NumPy's
    # have threads of their own, which are in the way of others
    weights = torch.from_numpy(steps[:, :-1]).double()
    for at in range(0, hidden.shape[1], _AT_ONCE):
        part = slice(at, at + _AT_ONCE)
        sums = weights @ torch.from_numpy(hidden[:, part]).double()
        found[:, part] += sums.long().numpy() << bits - STEP_BITS - HIDDEN_BITS
    return found


# ---- coding ----


def _vectors(steps: np.ndarray) -> list[np.ndarray]:
    """What has a spread of its own: biases, weights of locations, weights of scales."""
    return [steps[:, -1], steps[0, :-1], steps[1, :-1]]


def code(coder: SymbolCoder, steps: np.ndarray | None, n: int) -> tuple[np.ndarray, bool]:
    """Code the steps of a group.

    Args:
        coder: where symbols come from and go to.
        steps: ``[2, n + 1]``, or None where they are to be read.
        n: number of hidden channels.

    Returns:
        the steps, int64, and whether all of them were there.
    """
    given = None if steps is None else _vectors(steps)
    found = np.zeros((2, n + 1), np.int64)
    places = _vectors(found)
    vectors, there = code_steps(coder, given, [len(place) for place in places])
    for place, vector in zip(places, vectors):
        place[:] = vector
    return found, there


# ---- fitting ----


def stride(m: int) -> int:
    """Of m values, a fit looks at every so many."""
    return -(-m // _SAMPLE)


@exact_floats()
def adapt_head(hidden: np.ndarray, cells: CodingTargets, every: int) -> np.ndarray:
    """The steps of a group that save the most: those of all weights, of biases, or none.

    Args:
        hidden: hidden activations, integers, ``[n, m]``.
        cells: the values.
        every: of so many values in the group they are one, see :func:`stride`.

    Returns:
        int64, ``[2, n + 1]``.
    """
    n, m = hidden.shape

    def part(first: int) -> Part:
        here = slice(first, first + _PART)
        a = torch.ones(n + 1, min(_PART, m - first), dtype=torch.float32, device=_CPU)
        a[:-1] = torch.from_numpy(hidden[:, here])
        a[:-1] /= 1 << HIDDEN_BITS
        return a, cells.at(here)

    parts = parallel_map(part, range(0, m, _PART))
    before = _nats(torch.zeros(2, n + 1, dtype=torch.float64, device=_CPU), parts)
    curvature = _summed(_curvature, parts)
    best, most = np.zeros((2, n + 1), np.int64), 0.0
    for first in (0, n):  # all, and biases alone
        change = _newton(parts, curvature, first, before)
        steps = np.rint(change.numpy() * (1 << STEP_BITS)).astype(np.int64)
        steps = steps.clip(-STEPS_MAX, STEPS_MAX)
        after = _nats(torch.from_numpy(steps / (1 << STEP_BITS)), parts)
        price = cost(_vectors(steps))
        saved = every * (before - after) - price
        if saved > most:
            best, most = steps, saved
        if most > _CLEARLY * price:  # biases cannot save more but for the price
            break
    return best


def _summed(of: Callable[[Part], Tensor], parts: list[Part]) -> Tensor:
    # in order: rounding is the same with any number of threads
    return functools.reduce(torch.add, parallel_map(of, parts))


def _at(change: Tensor, a: Tensor, cells: CodingTargets) -> tuple[Tensor, Tensor]:
    """Locations and scales with such a change."""
    move, log_factor = change.float() @ a
    locations = (cells.locations + move * cells.units).clamp(*cells.limits)
    return locations, (cells.log_scales + log_factor * cells.log_unit).exp()


def _nats(change: Tensor, parts: list[Part]) -> float:
    """What the values cost then."""

    def of(part: Part) -> float:
        a, cells = part
        at = _at(change, a, cells)
        mass = log_mass(*_ends(cells.below, cells.above, *at))
        if cells.known:
            mass -= log_mass(*_ends(*cells.known, *at))
        return -mass.sum().item()

    return sum(parallel_map(of, parts))


def _ends(
    low: Tensor, high: Tensor, locations: Tensor, scales: Tensor
) -> tuple[Tensor, Tensor]:
    u, v = ((end - locations) / scales for end in (low, high))
    return u.clamp(-1e4, 1e4), v.clamp(-1e4, 1e4)


def _newton(parts: list[Part], curvature: Tensor, first: int, before: float) -> Tensor:
    r"""Change of the last layer, ``[2, n]``, that makes the values cheapest.

    Args:
        parts: of the values, with n activations.
        curvature: matrices of Newton's equations, ``[2, n, n]``.
        first: of the activations whose weights change.
        before: what the values cost without a change, in nats.

    Steps are halved where they do not help. The curvature is that of no change at all: it
    hardly depends on it, and takes most of the time.
    """
    n = len(curvature[0])
    change = torch.zeros(2, n, dtype=torch.float64, device=_CPU)
    some = (slice(None), slice(first, None), slice(first, None))
    ridge = _RIDGE * torch.eye(n - first, dtype=torch.float64, device=_CPU)
    matrices = curvature[some] + ridge

    def loss(change: Tensor) -> float:
        return _nats(change, parts) + _RIDGE / 2 * change.square().sum().item()

    least = before
    for _ in range(_ITERATIONS):
        slopes = _summed(functools.partial(_gradient, change), parts) - _RIDGE * change
        newton = torch.zeros_like(change)
        newton[:, first:] = torch.linalg.solve(matrices, slopes[:, first:])
        for halvings in range(5):
            tried = change + newton / 2**halvings
            value = loss(tried)
            if value < least:
                change, least = tried, value
                break
    return change


def _gradient(change: Tensor, part: Part) -> Tensor:
    r"""Minus the derivatives of what some values cost, ``[2, n]``.

    With F the logistic function and u, v the ends of a cell in units of the scale s,

        d log(F(v) - F(u)) / d location = (F(u) + F(v) - 1) / s,

    and of log s it is (u f(u) - v f(v)) / (F(v) - F(u)), f = F'.
    """
    a, cells = part
    locations, scales = _at(change, a, cells)
    by_location, by_scale = _slopes(cells.below, cells.above, locations, scales)
    if cells.known:
        of_known = _slopes(*cells.known, locations, scales)
        by_location, by_scale = by_location - of_known[0], by_scale - of_known[1]
    per_unit = _per_unit(cells, locations, scales)
    slopes = torch.stack([by_location * per_unit, by_scale * cells.log_unit])
    return (slopes.float() @ a.T).double()


def _curvature(part: Part) -> Tensor:
    r"""Matrices of Newton's equations, of some values, ``[2, n, n]``.

    The derivative by the location has one of its own, -(f(u) + f(v)) / s^2; that by log s
    has its curvature at the middle of the cell. So for both the matrix is a sum of a a^T
    with positive weights. What the value is known to be in is left out.
    """
    a, cells = part
    locations, scales = cells.locations, cells.log_scales.exp()
    ends = _ends(cells.below, cells.above, locations, scales)
    u, v = (end.clamp(-_FAR, _FAR) for end in ends)
    z = ((u + v) / 2).clamp(-_FAR / 2, _FAR / 2)
    F_u, F_v = (torch.sigmoid(end) for end in ends)
    by_location = F_u * (1 - F_u) + F_v * (1 - F_v)
    by_scale = z * torch.tanh(z / 2) + z * z / 2 / torch.cosh(z / 2) ** 2
    per_unit = _per_unit(cells, locations, scales)
    weights = by_location * per_unit**2, by_scale * cells.log_unit**2
    return torch.stack([(a * w.float()) @ a.T for w in weights]).double()


def _per_unit(cells: CodingTargets, locations: Tensor, scales: Tensor) -> Tensor:
    """What the location moves by, in scales, where its output grows by 1."""
    low, high = cells.limits
    return cells.units / scales * ((locations > low) & (locations < high))


def _slopes(
    low: Tensor, high: Tensor, locations: Tensor, scales: Tensor
) -> tuple[Tensor, Tensor]:
    """Of the logarithm of the mass, by location / s and by log s."""
    u, v = _ends(low, high, locations, scales)
    F_u, F_v = torch.sigmoid(u), torch.sigmoid(v)
    f_u, f_v = F_u * (1 - F_u), F_v * (1 - F_v)
    near_u, near_v = u.clamp(-_FAR, _FAR), v.clamp(-_FAR, _FAR)
    by_scale = (near_u * f_u - near_v * f_v) / (F_v - F_u).clamp(min=1e-9)
    return F_u + F_v - 1, by_scale
