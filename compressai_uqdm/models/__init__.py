from .config import UQDMConfig
from .uqdm import UQDM

__all__ = ["UQDM", "UQDMConfig"]
