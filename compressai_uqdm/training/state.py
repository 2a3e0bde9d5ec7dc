"""The state of a run: a model, the average of its weights, its optimizers, its step."""

from pathlib import Path
from typing import Any, cast

import torch

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..families.uqdm.config import PUBLISHED, UQDMConfig
from ..families.uqdm.model import UQDM
from .config import TrainingConfig

__all__ = ["TrainingState", "ema_decay", "initial_model"]

EMA_DECAY = 0.9999
AUX_LEARNING_RATE = 1e-3  # of the quantiles that the scale tables will span


def initial_model(config: TrainingConfig) -> UQDM:
    """The model to start from.

    Raises:
        OSError: a file cannot be read.
        ValueError: it holds no model, or there is none of that name.
    """
    torch.manual_seed(config.seed)
    if config.initial:
        trained = UQDM.from_checkpoint(config.initial)
        net = UQDM(trained.config)
        net.load_state_dict(dict(trained.named_parameters()), strict=False)
        return net
    if config.model in PUBLISHED:
        return UQDM(PUBLISHED[config.model])
    if Path(config.model).is_file():
        return UQDM(UQDMConfig.from_json(config.model))
    raise ValueError(
        f"--model must be one of {', '.join(PUBLISHED)} or the path of a "
        f"configuration, got {config.model!r}"
    )


def ema_decay(n: int) -> float:
    """Decay of the average at its n-th update: it starts quick."""
    return min(EMA_DECAY, (1 + n) / (10 + n))


def _average(averages: Any, parameters: Any, n: Any) -> None:
    get_ema_multi_avg_fn(ema_decay(int(n)))(averages, parameters, n)


class TrainingState:
    """A model in training: with its average, its optimizers and the steps it made."""

    def __init__(self, net: UQDM, learning_rate: float, warmup: int):
        self.net, self.learning_rate, self.warmup = net, learning_rate, warmup
        self.ema = AveragedModel(net, multi_avg_fn=_average)
        self.average = cast(UQDM, self.ema.module)
        # the published order, so that the optimizer's state is in that of the averages
        self.parameters = [*net.denoiser.parameters(), *net.noise_schedule.parameters()]
        self.quantiles = [prior.quantiles for prior in net.latent_priors]
        betas, eps = (0.9, 0.999), 1e-8
        self.optimizer = torch.optim.Adam(
            self.parameters, learning_rate, betas, eps, fused=True
        )
        self.aux_optimizer = torch.optim.Adam(self.quantiles, AUX_LEARNING_RATE)
        self.step = 0

    def update(self) -> None:
        """One step along the gradients."""
        rate = self.learning_rate * min(1, (self.step + 1) / max(self.warmup, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for optimizer in (self.optimizer, self.aux_optimizer):
            optimizer.step()
            optimizer.zero_grad()
        self.ema.update_parameters(self.net)
        self.step += 1

    def state_dict(self) -> dict[str, Any]:
        average = self.average
        shadow = [*average.denoiser.parameters(), *average.noise_schedule.parameters()]
        return {
            # for from_checkpoint and CompressAI's programs
            "state_dict": average.state_dict(),
            "raw_state_dict": self.net.state_dict(),
            # the published layout
            "model": self.net.denoiser.state_dict(),
            "ema": {
                "decay": EMA_DECAY,
                "num_updates": self.ema.n_averaged.item(),
                "shadow_params": [p.detach() for p in shadow],
                "collected_params": None,
            },
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "aux_optimizer": self.aux_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`.

        Raises:
            ValueError: it is of something else, or of another model.
        """
        try:
            config = UQDMConfig.from_tensor(state["state_dict"]["config_bytes"])
            if config != self.net.config:
                raise ValueError(f"it is of another model: {config}")
            self._load(state)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"it is none of this trainer's: {error!r}") from error

    def _load(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["raw_state_dict"])
        self.average.load_state_dict(state["state_dict"])
        self.ema.n_averaged.fill_(state["ema"]["num_updates"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.aux_optimizer.load_state_dict(state["aux_optimizer"])
        self.step = int(state["step"])
