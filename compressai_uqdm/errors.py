"""What can be wrong with bytes that are to be decoded."""

__all__ = ["DamagedFileError", "DamagedStringError"]


class DamagedStringError(ValueError):
    """A string is not what this model wrote for this image size."""


class DamagedFileError(DamagedStringError):
    """A file is not what was written."""
