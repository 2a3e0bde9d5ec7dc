"""Denoising of images of any size by networks trained at 64x64, window by window."""

from collections.abc import Callable, Sequence

import torch

from torch import Tensor

from ...progress import Progress
from .denoiser import Denoiser

__all__ = ["WINDOW", "WindowedDenoiser", "run_in_windows", "window_starts"]

WINDOW = 64
"""Side of a window, in pixels, the training size of the published models."""


BATCH = {"cpu": 4, "cuda": 32}
"""Windows in a batch of the network. In double precision on a CPU the batch is a quarter of
that, which fits its caches."""


class WindowedDenoiser(Denoiser):
    """A denoiser that processes an image in overlapping windows.

    Args:
        overlap: overlap of neighbouring windows, in pixels, 0..32.
    """

    def __init__(self, overlap: int):
        super().__init__()
        self.overlap = overlap

    def denoise_windows(self, z: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """Denoise windows, see :meth:`.Denoiser.forward`.

        Args:
            z: windows of latents, ``[n, 3, h, w]``, h, w <= 64.
            gamma: negative log signal-to-noise ratio, ``[1]`` or ``[n]``.
        """
        raise NotImplementedError

    def forward(
        self, z: Tensor, gamma: Tensor, progress: Progress | None = None
    ) -> tuple[Tensor, Tensor]:
        """Predict the noise in ``z``, see :meth:`.Denoiser.forward`."""

        def network(windows: Tensor) -> Sequence[Tensor]:
            gammas = gamma.flatten()
            if len(gammas) > 1:
                gammas = gammas.repeat(len(windows) // len(gammas))
            outputs = self.denoise_windows(windows.to(self.dtype), gammas)
            return [output.to(z.dtype) for output in outputs]

        batch = BATCH["cpu" if self.device.type == "cpu" else "cuda"]
        if self.device.type == "cpu" and self.dtype == torch.float64:
            batch //= 4
        eps_hat, scale_factor = run_in_windows(network, z, self.overlap, batch, progress)
        return eps_hat, scale_factor


def window_starts(size: int, overlap: int) -> list[int]:
    """Return the starts of windows along a side; the last window ends at the edge."""
    if size <= WINDOW:
        return [0]
    return [*range(0, size - WINDOW, WINDOW - overlap), size - WINDOW]


def _profile(size: int, overlap: int) -> Tensor:
    # weights of 1 inside, falling linearly towards both borders over the overlap
    i = torch.arange(size, dtype=torch.float64, device="cpu") + 0.5
    return (torch.minimum(i, size - i) / max(overlap, 1)).clamp(max=1)


def run_in_windows(
    network: Callable[[Tensor], Sequence[Tensor]],
    z: Tensor,
    overlap: int,
    batch: int,
    progress: Progress | None = None,
) -> list[Tensor]:
    """Run a network window by window, and blend its outputs.

    Where windows overlap, outputs are averaged with weights that fall towards the border of
    each window.

    Args:
        network: function from ``[n, C, h, w]`` to tensors of that shape, h, w <= 64.
        z: input, ``[B, C, H, W]``.
        overlap: overlap of neighbouring windows, in pixels, 0..63.
        batch: windows in a batch of the network; memory grows with it.
        progress: called with the share of the windows that are done.

    Returns:
        the network's outputs for the whole image, each ``[B, C, H, W]``.
    """
    B, _, H, W = z.shape
    h, w = min(H, WINDOW), min(W, WINDOW)
    rows, columns = window_starts(H, overlap), window_starts(W, overlap)
    corners = [(y, x) for y in rows for x in columns]
    if len(corners) == 1:
        outputs = list(network(z))
        if progress:
            progress(1.0)
        return outputs

    row, column = _profile(h, overlap), _profile(w, overlap)
    weight = (row[:, None] * column).to(z)
    total_row, total_column = row.new_zeros(H), column.new_zeros(W)
    for y in rows:
        total_row[y : y + h] += row
    for x in columns:
        total_column[x : x + w] += column

    outputs = []
    step = max(1, batch // B)
    for first in range(0, len(corners), step):
        chunk = corners[first : first + step]
        windows = torch.cat([z[:, :, y : y + h, x : x + w] for y, x in chunk])
        results = network(windows)
        if not outputs:
            outputs = [r.new_zeros(B, r.shape[1], H, W) for r in results]
        for output, result in zip(outputs, results):
            for (y, x), r in zip(chunk, result.split(B)):
                output[:, :, y : y + h, x : x + w] += weight * r
        if progress:
            progress(min(first + step, len(corners)) / len(corners))
    norm_row, norm_column = 1 / total_row.to(z), 1 / total_column.to(z)
    return [output.mul_(norm_column).mul_(norm_row[:, None]) for output in outputs]
