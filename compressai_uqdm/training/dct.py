"""The phases of a CosineUQDM: its networks one after another, the pixels, picture filters.

A network learns the stages that use it after the stages before them, which are frozen by
then: they decide which coefficients are coded already, and in which intervals these lie.
The loss is the bits of all coefficients of its stages. Uncoded coefficients count too;
otherwise the dead zone is never learned. Dead zones vary, so that others work as well.
"""

import itertools
import math

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from torch import Tensor

from ..families.dct.config import CosineConfig
from ..families.dct.model import CosineUQDM
from .augmentation import vary
from .average import WeightAverage
from .cosine_pixels import crops_of, filtered, pixel_bits, pixel_crops
from .data import draw_crops, example_key
from .dct_settings import DCTSettings
from .phase import Phase

__all__ = ["DCTPhase", "PicturePhase", "PixelPhase", "StagePhase"]

EMA_DECAY = 0.998
TEST_BATCH = 8
DEAD_ZONE_FACTORS = (0.65, 1.3)
"""Range of the random factors of a stage's dead zone."""


class DCTPhase(Phase):
    """A part of a CosineUQDM, trained on crops of photographs.

    Attributes:
        net: the model.
    """

    net: CosineUQDM
    decay = EMA_DECAY

    def prepare(
        self,
        settings: DCTSettings,
        index: int,
        photographs: list[np.ndarray],
        tests: Tensor | None,
    ) -> None:
        """Take what all phases share: settings, place of the phase, photographs, crops."""
        self.settings, self.index = settings, index
        self.photographs, self.tests = photographs, tests
        self.steps, self.batch_size = settings.steps, settings.batch_size
        self.has_tests = tests is not None

    def batches(self, steps: range) -> Iterator[tuple[Tensor, np.random.Generator]]:
        """Yield varied crops, uint8, and a generator of random numbers, for each step."""
        settings = self.settings
        for step in steps:
            key = example_key(settings.seed, self.index * settings.steps + step)
            rng = np.random.default_rng(key)
            size = settings.crop_size
            levels = draw_crops(self.photographs, settings.batch_size, size, rng)
            levels = vary(levels, rng)
            torch.manual_seed(key)
            yield levels, rng

    def losses(self, batch: tuple[Tensor, np.random.Generator]) -> dict[str, Tensor]:
        return {"loss": self.loss(*batch)}

    def loss(self, levels: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the loss of crops, uint8, ``[n, 3, H, W]``; noise is PyTorch's."""
        raise NotImplementedError

    def measure(
        self, average: WeightAverage, stopped: Callable[[], bool]
    ) -> dict[str, float] | None:
        assert self.tests is not None
        if stopped():
            return None
        with average.applied():
            return self.measure_crops(self.tests)

    def measure_crops(self, crops: Tensor) -> dict[str, float]:
        """Return what is measured on held-out crops, by name."""
        raise NotImplementedError

    def state_dict(self, average: WeightAverage) -> dict[str, Any]:
        for prior in self.net.latent_priors:
            for _, _, layer in prior.steps():
                layer.check()
        return {"state_dict": self.net.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["state_dict"])


class StagePhase(DCTPhase):
    """The stages of coefficients that share a network.

    Args:
        net: the model.
        network: its place among those of the model.
    """

    def __init__(self, net: CosineUQDM, network: int):
        self.net, self.prior = net, net.latent_priors[network]
        self.stages = net.config.stages(network)
        self.title = _title(net.config, network)
        self.weights = [self.prior.dc_predictor, *self.prior.layers.parameters()]

    def loss(self, levels: Tensor, rng: np.random.Generator) -> Tensor:
        dead_zones = list(self.net.config.dead_zones)
        for stage in self.stages:
            dead_zones[stage] *= rng.uniform(*DEAD_ZONE_FACTORS)
        stages = self.net.training_likelihoods(levels, dead_zones)
        # stages after the last of the network are not computed
        bits = [-p.log2().sum() for p, _ in itertools.islice(stages, self.stages[-1] + 1)]
        return torch.stack([bits[i] for i in self.stages]).sum() / levels[:, 0].numel()

    def measure_crops(self, crops: Tensor) -> dict[str, float]:
        """The loss, the bits that are sent up to the last stage, and its picture's PSNR."""
        loss = sent = squares = 0.0
        for levels in crops.split(TEST_BATCH):
            stages = itertools.islice(
                self.net.training_likelihoods(levels), self.stages[-1] + 1
            )
            for stage, (p, latent) in enumerate(stages):
                assert latent.posterior is not None
                bits = -p.log2()
                sent += bits[latent.order.planes(latent.posterior.coded)].sum().item()
                loss += bits.sum().item() * (stage in self.stages)
            x_hat = self.net.reconstruct(latent, "denoise", 0)
            squares += (x_hat.double() - levels).square().sum().item()
        pixels = crops[:, 0].numel()
        psnr = _psnr(squares / crops.numel())
        return {"loss": loss / pixels, "bpp": sent / pixels, "psnr": psnr}


class PixelPhase(DCTPhase):
    """The prior of the pixels, after all stages."""

    title = "pixels"

    def __init__(self, net: CosineUQDM):
        self.net = net
        self.network = net.pixel_prior.network.set_trained(True)
        self.weights = list(self.network.parameters())

    def loss(self, levels: Tensor, rng: np.random.Generator) -> Tensor:
        bits = pixel_bits(self.network, pixel_crops(self.net, levels)).sum()
        return bits / levels[:, 0].numel()

    def after_step(self) -> None:
        self.network.keep_sums_small()

    def measure_crops(self, crops: Tensor) -> dict[str, float]:
        """Bits of the exact end alone."""
        batches = crops.split(TEST_BATCH)
        bits = sum(
            pixel_bits(self.network, pixel_crops(self.net, b)).sum().item() for b in batches
        )
        return {"bpp": bits / crops[:, 0].numel()}

    def finish(self) -> None:
        self.network.set_trained(False).check()


class PicturePhase(DCTPhase):
    """The networks of the pictures of all stages."""

    title, unit = "picture filters", "of the squared error"

    def __init__(self, net: CosineUQDM):
        self.net, self.networks = net, net.picture_filters
        for network in self.networks:
            if network.is_identity:  # one of zeros would not learn
                network.reset_parameters()
            network.set_trained(True)
        self.weights = [w for network in self.networks for w in network.parameters()]

    def _errors(self, levels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Squared errors of every stage's picture, before and after."""
        x = levels.float()
        for network, (_, latent) in zip(
            self.networks, self.net.training_likelihoods(levels)
        ):
            crops = crops_of(self.net, latent, levels)
            found = filtered(network, crops)
            yield (crops.positions - x).square().sum(), (found - x).square().sum()

    def loss(self, levels: Tensor, rng: np.random.Generator) -> Tensor:
        shares = [after / before for before, after in self._errors(levels)]
        return torch.stack(shares).mean()

    def after_step(self) -> None:
        for network in self.networks:
            network.keep_sums_small()

    def measure_crops(self, crops: Tensor) -> dict[str, float]:
        """PSNR of every stage's picture, and what it gained, in dB."""
        squares = np.zeros((len(self.networks), 2))
        for levels in crops.split(TEST_BATCH):
            squares += [[e.item() for e in errors] for errors in self._errors(levels)]
        psnr = [[_psnr(mse) for mse in stage] for stage in squares / crops.numel()]
        found = {f"psnr {i}": after for i, (_, after) in enumerate(psnr, 1)}
        gains = {f"gain {i}": after - before for i, (before, after) in enumerate(psnr, 1)}
        return found | gains

    def finish(self) -> None:
        for network in self.networks:
            network.set_trained(False).check()


def _title(config: CosineConfig, network: int) -> str:
    widths = [str(config.quantization_steps[stage]) for stage in config.stages(network)]
    return "quantization step " + " and ".join(widths)


def _psnr(mse: float) -> float:
    return 10 * math.log10(255**2 / max(mse, 1e-9))
