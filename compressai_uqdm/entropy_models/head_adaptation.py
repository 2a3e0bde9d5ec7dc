r"""Adaptation of a context network's last layer, its head, to one picture.

A picture differs from the training set in grain, sharpness and colours. Before the values
of a subset, the encoder may code an update of the head (:mod:`.parameter_updates`): of its
two biases, of its weights for the location, and of its weights for the scale. Encoder and
decoder then compute the outputs, r = location or log scale, as

    o_r = (w_r + Delta_r) a + b_r + delta_r.

a are the hidden activations, w_r and b_r the trained weights and biases, Delta_r and
delta_r the updates. The encoder finds the updates by Newton's method on the bits of the
subset, and keeps them if they save more bits than they cost (:func:`adapt_head`).
"""

import functools

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import torch

from torch import Tensor

from ..bitstream.parameter_updates import UPDATE_MAX, cost
from ..bitstream.parameter_updates import code as code_updates
from ..bitstream.symbols import SymbolCoder
from ..integer.arithmetic import HIDDEN_BITS
from ..settings import exact_floats
from ..threads import parallel_map
from .logistic import log_mass

__all__ = ["CodingTargets", "head_delta", "code", "adapt_head", "stride"]

STEP_BITS = 5
"""Fractional bits of an update: one step is 2^-5 in units of the outputs."""

_CHUNK = 1 << 16  # values multiplied at once, to bound memory
_SAMPLE = 1 << 15  # values used for a fit
_PART = 1 << 14  # of these, for one thread: with fewer, threads wait for one another
_ITERATIONS = 3  # of Newton's method; the third saves 0.02 to 0.07% of the bits
_CLEAR_SAVING = 8.0  # in units of the updates' cost
_RIDGE = 30.0  # precision of the Gaussian prior of updates, in units of the outputs
_FAR = 60.0  # ends of cells are clipped to so many scales; the mass beyond is negligible
_CPU = torch.device("cpu")


class CodingTargets(NamedTuple):
    """The values of a subset, with their entropy parameters before adaptation.

    Tensors are float64, ``[m]``, all in the unit of the values.
    """

    below: Tensor
    """Lower edge of a value's cell; -inf for the lowest cell of an unbounded range."""

    above: Tensor
    """Upper edge of a value's cell; inf for the highest cell of an unbounded range."""

    known: tuple[Tensor, Tensor] | None
    """Ends of the interval that earlier stages coded; None without one."""

    locations: Tensor
    """Location of the logistic."""

    units: Tensor
    """Change of the location if the network's output grows by 1."""

    log_scales: Tensor
    """Natural logarithm of the logistic's scale."""

    log_unit: float
    """Change of the log scale if the network's output grows by 1."""

    limits: tuple[float, float]
    """Range to which locations are clipped."""

    def at(self, places: slice) -> "CodingTargets":
        """Return some of the values."""
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
"""Some values, with the inputs of their head: activations and a one, ``[n + 1, m]``."""


def head_delta(updates: np.ndarray, hidden: np.ndarray, bits: int) -> np.ndarray:
    """Return the change of the outputs by updates of the head.

    Args:
        updates: in steps, int64, ``[2, n + 1]``, biases last.
        hidden: hidden activations, integers, ``[n, m]``.
        bits: fractional bits of the outputs.

    Returns:
        int64, ``[2, m]``.
    """
    delta = np.repeat(updates[:, -1:] << bits - STEP_BITS, hidden.shape[1], 1)
    # double precision, which no setting of the process reduces; PyTorch's products, for
    # NumPy's run in threads of their own, which slow down other threads
    weights = torch.from_numpy(updates[:, :-1]).double()
    for first in range(0, hidden.shape[1], _CHUNK):
        chunk = slice(first, first + _CHUNK)
        sums = weights @ torch.from_numpy(hidden[:, chunk]).double()
        delta[:, chunk] += sums.long().numpy() << bits - STEP_BITS - HIDDEN_BITS
    return delta


# ---- coding ----


def _vectors(updates: np.ndarray) -> list[np.ndarray]:
    """Return views that are coded with a scale each: biases, location and scale weights."""
    return [updates[:, -1], updates[0, :-1], updates[1, :-1]]


def code(coder: SymbolCoder, updates: np.ndarray | None, n: int) -> tuple[np.ndarray, bool]:
    """Code the updates of a subset's head.

    Args:
        coder: encoder, decoder or rate estimator.
        updates: in steps, ``[2, n + 1]``, or None to decode them.
        n: number of hidden channels.

    Returns:
        the updates, int64, and whether the bitstream held all of them.
    """
    targets = None if updates is None else _vectors(updates)
    coded = np.zeros((2, n + 1), np.int64)
    views = _vectors(coded)
    vectors, is_coded = code_updates(coder, targets, [len(view) for view in views])
    for view, vector in zip(views, vectors):
        view[:] = vector
    return coded, is_coded


# ---- fitting ----


def stride(m: int) -> int:
    """Return the stride of the values that a fit uses, of m values in all."""
    return -(-m // _SAMPLE)


@exact_floats()
def adapt_head(hidden: np.ndarray, cells: CodingTargets, every: int) -> np.ndarray:
    """Return the updates of a head that save most: of all weights, of biases only, or 0.

    Args:
        hidden: hidden activations of the sampled values, integers, ``[n, m]``.
        cells: the sampled values.
        every: stride of the sample, see :func:`stride`.

    Returns:
        updates in steps, int64, ``[2, n + 1]``, biases last.
    """
    n, m = hidden.shape

    def part(first: int) -> Part:
        places = slice(first, first + _PART)
        a = torch.ones(n + 1, min(_PART, m - first), dtype=torch.float32, device=_CPU)
        a[:-1] = torch.from_numpy(hidden[:, places])
        a[:-1] /= 1 << HIDDEN_BITS
        return a, cells.at(places)

    parts = parallel_map(part, range(0, m, _PART))
    before = _nats(torch.zeros(2, n + 1, dtype=torch.float64, device=_CPU), parts)
    curvature = _sum(_curvature, parts)
    best, most = np.zeros((2, n + 1), np.int64), 0.0
    for first in (0, n):  # all weights, then biases only
        change = _newton(parts, curvature, first, before)
        updates = np.rint(change.numpy() * (1 << STEP_BITS)).astype(np.int64)
        updates = updates.clip(-UPDATE_MAX, UPDATE_MAX)
        after = _nats(torch.from_numpy(updates / (1 << STEP_BITS)), parts)
        price = cost(_vectors(updates))
        saved = every * (before - after) - price
        if saved > most:
            best, most = updates, saved
        if most > _CLEAR_SAVING * price:  # biases alone could at most save the price
            break
    return best


def _sum(function: Callable[[Part], Tensor], parts: list[Part]) -> Tensor:
    # in order, so that rounding does not depend on the number of threads
    return functools.reduce(torch.add, parallel_map(function, parts))


def _adapted(change: Tensor, a: Tensor, cells: CodingTargets) -> tuple[Tensor, Tensor]:
    """Return locations and scales after a change of the head."""
    move, log_factor = change.float() @ a
    locations = (cells.locations + move * cells.units).clamp(*cells.limits)
    return locations, (cells.log_scales + log_factor * cells.log_unit).exp()


def _nats(change: Tensor, parts: list[Part]) -> float:
    """Return the cost of the values after a change of the head."""

    def nats(part: Part) -> float:
        a, cells = part
        parameters = _adapted(change, a, cells)
        mass = log_mass(*_ends(cells.below, cells.above, *parameters))
        if cells.known:
            mass -= log_mass(*_ends(*cells.known, *parameters))
        return -mass.sum().item()

    return sum(parallel_map(nats, parts))


def _ends(
    low: Tensor, high: Tensor, locations: Tensor, scales: Tensor
) -> tuple[Tensor, Tensor]:
    """Return intervals relative to the location, in scales, clipped to finite numbers."""
    u, v = ((end - locations) / scales for end in (low, high))
    return u.clamp(-1e4, 1e4), v.clamp(-1e4, 1e4)


def _newton(parts: list[Part], curvature: Tensor, first: int, before: float) -> Tensor:
    """Return the change of the head that minimizes the cost of the values, ``[2, n]``.

    Args:
        parts: the values, with n inputs of the head.
        curvature: matrices of Newton's equations, ``[2, n, n]``.
        first: first input whose weights may change.
        before: cost of the values without a change, in nats.

    Newton steps are halved until they reduce the cost. All iterations use the curvature at
    no change: it hardly varies, and its computation takes most of the time.
    """
    n = len(curvature[0])
    change = torch.zeros(2, n, dtype=torch.float64, device=_CPU)
    block = (slice(None), slice(first, None), slice(first, None))
    ridge = _RIDGE * torch.eye(n - first, dtype=torch.float64, device=_CPU)
    matrices = curvature[block] + ridge

    def loss(change: Tensor) -> float:
        return _nats(change, parts) + _RIDGE / 2 * change.square().sum().item()

    least = before
    for _ in range(_ITERATIONS):
        slopes = _sum(functools.partial(_gradient, change), parts) - _RIDGE * change
        newton = torch.zeros_like(change)
        newton[:, first:] = torch.linalg.solve(matrices, slopes[:, first:])
        for halvings in range(5):
            candidate = change + newton / 2**halvings
            value = loss(candidate)
            if value < least:
                change, least = candidate, value
                break
    return change


def _gradient(change: Tensor, part: Part) -> Tensor:
    r"""Return minus the derivatives of the values' cost by the head's weights, ``[2, n]``.

    With F the logistic function, f = F', and u, v the ends of a cell in units of the
    scale s,

        d log(F(v) - F(u)) / d location = (F(u) + F(v) - 1) / s,
        d log(F(v) - F(u)) / d log s    = (u f(u) - v f(v)) / (F(v) - F(u)).
    """
    a, cells = part
    locations, scales = _adapted(change, a, cells)
    by_location, by_scale = _slopes(cells.below, cells.above, locations, scales)
    if cells.known:
        interval = _slopes(*cells.known, locations, scales)
        by_location, by_scale = by_location - interval[0], by_scale - interval[1]
    per_unit = _per_unit(cells, locations, scales)
    slopes = torch.stack([by_location * per_unit, by_scale * cells.log_unit])
    return (slopes.float() @ a.T).double()


def _curvature(part: Part) -> Tensor:
    r"""Return the matrices of Newton's equations of some values, ``[2, n, n]``.

    The second derivative by the location is -(f(u) + f(v)) / s^2. The second derivative by
    log s is taken at the middle of the cell. So both matrices are sums of a a^T with
    positive weights. The interval from earlier stages is ignored.
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
    """Return the change of the location, in scales, if its output grows by 1."""
    low, high = cells.limits
    return cells.units / scales * ((locations > low) & (locations < high))


def _slopes(
    low: Tensor, high: Tensor, locations: Tensor, scales: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the derivatives of the log mass by location, times s, and by log s."""
    u, v = _ends(low, high, locations, scales)
    F_u, F_v = torch.sigmoid(u), torch.sigmoid(v)
    f_u, f_v = F_u * (1 - F_u), F_v * (1 - F_v)
    near_u, near_v = u.clamp(-_FAR, _FAR), v.clamp(-_FAR, _FAR)
    by_scale = (near_u * f_u - near_v * f_v) / (F_v - F_u).clamp(min=1e-9)
    return F_u + F_v - 1, by_scale
