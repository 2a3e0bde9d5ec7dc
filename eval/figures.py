"""Figures and tables of results: rate-distortion curves, strips of stages, BD-rates.

    python eval/figures.py curves eval/results/kodak kodak.png
    python eval/figures.py curves eval/published/imagenet64.json imagenet64.svg
    python eval/figures.py strip uqdm-tiny-ctx photograph.png strip.png
    python eval/figures.py bd-rate eval/results/kodak --anchor BPG

Results are files that evaluate.py and other_codecs.py wrote, folders of them, or
published figures; each is drawn as it stands there, without fits. A figure's kind follows
its name (png, pdf, svg, ...).
"""

import argparse

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from evaluate import METHODS
from images import InputError, read_image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from result_files import METRICS, Bjontegaard, Curve, common_metrics, find, read_curves
from runs import run_program
from stages import Received, load_coder, receive

__all__ = [
    "bd_table",
    "draw_curves",
    "draw_panel",
    "draw_strip",
    "limit",
    "ordered",
    "save",
]

COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
COLORS += ["#8c564b", "#7f7f7f", "#9467bd", "#a0a000", "#d62728", "#17becf"]
"""Okabe and Ito's, which colour-blind people tell apart, on light and dark; then more."""

RECONSTRUCTIONS = {
    "denoise": ("-", "o"),
    "ancestral": (":", "^"),
    "flow_based": ("--", "s"),
}
MARKERS = "DvPX<>*hpd"


@dataclass(frozen=True)
class Style:
    """How a curve is drawn: colour by codec, line by reconstruction, marker by either."""

    color: str
    linestyle: str
    marker: str


def ordered(curves: Sequence[Curve]) -> dict[Curve, Style]:
    """Curves with their styles, those with reconstructions first, and these in order."""
    methods = ["", *RECONSTRUCTIONS]
    curves = sorted(
        curves,
        key=lambda c: (not c.reconstruction, c.family, methods.index(c.reconstruction)),
    )
    families = list(dict.fromkeys(c.family for c in curves))
    out = {}
    for curve in curves:
        i = families.index(curve.family)
        plain = ("-", MARKERS[i % len(MARKERS)])
        line, marker = RECONSTRUCTIONS.get(curve.reconstruction, plain)
        out[curve] = Style(COLORS[i % len(COLORS)], line, marker)
    return out


def draw_curves(curves: Sequence[Curve], metrics: Sequence[str]) -> Figure:
    """A panel per metric, each over the rate, with one legend for all."""
    figure = Figure(figsize=(2.8 + 4.8 * len(metrics), 4.6), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics):
        draw_panel(axes, curves, metric)
    entries: dict[str, Any] = {}
    for axes in panels:
        entries |= {label: line for line, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside right upper",
        frameon=False,
        fontsize=8,
    )
    return figure


def draw_panel(axes: Axes, curves: Sequence[Curve], metric: str) -> None:
    """A metric over the rate.

    Every curve is a line of its points as read, labelled with its name; its id in SVG is
    its place among those given, with the metric. FID stands on a logarithmic axis, where
    0 cannot be shown.
    """
    mixed = len({_published(c) for c in curves}) > 1
    for curve, style in ordered(curves).items():
        points = curve.points(metric)
        if metric == "fid":
            points = [(rate, value) for rate, value in points if value > 0]
        if not points:
            continue
        label = curve.name + (", published" if mixed and _published(curve) else "")
        (line,) = axes.plot(
            *zip(*points),
            color=style.color,
            linestyle=style.linestyle,
            marker=style.marker,
            markersize=4,
            linewidth=1.8 if curve.reconstruction else 1.1,
            label=label,
        )
        line.set_gid(f"curve-{list(curves).index(curve)}")
    axes.set_xlabel("bits per pixel" + _kind_of_bits(curves))
    axes.set_ylabel(METRICS[metric])
    axes.set_yscale("log" if metric == "fid" else "linear")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _published(curve: Curve) -> bool:
    return curve.bits == "published"


def _kind_of_bits(curves: Sequence[Curve]) -> str:
    kinds = {c.bits for c in curves if c.bpp}
    return f" ({kinds.pop()})" if kinds in ({"real"}, {"estimated"}) else ""


def draw_strip(received: Sequence[Received]) -> Figure:
    """A picture at each stage, with its bits per pixel and PSNR: in a row, or in two."""
    height, width = received[0].picture.shape[:2]
    rows = 1 if len(received) <= 5 else 2
    columns = -(-len(received) // rows)
    side, words = 2.2, 0.42  # inches
    panel = side * height / width
    figure = Figure(figsize=(side * columns, rows * (panel + words)))
    top = 1 - words / (rows * (panel + words))
    figure.subplots_adjust(0, 0, 1, top, wspace=0.03, hspace=words / panel)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, stage in zip(panels, received):
        axes.imshow(
            stage.picture, interpolation="nearest" if width < 256 else "antialiased"
        )
        title = f"{stage.name}: {stage.quality}\n{stage.bpp:.3f} bits per pixel"
        axes.set_title(title, fontsize=8)
    return figure


def bd_table(curves: Sequence[Curve], anchor: Curve, metric: str) -> list[list[str]]:
    """Name, BD-rate and the values of the metric it is over, for every curve, as text."""
    rows = []
    for curve in curves:
        if curve.points(metric) and curve is not anchor:
            found = Bjontegaard.of(curve, anchor, metric)
            if found:
                span = f"{found.low:.2f} to {found.high:.2f}"
                rows.append([curve.name, f"{found.percent:+.1f}%", span])
            else:
                rows.append([curve.name, "–", "no common range"])
    return rows


def save(figure: Figure, path: Path) -> None:
    """Write a figure.

    Raises:
        InputError: there is no such kind of figure, or no such folder.
    """
    try:
        # text stays text in SVG, and nothing of the day or the machine is in the file
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "figure"}):
            kind = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
            metadata = kind.get(path.suffix[1:].lower())
            figure.savefig(path, dpi=150, metadata=metadata)
    except (ValueError, OSError) as error:
        raise InputError(f"cannot write the figure {path}: {error}") from error


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)

    curves = commands.add_parser("curves", help="rate-distortion curves")
    curves.add_argument("results", type=Path, nargs="+", help="result files or folders")
    curves.add_argument("figure", type=Path, help="figure to write")
    curves.add_argument(
        "--metrics", nargs="+", choices=METRICS, help="by default what the results have"
    )
    curves.add_argument("--only", nargs="+", help="draw curves whose names begin so")
    curves.add_argument("--max-bpp", type=float, help="right end of the figure")

    strip = commands.add_parser("strip", help="a picture at each stage")
    strip.add_argument("model", help="name in the zoo")
    strip.add_argument("picture", type=Path)
    strip.add_argument("figure", type=Path, help="figure to write")
    strip.add_argument("--reconstruction", choices=METHODS, default="denoise")

    bd = commands.add_parser("bd-rate", help="a table of BD-rates against an anchor")
    bd.add_argument("results", type=Path, nargs="+", help="result files or folders")
    bd.add_argument("--anchor", required=True, help="name of a curve, or how it begins")
    bd.add_argument("--metric", choices=METRICS, help="by default a PSNR that all have")

    args = parser.parse_args(argv)
    if args.command == "strip":
        net, image = load_coder(args.model), read_image(args.picture)
        save(draw_strip(receive(net, image, args.reconstruction)), args.figure)
        return
    found = [c for c in read_curves(args.results) if c.bpp]
    if args.command == "curves":
        if args.only:
            found = [c for c in found if c.name.startswith(tuple(args.only))]
            if not found:
                raise InputError(f"no curve's name begins with {' or '.join(args.only)}")
        figure = draw_curves(found, args.metrics or common_metrics(found))
        if args.max_bpp:
            limit(figure.axes, args.max_bpp)
        save(figure, args.figure)
    else:
        metric = args.metric or common_metrics(found)[0]
        anchor = find(found, args.anchor)
        print(f"BD-rate against {anchor.name}, of {METRICS[metric]}")
        for name, percent, span in bd_table(found, anchor, metric):
            print(f"{name:40}{percent:>10}   {span}")


def limit(panels: Sequence[Axes], max_bpp: float) -> None:
    """Show the curves up to a rate, and no higher than they come there."""
    for axes in panels:
        axes.set_xlim(0, max_bpp)
        points = [xy for line in axes.get_lines() for xy in np.asarray(line.get_xydata())]
        shown = [float(y) for x, y in points if x <= max_bpp]
        if shown and axes.get_yscale() == "linear":
            margin = 0.05 * (max(shown) - min(shown))
            axes.set_ylim(min(shown) - margin, max(shown) + margin)


if __name__ == "__main__":
    run_program(main)
