"""A picture as it arrives: what is seen once so many bytes of it are received."""

from collections.abc import Sequence

import numpy as np
import torch

from evaluate import Net, as_tensor, load
from images import InputError

from compressai_uqdm.models.arguments import Reconstruction
from compressai_uqdm.page import Received

__all__ = ["Received", "load_coder", "receive"]


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
