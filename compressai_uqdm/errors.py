"""Exceptions of decoding."""

__all__ = ["DamagedFileError", "DamagedStringError"]


class DamagedStringError(ValueError):
    """A string is damaged, or was coded with another model, image size or seed."""


class DamagedFileError(DamagedStringError):
    """A file is damaged, is not a ``.uqdm`` file, or does not fit the model."""
