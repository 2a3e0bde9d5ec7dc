"""Configuration of a UQDM: its diffusion, priors and network."""

import json

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from torch import Tensor

from ...checks import check_choice, check_count
from .components import DENOISERS, LATENT_PRIORS, PIXEL_PRIORS
from .denoiser import DenoiserConfig
from .diffusion import DiffusionConfig
from .unet import UNetConfig

__all__ = ["GAUSSIAN", "PUBLISHED", "UQDMConfig", "config_of"]


@dataclass(frozen=True)
class UQDMConfig(DiffusionConfig):
    """Configuration of a UQDM, by default that of ``uqdm-tiny``.

    Args:
        latent_prior: prior of the latent stages, one of :data:`.LATENT_PRIORS`.
        pixel_prior: prior of the last stage, one of :data:`.PIXEL_PRIORS`.
        latent_stages: number of latent stages before the pixels, by default all
            ``n_timesteps``. ``"softmax"`` needs all, ``"context"`` fewer.
        network: configuration of the denoiser, or a dict of its values, whose ``family``
            is one of :data:`.DENOISERS`.

    Further arguments are those of :class:`.DiffusionConfig`.

    Raises:
        ValueError: a value is out of range.
    """

    latent_prior: str = "uniform"
    pixel_prior: str = "softmax"
    latent_stages: int | None = None
    network: DenoiserConfig = UNetConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "latent_prior", tuple(LATENT_PRIORS))
        check_choice(self, "pixel_prior", tuple(PIXEL_PRIORS))
        if self.latent_stages is not None:
            check_count(self, "latent_stages")
        stages, T = self.latent_stages or self.n_timesteps, self.n_timesteps
        on_all = PIXEL_PRIORS[self.pixel_prior].on_all_latents
        if stages > T or on_all != (stages == T):
            raise ValueError(
                f"pixel_prior {self.pixel_prior!r} needs "
                f"{f'all {T}' if on_all else f'1 to {T - 1}'} latent stages of "
                f"n_timesteps {T}, got {stages}"
            )
        if isinstance(self.network, Mapping):  # from JSON or huggingface_hub
            object.__setattr__(self, "network", _network(self.network))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "UQDMConfig":
        """Return the configuration in a dict.

        Args:
            values: a dict from :func:`dataclasses.asdict`, or one in the published layout:
                all keys in one dict, at the top or in the section ``model``.

        Raises:
            ValueError: a key is unknown, or the published layout lacks a key.
        """
        values = values.get("model", values)
        if not isinstance(values, Mapping):
            raise ValueError(f"not a UQDM configuration: {values!r}")
        if "network" not in values:
            return _from_published(values)
        _check_keys(values, cls)
        return cls(**values)

    @classmethod
    def from_json(cls, path: str | Path) -> "UQDMConfig":
        """Return the configuration in a published ``config.json`` or one of ours.

        Raises:
            ValueError: the file is not JSON, or a key is unknown or missing.
        """
        try:
            values = json.loads(Path(path).read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not a JSON file: {error}") from error
        try:
            return cls.from_dict(values)
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path}: {error}") from error

    def to_tensor(self) -> Tensor:
        """Return the configuration as bytes of JSON, uint8, for a state dict."""
        text = json.dumps(asdict(self), sort_keys=True)
        return torch.from_numpy(np.array(bytearray(text.encode())))

    @classmethod
    def from_tensor(cls, data: Tensor) -> "UQDMConfig":
        """Return the configuration in a tensor from :meth:`to_tensor`.

        Raises:
            ValueError: the tensor is damaged.
        """
        try:
            return cls.from_dict(json.loads(bytes(data.tolist()).decode()))
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"damaged config_bytes: {error}") from error


def _names(config: type) -> set[str]:
    return {f.name for f in fields(config)}


def _check_keys(values: Mapping[str, Any], config: type) -> None:
    if unknown := sorted(set(values) - _names(config)):
        raise ValueError(f"not a UQDM configuration: unknown keys {unknown}")


def _network(values: Mapping[str, Any]) -> DenoiserConfig:
    family = values.get("family")
    if family not in DENOISERS:
        raise ValueError(
            f"no such family of denoisers: {family!r}; there are {sorted(DENOISERS)}"
        )
    _check_keys(values, DENOISERS[family])
    return DENOISERS[family](**values)


# Keys of the published layout that concern training only, or are the same in all models.
_OTHER_PUBLISHED_KEYS = {"ema_rate", "vocab_size"}


def _from_published(values: Mapping[str, Any]) -> UQDMConfig:
    """Return a configuration from the published layout, all keys in one dict."""
    network, diffusion = _names(UNetConfig) - {"family"}, _names(DiffusionConfig)
    keys = network | diffusion | {"vocab_size"}
    unknown = sorted(set(values) - keys - _OTHER_PUBLISHED_KEYS)
    missing = sorted(keys - set(values) - {"overlap"})
    if unknown or missing:
        raise ValueError(
            f"not a UQDM configuration: unknown keys {unknown}, missing {missing}"
        )
    if values["vocab_size"] != 256:
        raise ValueError(f"vocab_size must be 256, got {values['vocab_size']!r}")
    return UQDMConfig(
        **{name: values[name] for name in diffusion},
        network=UNetConfig(**{name: values[name] for name in network & set(values)}),
    )


PUBLISHED = {
    "uqdm-tiny": UQDMConfig(),
    "uqdm-small": UQDMConfig(
        network=UNetConfig(embedding_dim=64, n_blocks=8, norm_groups=16)
    ),
    "uqdm-medium": UQDMConfig(
        network=UNetConfig(embedding_dim=256, n_blocks=32, norm_groups=32)
    ),
    "uqdm-big": UQDMConfig(
        network=UNetConfig(embedding_dim=256, n_blocks=64, norm_groups=32)
    ),
}

GAUSSIAN = {
    name.replace("uqdm", "vdm"): replace(
        config,
        n_timesteps=20,
        prior_type="normal",
        learned_prior_scale=False,
        base_prior_scale="default",
    )
    for name, config in PUBLISHED.items()
}
"""The same networks as Gaussian diffusions. A step's prior has its posterior's variance.

The UQDM paper shows such a baseline with 20 steps."""


def config_of(state_dict: Mapping[str, Tensor]) -> UQDMConfig:
    """Return the published configuration with the width and depth of these weights.

    Raises:
        ValueError: no published model has them.
    """
    try:
        width = len(state_dict["denoiser.conv_in.bias"])
    except (KeyError, TypeError) as error:
        raise ValueError("not the weights of a UQDM: there is no conv_in") from error
    blocks = [name for name in state_dict if name.startswith("denoiser.down_blocks.")]
    depth = len({name.split(".")[2] for name in blocks})
    for config in PUBLISHED.values():
        network = cast(UNetConfig, config.network)
        if (network.embedding_dim, network.n_blocks) == (width, depth):
            return config
    raise ValueError(
        f"a UQDM of width {width} and depth {depth} is none of the published models: "
        "pass its config"
    )
