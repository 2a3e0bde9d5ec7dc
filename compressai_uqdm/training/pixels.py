"""Fitting the context prior of pixels of a UQDM whose weights stay as they are.

What the UQDM says of crops is computed once; only the noise of the last latent is drawn
anew in every step, for the network's word on it does not follow from that noise. The
network of integers is fitted as floats that are rounded as it will round them, to the
mean of bits, and its weights are kept so small that no sum of integers is inexact.
"""

import math

from typing import NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from torch import Tensor
from tqdm import tqdm

from ..entropy_models.groups import GROUPS
from ..entropy_models.integer import HIDDEN_BITS, HIDDEN_MAX
from ..entropy_models.lattice import Sent
from ..entropy_models.pixels.context import (
    INPUT_BITS,
    INPUT_MAX,
    LOG_SCALE_LOW,
    POSITION_BITS,
    SCALE_AT_ZERO,
    TRUNK_LAYERS,
    PixelNetwork,
    channel_of,
    fractional_bits,
    half_unit,
    shapes,
)
from ..entropy_models.pixels.interval import MARGIN, PLANES, positions, seen_of

__all__ = ["FloatPixels", "PixelData", "Seen", "fit_pixels", "pixel_data", "rounded"]

_SUM_LIMIT = 62.0  # of 64, where a sum of integers would reach 2^24; the rest is for biases
_PROJECT_EVERY = 20
_AVERAGE = 0.99  # of weights, from step to step: that average is what is kept
_WARM_UP = 50


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


def pixel_data(levels: Tensor, sent: Sent, rows: np.ndarray) -> PixelData:
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


class FloatPixels(nn.Module):
    """The network in floats: :class:`.PixelNetwork` before rounding.

    One unit is four levels.

    Args:
        rows: as of :func:`.interval.coefficients`.

    Attributes:
        half_lengths: half the length of the interval of each stage, in levels.
        width: length of that of the last stage.
        noise_width: width of the noise of the last stage, in levels.
    """

    def __init__(self, rows: np.ndarray):
        super().__init__()
        self.half_lengths = [float(r) / (1 << POSITION_BITS) for r in rows[:, 2]]
        self.width = 2 * self.half_lengths[-1]
        self.noise_width = self.width / (1 + 2 * MARGIN)
        w = {}
        for name, shape in shapes(PLANES).items():
            w[name] = nn.Parameter(torch.zeros(shape))
            fan_in = math.prod(shape[2:]) if len(shape) != 4 else math.prod(shape[1:])
            if name.startswith("trunk_") and not name.endswith("bias"):
                gain = 1 if name == "trunk_mix" else 2
                nn.init.normal_(w[name], std=math.sqrt(gain / fan_in))
            elif name in ("conv", "mix"):
                nn.init.normal_(w[name], std=math.sqrt((1 + (name == "mix")) / fan_in))
        with torch.no_grad():
            w["conv"][:, -1] = 0  # the linear path starts at nothing
        self.w = nn.ParameterDict(w)
        # what a group sees of each phase: the level, or the guess
        levels = torch.zeros(len(GROUPS), len(GROUPS))
        for g in range(len(GROUPS)):
            levels[g, [channel_of(before) for before in range(g)]] = 1
        self.register_buffer("sees", torch.cat([1 - levels, levels], 1))
        self.sees: Tensor

    def forward(self, data: PixelData, noise: Tensor) -> Tensor:
        """Bits of the values of every group, ``[12]``, summed.

        Args:
            data: crops of even sides.
            noise: of the last latent, uniform in [-1/2, 1/2), ``[n, 3, H, W]``.
        """
        seen = self._seen(data, noise)
        limit = INPUT_MAX / (1 << INPUT_BITS)
        guess, level = seen.guess, seen.level
        change, shared = self._trunk(torch.cat([guess, seen.planes], 1), guess)
        guess = (guess + change).clamp(-limit, limit)
        move, log_scale = self._groups(torch.cat([guess, level], 1), shared)

        order = [channel_of(g) for g in range(len(GROUPS))]
        x, low, high, middle = (_phases(t)[:, order] for t in seen.pixels)
        location = middle + 4 * (change[:, order] + move)
        log_scale = log_scale + math.log(SCALE_AT_ZERO * self.width)
        # gradients come through the bounds: else a scale at one would stay there
        bounded = log_scale.clamp(LOG_SCALE_LOW, math.log(self.width))
        scale = (log_scale + (bounded - log_scale).detach()).exp()
        first, last = low.ceil().clamp(0, 255), high.floor().clamp(0, 255)
        nats = _log_mass(location, scale, first, last) - _log_mass(location, scale, x, x)
        return nats.sum((0, 2, 3)) / math.log(2)

    @torch.no_grad()
    def start(self, data: PixelData) -> None:
        """Fit the linear paths alone, by least squares; the rest then learns faster.

        Residuals count less the larger they are, as under the logistic's tails.
        """
        seen = self._seen(data, torch.rand(data.levels.shape) - 0.5)
        x, _, _, middle = seen.pixels
        error = _phases((x - middle) / 4).flatten(2)
        around = F.unfold(torch.cat([seen.guess, seen.level], 1), 3, padding=1)
        around = around.unflatten(1, (2 * len(GROUPS), 9))
        for g in range(len(GROUPS)):
            visible = self.sees[g].nonzero()[:, 0]
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
            self.w["conv"][g, -1][visible % len(GROUPS)] = linear
            scale = 0.5 * 4 * residual.std().item()
            self.w["head_bias"][g, 1] = math.log(scale / (SCALE_AT_ZERO * self.width))

    def _seen(self, data: PixelData, noise: Tensor) -> "Seen":
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
        limit = INPUT_MAX / (1 << INPUT_BITS)
        guess, level = (
            rounded(_phases(value - mean).clamp(-4 * limit, 4 * limit) / 4, INPUT_BITS)
            for value in (middle, x)
        )
        planes = [
            ((middle - data.x_hat) / 8).clamp(-4, 4),
            data.log_scales.clamp(-6, 4) / 2,
            (high - low) / (self.width / 2) - 2,
        ]
        planes = [rounded(_phases(p), INPUT_BITS) for p in planes]
        return Seen((x, low, high, middle), guess, level, torch.cat(planes, 1))

    def _weight(self, name: str) -> Tensor:
        return rounded(self.w[name], fractional_bits(name))

    def _trunk(self, planes: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
        for i in range(TRUNK_LAYERS):
            weight, bias = self._weight(f"trunk_{i}"), self.w[f"trunk_{i}_bias"]
            planes = _activated(F.conv2d(planes, weight, bias, padding=1))
        limit = INPUT_MAX / (1 << INPUT_BITS)
        change = F.conv2d(
            guess, self._weight("estimate_conv"), self.w["estimate_bias"], padding=1
        )
        change = change + F.conv2d(planes, self._weight("estimate")[:, :, None, None])
        return rounded(change.clamp(-limit, limit), INPUT_BITS), planes

    def _groups(self, picture: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        n, (B, _, h, w) = len(GROUPS), picture.shape
        conv = self._weight("conv").repeat(1, 1, 2, 1, 1)
        conv = (conv * self.sees[:, None, :, None, None]).flatten(0, 1)
        sums = F.conv2d(picture, conv, padding=1).view(B, n, -1, h * w)
        shared, linear = shared.flatten(2), sums[:, :, -1]
        hidden = sums[:, :, :-1] + self.w["conv_bias"][:, :, None]
        mixed = self._weight("trunk_mix").flatten(0, 1) @ shared
        hidden = _activated(hidden + mixed.view(hidden.shape))
        hidden = self._weight("mix") @ hidden + self.w["mix_bias"][:, :, None]
        out = self._weight("head") @ _activated(hidden) + self.w["head_bias"][:, :, None]
        move, log_scale = (out[:, :, i].unflatten(2, (h, w)) for i in (0, 1))
        return move + linear.unflatten(2, (h, w)), log_scale

    @torch.no_grad()
    def keep_sums_small(self) -> None:
        """Shrink weights of sums that integers could not hold exactly."""
        w = self.w
        for terms in (
            *([(w[f"trunk_{i}"], 1)] for i in range(TRUNK_LAYERS)),
            [(w["estimate_conv"], 2), (w["estimate"], 1)],
            [(w["conv"][:, :-1].flatten(0, 1), 2), (w["trunk_mix"].flatten(0, 1), 1)],
            [(w["mix"].flatten(0, 1), 1)],
            [(w["head"].flatten(0, 1), 1)],
        ):
            total = sum(factor * t.abs().flatten(1).sum(1) for t, factor in terms)
            shrink = (_SUM_LIMIT / torch.as_tensor(total)).clamp(max=1)
            for t, _ in terms:
                t.mul_(shrink.view(-1, *[1] * (t.dim() - 1)))

    @torch.no_grad()
    def to_integers(self) -> PixelNetwork:
        """The network that the codec uses."""
        network = PixelNetwork(PLANES)
        for name, buffer in network.named_buffers():
            unit = 2.0 ** fractional_bits(name)
            buffer.copy_((self.w[name].double() * unit).round() + half_unit(name))
        network.check()
        return network

    @torch.no_grad()
    def from_integers(self, network: PixelNetwork) -> None:
        """Inverse of :meth:`to_integers`, to go on from."""
        for name, buffer in network.named_buffers():
            unit = 2.0 ** fractional_bits(name)
            self.w[name].copy_((buffer.double() - half_unit(name)) / unit)


class Seen(NamedTuple):
    """Inputs of the network."""

    pixels: tuple[Tensor, Tensor, Tensor, Tensor]
    """Levels, and lower end, upper end and middle of their intervals, ``[n, 3, H, W]``."""

    guess: Tensor  # phases of the guess less the mean around it, [n, 12, h, w]
    level: Tensor  # those of the level
    planes: Tensor  # those of the other planes, [n, 36, h, w]


def rounded(t: Tensor, bits: int) -> Tensor:
    """Rounded to so many fractional bits; gradients pass."""
    unit = 2.0**bits
    return t + ((t * unit).round() / unit - t).detach()


def _activated(sums: Tensor) -> Tensor:
    return rounded(sums.clamp(0, HIDDEN_MAX / (1 << HIDDEN_BITS)), HIDDEN_BITS)


def _phases(plane: Tensor) -> Tensor:
    return F.pixel_unshuffle(plane, 2)


def _log_mass(location: Tensor, scale: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Logarithm of the logistic's mass from half a level below to half a level above."""
    above, below = (last + 0.5 - location) / scale, (first - 0.5 - location) / scale
    difference = torch.log(-torch.expm1((below - above).clamp(max=-1e-6)))
    return F.logsigmoid(above) + F.logsigmoid(-below) + difference


def fit_pixels(
    network: FloatPixels, data: PixelData, steps: int, batch: int, rate: float
) -> list[float]:
    """Fit the network; its bits per pixel, a mean of every fifty steps.

    It is left with the average of its weights over the last steps.
    """
    optimizer = torch.optim.Adam(network.parameters(), rate, betas=(0.9, 0.99))
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(_AVERAGE)
    )
    log, recent = [], []
    order = torch.randperm(len(data.levels))
    for step in (bar := tqdm(range(steps), "pixels")):
        half_cosine = 0.5 * (1 + math.cos(math.pi * step / steps)) + 0.005
        for group in optimizer.param_groups:
            group["lr"] = rate * half_cosine * min(1, (step + 1) / _WARM_UP)
        if (step + 1) * batch % len(order) < batch:
            order = torch.randperm(len(order))
        at = torch.arange(step * batch, (step + 1) * batch) % len(order)
        chosen = _turned(data.chosen(order[at]))
        pixels = chosen.levels[:, 0].numel()
        bpp = network(chosen, torch.rand(chosen.levels.shape) - 0.5).sum() / pixels
        optimizer.zero_grad()
        bpp.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step % _PROJECT_EVERY == 0:
            network.keep_sums_small()
        average.update_parameters(network)
        recent.append(bpp.item())
        if len(recent) == 50 or step + 1 == steps:
            log.append(float(np.mean(recent)))
            bar.set_postfix(bpp=f"{log[-1]:.4f}")
            recent = []
    network.load_state_dict(average.module.state_dict())
    network.keep_sums_small()
    return log


def _turned(data: PixelData) -> PixelData:
    """Crops, all turned or seen in a mirror in one of eight ways."""
    across, down, transposed = (torch.rand(3) < 0.5).tolist()
    dims = [-1] * across + [-2] * down
    turned = (t.flip(dims) for t in data)
    return PixelData(*(t.transpose(-1, -2) if transposed else t for t in turned))
