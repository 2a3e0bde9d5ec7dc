"""Checks of arguments and of the values of a configuration."""

from collections.abc import Sequence
from typing import Any

__all__ = ["MAX_METADATA", "MAX_PIXELS", "check_choice", "check_count", "check_number"]

MAX_PIXELS = 1 << 27
"""Largest picture that is decoded, unless a file's reader allows more: a damaged size must
not take all memory."""


MAX_METADATA = 1 << 20
"""Bytes of metadata, unpacked, that a file may hold unless the user allows more: a file of
some kilobytes can claim any number."""


def check_choice(config: object, name: str, allowed: Sequence[Any]) -> None:
    """Raise a ValueError unless the field of that name is one of these."""
    if (value := getattr(config, name)) not in allowed:
        raise ValueError(f"{name} must be one of {tuple(allowed)}, got {value!r}")


def check_count(
    config: object, name: str, smallest: int = 1, largest: int = 1 << 31
) -> None:
    """Raise a ValueError unless the field of that name is an integer in that range."""
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    if not smallest <= value <= largest:
        kind = "a positive integer" if smallest == 1 else f"in {smallest}..{largest}"
        raise ValueError(f"{name} must be {kind}, got {value!r}")


def check_number(config: object, name: str) -> None:
    """Raise a ValueError unless the field of that name is a number."""
    if not isinstance(value := getattr(config, name), (int, float)):
        raise ValueError(f"{name} must be a number, got {value!r}")
