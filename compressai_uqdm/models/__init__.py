# CompressAI first: when its zoo is imported it imports us, and must find us whole.
import compressai.zoo  # noqa: F401  isort: skip

from .config import UQDMConfig
from .uqdm import UQDM, ContextUQDM
from .vdm import VDM

__all__ = ["VDM", "ContextUQDM", "UQDM", "UQDMConfig"]
