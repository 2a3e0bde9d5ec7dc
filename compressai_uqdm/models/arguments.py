"""Checks of the arguments of models."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch

from torch import Tensor

from ..checks import MAX_PIXELS
from ..levels import image_to_levels

__all__ = ["Reconstruction", "check_images", "check_reconstruction", "check_shape"]

Reconstruction = Literal["denoise", "ancestral", "flow_based"]


def check_images(x: Tensor, device: torch.device) -> Tensor:
    """Return the levels 0..255 of images in [0, 1], int16, ``[B, 3, H, W]``.

    Raises:
        ValueError: ``x`` has another type, shape or range, or is on another device.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x)
        raise ValueError(f"expected images as a tensor of floats, got {kind}")
    if x.dim() != 4 or x.shape[1] != 3 or 0 in x.shape:
        hint = ""
        if x.dim() == 4 and x.shape[1] == 1:
            hint = "; a grayscale image can be passed as x.expand(-1, 3, -1, -1)"
        raise ValueError(f"expected RGB images [B, 3, H, W], got {list(x.shape)}{hint}")
    if x.device != device:
        raise ValueError(
            f"expected images on the model's device, {device}, got them on {x.device}: "
            "move one of them with .to()"
        )
    if not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(
            "expected images with values in [0, 1], got values from "
            f"{float(x.min()):g} to {float(x.max()):g}"
        )
    return image_to_levels(x)


def check_reconstruction(reconstruction: str) -> None:
    """Raise a ValueError unless the method of reconstruction exists."""
    if reconstruction not in get_args(Reconstruction):
        raise ValueError(
            f"reconstruction must be one of {get_args(Reconstruction)}, got "
            f"{reconstruction!r}"
        )


def check_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Return (H, W) of an image.

    Raises:
        ValueError: ``shape`` is not two positive integers, or has too many pixels.
    """
    try:
        H, W = (int(side) for side in shape)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected shape (H, W), got {shape!r}") from error
    if H < 1 or W < 1 or H * W > MAX_PIXELS:
        raise ValueError(f"expected a shape of 1 to {MAX_PIXELS} pixels, got {H} x {W}")
    return H, W
