"""Fitting the context prior of pixels of a UQDM whose weights stay as they are.

What the UQDM says of crops is computed once; only the noise of the last latent is drawn
anew in every step, for the network's word on it does not follow from that noise. The loss
is the mean of bits.
"""

import math

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from torch import Tensor

from ..entropy_models.coding_order import CODING_ORDER
from ..families.uqdm.context_pixels import LOG_SCALE_LOW, POSITION_BITS, SCALE_AT_ZERO
from ..families.uqdm.interval_pixels import MARGIN, positions, seen_of
from ..families.uqdm.latent import QuantizedLatents
from ..families.uqdm.pixel_network import (
    INPUT_BITS,
    INPUT_MAX,
    SUM_BITS,
    PixelNetwork,
    channel_of,
)
from ..integer.arithmetic import rounded
from .average import WeightAverage
from .data import crop_batches
from .phase import Phase, Schedule
from .pixel_network import in_phases, log_mass
from .settings import ContextSettings

__all__ = ["PixelContextPhase", "PixelData", "PixelInputs", "PixelLoss", "pixel_data"]

_ONE = 1 << INPUT_BITS  # of the network's inputs: four levels
_LIMIT = INPUT_MAX / _ONE


class PixelData(NamedTuple):
    """What the last stage of all crops looks like to its context."""

    levels: Tensor  # uint8, [n, 3, H, W]
    before: (
        Tensor  # positions of the stages before the last, in levels, [n, stages, 3, H, W]
    )
    x_hat: Tensor  # what the denoiser said at the last, in levels, [n, 3, H, W]
    log_scales: Tensor  # of its scale, to the base of 2, [n, 3, H, W]

    def chosen(self, at: Tensor) -> "PixelData":
        """Those of some crops."""
        return PixelData(*(tensor[at] for tensor in self))


def pixel_data(levels: Tensor, sent: QuantizedLatents, rows: np.ndarray) -> PixelData:
    """What was sent of one picture, ``[1, 3, H, W]``, as data."""
    one = 1 << POSITION_BITS
    pairs = list(zip(rows, sent.points, sent.points[1:]))[:-1]
    before = [torch.from_numpy(positions(row, s, t) / one) for row, t, s in pairs]
    x_hat, log_scales = (torch.from_numpy(a) for a in seen_of(sent, rows))
    return PixelData(
        levels.to(torch.uint8),
        torch.stack(before)[None].float() if before else torch.empty(1, 0, *x_hat.shape),
        x_hat[None].float() / 16,
        log_scales[None].float() / 32,
    )


class PixelLoss(nn.Module):
    """Bits of the levels of crops under the context network of a UQDM's pixels.

    Args:
        network: the network.
        rows: as of :func:`.interval_pixels.coefficients`.

    Attributes:
        half_lengths: half the length of the interval of each stage, in levels.
        width: length of that of the last stage.
        noise_width: width of the noise of the last stage, in levels.
        decoded: phases that each subset sees the levels of, as of :class:`.PixelNetwork`.
    """

    def __init__(self, network: PixelNetwork, rows: np.ndarray):
        super().__init__()
        self.network, self.decoded = network, network.decoded
        self.half_lengths = [float(r) / (1 << POSITION_BITS) for r in rows[:, 2]]
        self.width = 2 * self.half_lengths[-1]
        self.noise_width = self.width / (1 + 2 * MARGIN)

    def forward(self, data: PixelData, noise: Tensor) -> Tensor:
        """Return the bits of the values of every subset, summed, ``[12]``.

        Args:
            data: crops of even sides.
            noise: of the last latent, uniform in [-1/2, 1/2), ``[n, 3, H, W]``.
        """
        network, inputs = self.network, self.inputs(data, noise)
        features = network.features(torch.cat([inputs.guess, inputs.planes], 1))
        change = network.improve(F.pad(inputs.guess, (1, 1, 1, 1)), features)
        guess = (inputs.guess + change).clamp(-INPUT_MAX, INPUT_MAX)
        at_zero = math.log(SCALE_AT_ZERO * self.width)
        bits = []
        for g in range(len(CODING_ORDER)):
            picture = torch.where(self.decoded[g][:, None, None], inputs.level, guess)
            _, out = network(F.pad(picture, (1, 1, 1, 1)), features, g)
            move, log_scale = (out.float() / (1 << SUM_BITS)).unbind(1)
            x, low, high, middle = (plane[:, channel_of(g)] for plane in inputs.pixels)
            location = middle + 4 * (change[:, channel_of(g)] / _ONE + move)
            log_scale = log_scale + at_zero
            # gradients come through the bounds: else a scale at one would stay there
            bounded = log_scale.clamp(LOG_SCALE_LOW, math.log(self.width))
            scale = (log_scale + (bounded - log_scale).detach()).exp()
            first, last = low.ceil().clamp(0, 255), high.floor().clamp(0, 255)
            nats = log_mass(location, scale, first, last) - log_mass(location, scale, x, x)
            bits.append(nats.sum() / math.log(2))
        return torch.stack(bits)

    @torch.no_grad()
    def start(self, data: PixelData) -> None:
        """Fit the linear paths, by least squares; the rest then learns faster.

        Residuals count less the larger they are, as under the logistic's tails.
        """
        inputs = self.inputs(data, torch.rand(data.levels.shape) - 0.5)
        x, _, _, middle = inputs.pixels
        error = ((x - middle) / 4).flatten(2)
        planes = torch.cat([inputs.guess, inputs.level], 1) / _ONE
        around = F.unfold(planes, 3, padding=1).unflatten(1, (2 * len(CODING_ORDER), 9))
        sees = torch.cat([~self.decoded, self.decoded], 1)
        conv, head = self.network.conv, self.network.head
        for g in range(len(CODING_ORDER)):
            visible = sees[g].nonzero()[:, 0]
            A = around[:, visible].flatten(1, 2).transpose(1, 2).flatten(0, 1).double()
            y = error[:, channel_of(g)].flatten().double()
            weight = torch.ones_like(y)
            for _ in range(3):
                weighted = (A * weight[:, None]).T
                ridge = torch.eye(A.shape[1], dtype=A.dtype)
                solution = torch.linalg.solve(weighted @ A + ridge, weighted @ y)
                residual = y - A @ solution
                weight = 1 / (residual * residual + 0.02)
            linear = solution.float().view(-1, 3, 3)
            conv.weight[g, -1][visible % len(CODING_ORDER)] = linear
            scale = 0.5 * 4 * residual.std().item()
            head.bias[g, 1] = math.log(scale / (SCALE_AT_ZERO * self.width))

    def inputs(self, data: PixelData, noise: Tensor) -> "PixelInputs":
        """Return what the network sees of crops; arguments as of :meth:`forward`."""
        x = data.levels.float()
        v = x + self.noise_width * noise
        low, high = torch.full_like(x, -0.5), torch.full_like(x, 255.5)
        places = [*data.before.unbind(1), v]
        for position, half in zip(places, self.half_lengths):
            low, high = (
                torch.maximum(low, position - half),
                torch.minimum(high, position + half),
            )
        low, high = low.clamp(max=255), high.clamp(min=0)
        middle = (low + high) / 2
        mean = F.avg_pool2d(F.pad(middle, (2, 2, 2, 2), mode="replicate"), 5, 1)
        guess, level = (
            rounded(in_phases(value - mean).clamp(-4 * _LIMIT, 4 * _LIMIT), _ONE / 4)
            for value in (middle, x)
        )
        planes = [
            ((middle - data.x_hat) / 8).clamp(-4, 4),
            data.log_scales.clamp(-6, 4) / 2,
            (high - low) / (self.width / 2) - 2,
        ]
        planes = [rounded(in_phases(p), _ONE) for p in planes]
        pixels = tuple(in_phases(p) for p in (x, low, high, middle))
        return PixelInputs(pixels, guess, level, torch.cat(planes, 1))


class PixelInputs(NamedTuple):
    """Inputs of the network, integers, and what its loss follows from."""

    pixels: tuple[Tensor, ...]
    """Phases of levels, and of lower end, upper end and middle of their intervals, in
    levels, ``[n, 12, h, w]``."""

    guess: Tensor  # phases of the guess less the mean around it, [n, 12, h, w]
    level: Tensor  # those of the level
    planes: Tensor  # those of the other planes, [n, 36, h, w]


class PixelContextPhase(Phase):
    """The context network of the pixels.

    Args:
        network: the network.
        data: what the last stage of all crops looks like to it.
        settings: seed, batch size, learning rate, steps.
        networks: all context networks of the model, for checkpoints.
    """

    title, decay, has_tests = "pixels", 0.99, True

    def __init__(
        self,
        network: PixelLoss,
        data: PixelData,
        settings: ContextSettings,
        networks: nn.ModuleList,
    ):
        self.network, self.data, self.networks = network, data, networks
        self.weights, self.seed = list(network.parameters()), settings.seed
        self.steps, self.batch_size = settings.pixel_steps, settings.pixel_batch_size
        self.schedule = Schedule(settings.pixel_learning_rate, 50, 0.005)

    def batches(self, steps: range) -> Iterator[Tensor]:
        """Yield the numbers of the crops of each step."""
        yield from crop_batches(len(self.data.levels), self.batch_size, steps, self.seed)

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        chosen = _turned(self.data.chosen(batch))
        return {"loss": self._bits(chosen) / chosen.levels[:, 0].numel()}

    def _bits(self, data: PixelData) -> Tensor:
        return self.network(data, torch.rand(data.levels.shape) - 0.5).sum()

    def after_step(self) -> None:
        self.network.network.keep_sums_small()

    def measure(
        self, average: WeightAverage, stopped: Callable[[], bool]
    ) -> dict[str, float] | None:
        """Return the bits per pixel of all crops, which are trained on."""
        bits, levels = 0.0, self.data.levels
        with average.applied():
            for at in torch.arange(len(levels)).split(self.batch_size):
                if stopped():
                    return None
                bits += self._bits(self.data.chosen(at)).item()
        return {"bpp": bits / levels[:, 0].numel()}

    def finish(self) -> None:
        self.network.network.keep_sums_small()

    def state_dict(self, average: WeightAverage) -> dict[str, Any]:
        return {"networks": self.networks.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.networks.load_state_dict(state["networks"])


def _turned(data: PixelData) -> PixelData:
    """Crops, all turned or seen in a mirror in one of eight ways."""
    across, down, transposed = (torch.rand(3) < 0.5).tolist()
    dims = [-1] * across + [-2] * down
    turned = (t.flip(dims) for t in data)
    return PixelData(*(t.transpose(-1, -2) if transposed else t for t in turned))
