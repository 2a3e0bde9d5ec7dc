# First: when CompressAI's zoo is imported it imports us, and must find us whole.
from .. import libraries  # noqa: F401  isort: skip

from .config import UQDMConfig
from .cosine import CosineConfig, CosineUQDM
from .uqdm import UQDM
from .vdm import VDM

__all__ = ["UQDM", "VDM", "CosineConfig", "CosineUQDM", "UQDMConfig"]
