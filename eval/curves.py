"""Rate-distortion curves as JSON, in CompressAI's format with more beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pytorch_msssim import ms_ssim

__all__ = ["MS_SSIM_SIDE", "curve", "distortion", "psnr", "table"]

MS_SSIM_SIDE = 161
"""Smallest side that MS-SSIM is defined for: five scales under a window of 11."""

Image = np.ndarray


def distortion(image: Image, decoded: Image, with_ms_ssim: bool) -> dict[str, float]:
    """Mean squared error, of values 0..255, and MS-SSIM of a decoded image.

    Args:
        image: uint8, ``[H, W, 3]``.
        decoded: the same.
        with_ms_ssim: whether to compute MS-SSIM; needs 161 pixels a side.
    """
    error = image.astype(np.int64) - decoded
    out = {"mse": float(np.square(error).sum() / error.size)}
    if with_ms_ssim:
        x, y = (
            torch.tensor(a).permute(2, 0, 1)[None].to(torch.float32)
            for a in (image, decoded)
        )
        out["ms-ssim-rgb"] = float(ms_ssim(x, y, data_range=255))
    return out


def psnr(mse: float, values: int) -> float:
    """PSNR in dB of a mean squared error over so many values.

    An exact image counts as having one value wrong by one, so that means stay finite.
    """
    return float(10 * np.log10(255**2 / max(mse, 1 / values)))


def curve(
    names: Sequence[str],
    pixels: Sequence[int],
    quality: Sequence[int | float],
    bits: np.ndarray,
    distortions: Sequence[Sequence[Mapping[str, float]]],
    lossless_bits: np.ndarray | None = None,
    estimated: bool = False,
) -> dict[str, Any]:
    """Results and those per image.

    Args:
        names: a name per image.
        pixels: their pixels.
        quality: the n rate points.
        bits: of each image at each rate point, ``[images, n]``.
        distortions: :func:`distortion` of each image at each rate point.
        lossless_bits: bits of each image's exact version, if there is one.
        estimated: whether bits are an estimate.
    """
    size = np.array(pixels)
    bpp = bits / size[:, None]
    mse = np.array([[d["mse"] for d in row] for row in distortions]).reshape(bpp.shape)
    psnrs = [[psnr(e, 3 * n) for e in row] for row, n in zip(mse, size)]
    over_set = (mse * size[:, None]).sum(0) / size.sum()
    results: dict[str, Any] = {
        "quality": list(quality),
        "bpp": bpp.mean(0).tolist(),
        "psnr-rgb": np.array(psnrs).reshape(bpp.shape).mean(0).tolist(),
        "psnr-of-mean-mse": [psnr(e, 3 * int(size.sum())) for e in over_set],
    }
    per_image: list[dict[str, Any]] = [
        {"name": name, "pixels": n, "bpp": list(b), "mse": list(e)}
        for name, n, b, e in zip(names, pixels, bpp.tolist(), mse.tolist())
    ]
    if len(quality) and "ms-ssim-rgb" in distortions[0][0]:
        for entry, row in zip(per_image, distortions):
            entry["ms-ssim-rgb"] = [d["ms-ssim-rgb"] for d in row]
        similar = np.array([entry["ms-ssim-rgb"] for entry in per_image])
        results["ms-ssim-rgb"] = similar.mean(0).tolist()
    out: dict[str, Any] = {"bits": "estimated" if estimated else "real", "results": results}
    if lossless_bits is not None:
        lossless = lossless_bits / size
        out["lossless_bpp"] = float(lossless.mean())
        for entry, b in zip(per_image, lossless.tolist()):
            entry["lossless_bpp"] = b
    return {**out, "per_image": per_image}


def table(result: Mapping[str, Any]) -> str:
    """A result as lines of text."""
    if "missing" in result:
        return f"{result['name']}: missing: {result['missing']}"
    r, lines = result["results"], [result["name"]]
    columns = [k for k in r if len(r[k]) == len(r["bpp"]) and r["bpp"]]
    if columns:
        lines.append("".join(f"{name:>18}" for name in columns))
        lines += [
            "".join(f"{v:18.4f}" for v in row) for row in zip(*(r[c] for c in columns))
        ]
    if "lossless_bpp" in result:
        lines.append(f"lossless at {result['lossless_bpp']:.4f} bits per pixel")
    return "\n".join(lines)
