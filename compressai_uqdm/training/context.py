"""Training of the context networks of a UQDM's latents; its weights stay as they are.

The UQDM codes crops of photographs, at several scales, once. The context networks of its
stages are then trained on the residuals.
"""

import math

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from torch import Tensor
from tqdm import tqdm

from ..entropy_models.coding_order import CODING_ORDER
from ..entropy_models.uniform_noise import UniformNoiseConditional
from ..families.uqdm.context_network import (
    INPUT_BITS,
    INPUT_MAX,
    LatentContextNetwork,
)
from ..families.uqdm.context_prior import LOG_SCALE_MAX, SHIFT_MAX, SUM_BITS
from ..families.uqdm.interval_pixels import coefficients
from ..families.uqdm.model import UQDM
from ..families.uqdm.windowed import WINDOW
from ..integer.arithmetic import rounded
from ..levels import image_to_levels
from ..quantization.lattice import LATTICE
from .average import WeightAverage
from .data import crop_batches
from .phase import Phase, Schedule
from .pixels import PixelData, pixel_data
from .settings import ContextSettings

__all__ = ["CROP", "ContextLoss", "ContextPhase", "StageData", "collect"]

CROP = WINDOW


class StageData(NamedTuple):
    """What one stage of all crops looks like to its context."""

    residuals: Tensor  # k N - j, int16, [n, 3, 64, 64]
    scales: Tensor  # standard deviations of the prior, [n, 3, 64, 64]


class ContextLoss(nn.Module):
    """Bits of the residuals of crops under the context network of a stage.

    Args:
        network: the network.
        prior: the stage's prior, whose location and scale it corrects.

    Attributes:
        visible: the subsets that each subset sees; all before it.
    """

    def __init__(
        self, network: LatentContextNetwork, prior: UniformNoiseConditional
    ) -> None:
        super().__init__()
        self.network, self.log_likelihood = network, prior.log_likelihood
        self.visible = [range(g) for g in range(len(CODING_ORDER))]

    def forward(self, residuals: Tensor, scales: Tensor) -> Tensor:
        """Return the bits of all values, summed by subset, ``[12]``."""
        r, one = residuals.float() / LATTICE, 1 << INPUT_BITS
        deviation = (scales * scales + 1 / 12).sqrt()
        limit = INPUT_MAX / one
        values = torch.cat([r / deviation, r / 2], 1).clamp(-limit, limit)
        values = rounded(values, one)
        log_scales = rounded(scales.log2().clamp(-limit, limit), one)
        bits = []
        for g, (channel, (row, column)) in enumerate(CODING_ORDER):
            decoded = torch.zeros_like(values)
            for before in self.visible[g]:
                at = _where(before)
                decoded[at] = values[at]
            inputs = F.pad(torch.cat([decoded, log_scales], 1), (2, 2, 2, 2))
            _, out = self.network(inputs[:, :, row:, column:], g)
            shift, change = (out.float() / (1 << SUM_BITS)).unbind(1)
            where = (slice(None), channel, slice(row, None, 2), slice(column, None, 2))
            d = (shift * deviation[where]).clamp(-SHIFT_MAX, SHIFT_MAX)
            s = scales[where] * 2 ** change.clamp(-LOG_SCALE_MAX, LOG_SCALE_MAX)
            bits.append(self.log_likelihood(r[where] - d, s).sum() / -math.log(2))
        return torch.stack(bits)


def _where(g: int) -> tuple[slice, slice, slice, slice]:
    """Where a group's residuals stand among those of all, each there twice."""
    channel, (row, column) = CODING_ORDER[g]
    channels = slice(channel, None, 3)
    return slice(None), channels, slice(row, None, 2), slice(column, None, 2)


@torch.no_grad()
def collect(net: UQDM, crops: Tensor, sent: int) -> tuple[list[StageData], PixelData]:
    """Code the crops, each with a dither of its own, and keep what contexts see.

    Args:
        net: a UQDM without contexts.
        crops: as of :func:`.read_crops`.
        sent: number of latent stages that shall come before the pixels.
    """
    rows = coefficients(net.noise_schedule.steps()[:sent])
    pictures, pixels = [], []
    for seed, crop in enumerate(tqdm(crops.split(1), "coding crops")):
        levels = image_to_levels(crop / 255)
        latent, stages = net.first_latent(levels.shape, seed), []
        for _ in range(sent):
            _, latent = net.estimate_stage(latent, levels, seed)
            assert latent.sent
            residuals = latent.sent.points[-1].Z - latent.sent.location.Z
            stages.append(StageData(residuals.to(torch.int16), latent.sent.scales))
        pictures.append(stages)
        assert latent.sent
        pixels.append(pixel_data(levels, latent.sent, rows))
    stages = [StageData(*(torch.cat(t) for t in zip(*stage))) for stage in zip(*pictures)]
    return stages, PixelData(*(torch.cat(t) for t in zip(*pixels)))


class ContextPhase(Phase):
    """The context network of one latent stage.

    Args:
        title: name of the stage.
        network: loss of the network.
        data: residuals and scales of the stage, of all crops.
        settings: seed, batch size, learning rate.
        steps: number of steps.
        networks: all context networks of the model, for checkpoints.
    """

    decay, has_tests = 0.99, True

    def __init__(
        self,
        title: str,
        network: ContextLoss,
        data: StageData,
        settings: ContextSettings,
        steps: int,
        networks: nn.ModuleList,
    ):
        self.title, self.network, self.data, self.networks = title, network, data, networks
        self.weights, self.seed, self.steps = (
            list(network.parameters()),
            settings.seed,
            steps,
        )
        self.batch_size = settings.batch_size
        self.schedule = Schedule(settings.learning_rate, steps // 10, 0.0)

    def batches(self, steps: range) -> Iterator[Tensor]:
        """Yield the numbers of the crops of each step."""
        yield from crop_batches(len(self.data.scales), self.batch_size, steps, self.seed)

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        return {"loss": self._bits(batch) / (len(batch) * CROP * CROP)}

    def _bits(self, at: Tensor) -> Tensor:
        return self.network(self.data.residuals[at], self.data.scales[at]).sum()

    def measure(
        self, average: WeightAverage, stopped: Callable[[], bool]
    ) -> dict[str, float] | None:
        """Return the bits per pixel of all crops, which are trained on."""
        bits, n = 0.0, len(self.data.scales)
        with average.applied():
            for at in torch.arange(n).split(self.batch_size):
                if stopped():
                    return None
                bits += self._bits(at).item()
        return {"bpp": bits / (n * CROP * CROP)}

    def state_dict(self, average: WeightAverage) -> dict[str, Any]:
        return {"networks": self.networks.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.networks.load_state_dict(state["networks"])
