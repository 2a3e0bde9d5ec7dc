"""Result files and published figures, read for figures, tables and reports."""

import json
import math
import re

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bjontegaard import bd_rate
from images import InputError

__all__ = ["METRICS", "Bjontegaard", "Curve", "common_metrics", "find", "read_curves"]

METRICS = {
    "psnr-rgb": "PSNR (dB), mean over images",
    "psnr-of-mean-mse": "PSNR (dB) of the mean squared error",
    "ms-ssim-rgb": "MS-SSIM",
    "fid": "FID",
}
"""What a curve shows over its rate, with the words on its axis."""

Value = float | None


@dataclass(frozen=True, eq=False)
class Curve:
    """What is known of one codec on one set of images.

    Args:
        name: as it stands in legends and tables; of our models, with the reconstruction
            in brackets.
        file: where it was read.
        bpp: bits per pixel of the n rate points; none if the codec has only an exact mode.
        metrics: by name, n values each; None where there is none.
        description: how it came about.
        bits: ``"real"``, ``"estimated"`` or ``"published"``.
        lossless_bpp: bits per pixel of the exact images.
        times: seconds per image by name, n values each, and of the exact mode a single
            one.
        images: name, count and digest of the images.
        missing: what the codec lacked, if it was not run.
    """

    name: str
    file: Path
    bpp: Sequence[float] = ()
    metrics: dict[str, list[Value]] = field(default_factory=dict)
    description: str = ""
    bits: str = "real"
    lossless_bpp: float | None = None
    times: dict[str, list[float]] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    missing: str | None = None

    @property
    def family(self) -> str:
        """The name without the reconstruction."""
        return re.sub(r" \((denoise|ancestral|flow_based)\)$", "", self.name)

    @property
    def reconstruction(self) -> str:
        """The reconstruction, empty where there is only one."""
        return self.name[len(self.family) :].strip(" ()")

    def points(self, metric: str) -> list[tuple[float, float]]:
        """Rates and the finite values of a metric."""
        values = self.metrics.get(metric, [])
        return [(r, v) for r, v in zip(self.bpp, values) if v is not None]


def read_curves(paths: Sequence[Path]) -> list[Curve]:
    """The curves in result files, folders of them, and files of published figures.

    Raises:
        InputError: there are none, a file is neither, or results are of different images.
    """
    curves: list[Curve] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"no result file or folder of them at {path}")
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not files:
            raise InputError(f"no result files (*.json) in {path}")
        for file in files:
            curves += _read(file)
    measured = [c for c in curves if "digest" in c.images]
    for curve in measured[1:]:
        if curve.images["digest"] != measured[0].images["digest"]:
            raise InputError(
                f"{curve.file} is of other images ({_images(curve)}) than "
                f"{measured[0].file} ({_images(measured[0])})"
            )
    names = [(c.name, c.bits == "published") for c in curves]
    for curve, name in zip(curves, names):
        if names.count(name) > 1:
            raise InputError(f"{curve.file} has the name of another curve, {curve.name}")
    return curves


def _images(curve: Curve) -> str:
    return f"{curve.images.get('count')} of {curve.images.get('name')}"


def _read(file: Path) -> list[Curve]:
    try:
        data = json.loads(file.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{file} cannot be read as JSON: {error}") from error
    try:
        if "curves" in data:
            return [_published(file, data, c) for c in data["curves"].values()]
        return [_measured(file, data)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{file} is not a result file: expected a name, and results with bpp and as "
            f"many values of each metric, or curves ({error!r})"
        ) from error


def _measured(file: Path, data: dict[str, Any]) -> Curve:
    about = {"description": data.get("description", ""), "images": data.get("images", {})}
    if "missing" in data:
        return Curve(str(data["name"]), file, missing=str(data["missing"]), **about)
    results = data["results"]
    times = {name: results[name] for name in results if name.endswith("_time")}
    for name in ("encoding_time", "decoding_time"):
        if f"lossless_{name}" in data:
            times[f"lossless_{name}"] = [float(data[f"lossless_{name}"])]
    return Curve(
        str(data["name"]),
        file,
        [float(rate) for rate in results["bpp"]],
        {m: _values(results[m], results["bpp"]) for m in METRICS if m in results},
        bits=data.get("bits", "real"),
        lossless_bpp=data.get("lossless_bpp"),
        times=times,
        **about,
    )


def _published(file: Path, data: dict[str, Any], curve: dict[str, Any]) -> Curve:
    bpp, psnr = curve["bpp"], curve["psnr"]
    exact = [rate for rate, value in zip(bpp, psnr) if value is None]
    return Curve(
        curve["name"],
        file,
        bpp,
        {"psnr-of-mean-mse": _values(psnr, bpp), "fid": _values(curve["fid"], bpp)},
        description=data["source"],
        bits="published",
        lossless_bpp=exact[0] if exact else None,
        images={"name": data["images"]},
    )


def _values(values: Sequence[Value], bpp: Sequence[float]) -> list[Value]:
    if len(values) != len(bpp):
        raise ValueError(f"{len(bpp)} rates but {len(values)} values")
    return [None if v is None or not math.isfinite(v) else float(v) for v in values]


def common_metrics(curves: Sequence[Curve]) -> list[str]:
    """The PSNR that all curves have, and what else any of them has.

    Raises:
        InputError: the curves have no PSNR in common.
    """
    drawn = [c for c in curves if c.bpp]
    psnrs = ("psnr-of-mean-mse", "psnr-rgb")
    common = [m for m in psnrs if all(m in c.metrics for c in drawn)]
    if not drawn or not common:
        raise InputError(
            "the results have no PSNR in common, some of "
            f"{', '.join(str(c.file) for c in curves[:3])}"
        )
    others = [m for m in ("ms-ssim-rgb", "fid") if any(m in c.metrics for c in drawn)]
    return [common[0], *others]


def find(curves: Sequence[Curve], name: str) -> Curve:
    """The curve of a name, or whose name alone begins so.

    Raises:
        InputError: there is none with points.
    """
    with_points = [c for c in curves if c.bpp]
    exact = [c for c in with_points if c.name == name]
    found = exact or [c for c in with_points if c.name.startswith(name)]
    if len(found) != 1:
        names = ", ".join(c.name for c in found or with_points)
        raise InputError(
            f"{name} is {'no' if not found else 'more than one'} curve: {names}"
        )
    return found[0]


@dataclass(frozen=True)
class Bjontegaard:
    """Bits more (or, if negative, fewer) than an anchor takes at the same quality.

    Args:
        percent: the Bjontegaard delta rate.
        low: the lower end of the values of the metric that both curves reach.
        high: the upper end.
    """

    percent: float
    low: float
    high: float

    @classmethod
    def of(cls, curve: Curve, anchor: Curve, metric: str) -> "Bjontegaard | None":
        """The delta of a curve against an anchor, None where they do not overlap.

        Curves are interpolated monotonically (piecewise cubic Hermite), between the points
        at which more bits give more quality.
        """
        rates, values = _rising(curve.points(metric))
        anchor_rates, anchor_values = _rising(anchor.points(metric))
        if min(len(rates), len(anchor_rates)) < 2:
            return None
        low = max(values[0], anchor_values[0])
        high = min(values[-1], anchor_values[-1])
        if low >= high:
            return None
        percent = bd_rate(
            anchor_rates,
            anchor_values,
            rates,
            values,
            method="pchip",
            require_matching_points=False,
            min_overlap=0,
        )
        return cls(float(percent), low, high)


def _rising(points: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    kept: list[tuple[float, float]] = []
    for rate, value in sorted(points):
        if rate > 0 and (not kept or (rate > kept[-1][0] and value > kept[-1][1])):
            kept.append((rate, value))
    rates, values = zip(*kept) if kept else ((), ())
    return np.array(rates), np.array(values)
