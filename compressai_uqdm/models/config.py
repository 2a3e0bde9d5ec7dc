"""What a UQDM is made of: the ``model`` section of the published ``config.json``."""

import json

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from torch import Tensor

__all__ = ["GAUSSIAN", "PUBLISHED", "UQDMConfig"]

# In the published files, but about training only.
_TRAINING_KEYS = {"ema_rate"}


@dataclass(frozen=True)
class UQDMConfig:
    """Configuration of a UQDM, by default that of ``uqdm-tiny``.

    Names and values are those of the published ``config.json``, section ``model``.

    Args:
        n_timesteps: T, the number of diffusion steps; the model has T + 1 stages.
        prior_type: distribution G that the uniform noise is convolved with.
        learned_prior_scale: whether the network also gives G's scale.
        base_prior_scale: the scale that the network's factor multiplies,
            ``sigma_t sqrt(c)`` (forward_kernel) or ``sigma_s sqrt(c)`` (default).
        noise_schedule: gamma(t), fixed or learned, always linear in t.
        fix_gamma_max: with a learned schedule, hold gamma(1) at ``gamma_max``.
        gamma_min: negative log signal-to-noise ratio at t = 0.
        gamma_max: the same at t = 1.
        attention_everywhere: attention in every block or only in the middle.
        use_fourier_features: append sines and cosines of the input.
        n_attention_heads: heads of each attention block.
        n_channels: colour channels, C.
        vocab_size: levels of a pixel; only 256 can be coded.
        embedding_dim: D, the width of the network.
        n_blocks: blocks on the way down; there is one more on the way up.
        norm_groups: groups of every group normalization.
        dropout_prob: dropout probability in residual blocks.
        overlap: pixels that neighbouring 64x64 windows of an image share, 0..32; not in
            the published files. Encoder and decoder must agree on it.

    Raises:
        ValueError: a value that no UQDM can have.
    """

    n_timesteps: int = 4
    prior_type: Literal["logistic", "normal", "gaussian"] = "logistic"
    learned_prior_scale: bool = True
    base_prior_scale: Literal["forward_kernel", "default"] = "forward_kernel"
    noise_schedule: Literal["learned_linear", "fixed_linear"] = "learned_linear"
    fix_gamma_max: bool = True
    gamma_min: float = -12.3
    gamma_max: float = 6.0
    attention_everywhere: bool = False
    use_fourier_features: bool = True
    n_attention_heads: int = 1
    n_channels: int = 3
    vocab_size: int = 256
    embedding_dim: int = 32
    n_blocks: int = 1
    norm_groups: int = 8
    dropout_prob: float = 0.0
    overlap: int = 16

    def __post_init__(self) -> None:
        choices = {
            "prior_type": ("logistic", "normal", "gaussian"),
            "base_prior_scale": ("forward_kernel", "default"),
            "noise_schedule": ("learned_linear", "fixed_linear"),
            "n_channels": (3,),
            "vocab_size": (256,),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {allowed}, got {getattr(self, name)!r}"
                )
        integers = ("n_timesteps", "n_attention_heads", "n_blocks", "norm_groups")
        for name in (*integers, "embedding_dim"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ValueError(
                    f"{name} must be a positive integer, got {getattr(self, name)!r}"
                )
        for name in ("gamma_min", "gamma_max", "dropout_prob"):
            if not isinstance(getattr(self, name), (int, float)):
                raise ValueError(f"{name} must be a number, got {getattr(self, name)!r}")
        D = self.embedding_dim
        if D < 2 or D % 2 or D % self.norm_groups or D % self.n_attention_heads:
            raise ValueError(
                "embedding_dim must be even and a multiple of norm_groups "
                f"({self.norm_groups}) and n_attention_heads "
                f"({self.n_attention_heads}), got {D}"
            )
        if not -20 <= self.gamma_min < self.gamma_max:
            raise ValueError(
                "expected -20 <= gamma_min < gamma_max, got "
                f"{self.gamma_min} and {self.gamma_max}"
            )
        if not (isinstance(self.overlap, int) and 0 <= self.overlap <= 32):
            raise ValueError(f"overlap must be an integer in 0..32, got {self.overlap!r}")
        if not 0 <= self.dropout_prob < 1:
            raise ValueError(f"dropout_prob must be in [0, 1), got {self.dropout_prob}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "UQDMConfig":
        """The configuration in a dict, whole or as section ``model`` of a file.

        Raises:
            ValueError: a key is unknown or missing.
        """
        values = values.get("model", values)
        if not isinstance(values, Mapping):
            raise ValueError(f"not a UQDM configuration: {values!r}")
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known - _TRAINING_KEYS)
        missing = sorted(known - set(values) - {"overlap"})
        if unknown or missing:
            raise ValueError(
                f"not a UQDM configuration: unknown keys {unknown}, missing {missing}"
            )
        return cls(**{name: values[name] for name in known & set(values)})

    @classmethod
    def from_json(cls, path: str | Path) -> "UQDMConfig":
        """The configuration in a published ``config.json`` or one of ours.

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
        """The configuration as bytes of JSON, uint8, to travel in a state dict."""
        text = json.dumps(asdict(self), sort_keys=True)
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    @classmethod
    def from_tensor(cls, data: Tensor) -> "UQDMConfig":
        """Inverse of :meth:`to_tensor`."""
        try:
            return cls.from_dict(json.loads(bytes(data.tolist()).decode()))
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"damaged config_bytes: {error}") from error


PUBLISHED = {
    "uqdm-tiny": UQDMConfig(),
    "uqdm-small": UQDMConfig(embedding_dim=64, n_blocks=8, norm_groups=16),
    "uqdm-medium": UQDMConfig(embedding_dim=256, n_blocks=32, norm_groups=32),
    "uqdm-big": UQDMConfig(embedding_dim=256, n_blocks=64, norm_groups=32),
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
"""The same networks as Gaussian diffusions, whose priors have their posteriors' variance.

The figures published with UQDM show such a baseline at 20 steps."""
