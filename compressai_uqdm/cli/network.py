"""The network that a command runs: model, device, threads."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..launcher import number_in_environment
from .libraries import import_libraries
from .terminal import Failure, format_error

if TYPE_CHECKING:
    from ..files.model import Codec

__all__ = ["Network"]


@dataclass(frozen=True)
class Network:
    """Which network runs, and on what.

    Args:
        model: name, path or repository; None for that of the file, or the default.
        device: where PyTorch runs it.
        threads: of PyTorch.
        max_pixels: largest picture to accept.
        max_metadata: bytes of metadata to accept.
    """

    model: str | None
    device: str
    threads: int | None
    max_pixels: int
    max_metadata: int

    def prepare(self) -> str:
        """Import PyTorch, and have it use these threads and this device.

        Returns:
            the device of this process.

        Raises:
            Failure: there is no such device, or LOCAL_RANK is no number.
        """
        import_libraries()
        import torch

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            device, rank = self.device, number_in_environment("LOCAL_RANK", 0)
        except ValueError as error:
            raise Failure(f"{error}") from error
        if device == "cuda" and torch.cuda.is_available():
            device = f"cuda:{rank % torch.cuda.device_count()}"
        try:
            torch.zeros(1, device=device).item()
        except Exception as error:  # of many kinds
            raise Failure(
                f"PyTorch cannot use the device {device!r} here: leave --device out to "
                "run on the CPU"
            ) from error
        return device

    def codec(self) -> "Codec":
        """The model that encodes.

        Raises:
            Failure: it cannot be had.
        """
        device = self.prepare()
        from ..files.model import DEFAULT_MODEL, open_codec

        try:
            return open_codec(self.model or DEFAULT_MODEL, device)
        except (OSError, ValueError) as error:
            raise Failure(format_error(error)) from error
