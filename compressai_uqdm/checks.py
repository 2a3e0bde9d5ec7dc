"""Checks of a configuration's values, and limits on untrusted files."""

from collections.abc import Sequence
from typing import Any

__all__ = ["MAX_METADATA", "MAX_PIXELS", "check_choice", "check_count", "check_number"]

MAX_PIXELS = 1 << 27
"""Largest number of pixels to decode by default, so that a damaged size cannot exhaust the
memory."""


MAX_METADATA = 1 << 20
"""Largest number of bytes of unpacked metadata by default, because a small compressed block
can unpack to any size."""


def check_choice(config: object, name: str, allowed: Sequence[Any]) -> None:
    """Raise a ValueError unless the named field is one of the allowed values."""
    if (value := getattr(config, name)) not in allowed:
        raise ValueError(f"{name} must be one of {tuple(allowed)}, got {value!r}")


def check_count(
    config: object, name: str, smallest: int = 1, largest: int = 1 << 31
) -> None:
    """Raise a ValueError unless the named field is an integer in smallest..largest."""
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    if not smallest <= value <= largest:
        kind = "a positive integer" if smallest == 1 else f"in {smallest}..{largest}"
        raise ValueError(f"{name} must be {kind}, got {value!r}")


def check_number(config: object, name: str) -> None:
    """Raise a ValueError unless the named field is a number."""
    if not isinstance(value := getattr(config, name), (int, float)):
        raise ValueError(f"{name} must be a number, got {value!r}")
