"""Families of denoisers, by the name that a configuration gives them."""

from .base import DenoiserConfig
from .vdm_unet import UNetConfig

__all__ = ["DENOISERS"]

DENOISERS: dict[str, type[DenoiserConfig]] = {
    config.family: config for config in (UNetConfig,)
}
