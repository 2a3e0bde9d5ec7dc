from .config import UQDMConfig
from .uqdm import UQDM, ContextUQDM

__all__ = ["ContextUQDM", "UQDM", "UQDMConfig"]
