"""A picture as it arrives: what is seen once so many bytes of it are received."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from curves import psnr
from evaluate import Net, as_tensor, load
from images import InputError

from compressai_uqdm.models.base import Reconstruction

__all__ = ["Received", "load_coder", "receive"]


@dataclass(frozen=True)
class Received:
    """A picture from the first bytes of its stream.

    Args:
        name: how far this is, such as "stage 2".
        size: how many bytes.
        picture: uint8, ``[H, W, 3]``.
        mse: against the original, of values 0..255.
    """

    name: str
    size: int
    picture: np.ndarray
    mse: float

    @property
    def bpp(self) -> float:
        """Bits per pixel."""
        return 8 * self.size / (self.picture.shape[0] * self.picture.shape[1])

    @property
    def quality(self) -> str:
        """PSNR in words."""
        return f"{psnr(self.mse, self.picture.size):.2f} dB" if self.mse else "exact"


def load_coder(name: str) -> Net:
    """A model of the zoo that can code, ``name`` or ``name=checkpoint``.

    Raises:
        InputError: there is none, or no weights of it.
    """
    try:
        net = load(name, "ema")[1]
    except (ValueError, FileNotFoundError) as error:
        raise InputError(str(error)) from error
    if not net.arithmetics:
        raise InputError(f"{name} cannot code, so there are no bytes to receive")
    return net


@torch.no_grad()
def receive(
    net: Net, image: np.ndarray, reconstruction: Reconstruction = "denoise"
) -> Sequence[Received]:
    """What is seen of an image, uint8 ``[H, W, 3]``, after each stage of its stream."""
    out = net.compress(as_tensor(image, net))
    decoded = net.decompress(**out, reconstruction=reconstruction, progressive=True)
    sizes = np.cumsum([len(segment[0]) for segment in out["strings"]]).tolist()
    received = []
    for stage, (size, x_hat) in enumerate(zip(sizes, decoded["x_hats"]), 1):
        levels = (255 * x_hat[0]).round().to(torch.uint8)
        picture = levels.permute(1, 2, 0).cpu().numpy()
        mse = float(np.square(picture.astype(float) - image).mean())
        received.append(Received(f"stage {stage}", size, picture, mse))
    return received
