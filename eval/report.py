"""A page that shows the results in a folder: curves, tables, and pictures as they arrive.

    python eval/report.py eval/results/kodak kodak.html
    python eval/report.py eval/results/kodak kodak.html --images kodak/

The page is one file, and needs nothing else, no network either. With the images that the
results are of, some of them are coded and shown with a slider that goes through what is
received. Pictures of up to 256x256 are in the page as they are; larger ones as previews,
WebP of quality 90, while sizes and PSNR are always those of the exact pictures.
"""

import argparse
import io
import re

from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import matplotlib as mpl
import numpy as np

from evaluate import METHODS
from figures import Style, draw_panel, limit, ordered
from images import ImageSet, InputError
from matplotlib.figure import Figure
from result_files import (
    METRICS,
    Bjontegaard,
    Curve,
    common_metrics,
    find,
    read_curves,
)
from runs import run_program
from stages import load_coder, receive
from tqdm import tqdm

from compressai_uqdm.page import (
    Cell,
    Picture,
    as_script,
    escape,
    picture_section,
    slider,
    style,
    table,
)

__all__ = ["Picture", "report"]

DEFAULT_PICTURES = 3
INK = "#123456"  # stands for the page's colour of text, which follows its theme


def report(
    curves: Sequence[Curve],
    pictures: Sequence[Picture] = (),
    coder: str = "",
    anchor: str | None = None,
) -> str:
    """The page as HTML.

    Args:
        curves: the results, of one set of images.
        pictures: to be shown with a slider.
        coder: the model and reconstruction that they are of.
        anchor: name, or its beginning, of the curve that BD-rates are first against; by
            default one that is not ours.

    Raises:
        InputError: there is nothing to show, or no such anchor.
    """
    drawn = [c for c in ordered([c for c in curves if c.bpp])]
    metrics = common_metrics(drawn)
    others = [c for c in drawn if not c.reconstruction] or drawn
    first = find(drawn, anchor) if anchor else others[0]
    exact = [c for c in ordered(curves) if not c.bpp and not c.missing]
    missing = [c for c in curves if c.missing]
    images = next((c.images for c in curves if c.images), {})
    count = f": {images['count']} images" if "count" in images else ""
    template = Template((Path(__file__).parent / "report.html").read_text())
    return template.substitute(
        title=escape(f"{images.get('name', 'Results')}{count}"),
        subtitle=escape(
            f"{len(drawn) + len(exact)} curves and exact rates, each read from a result "
            "file. Rates are means over images, in bits per pixel."
        ),
        legend=legend(drawn),
        figure=figure(drawn, metrics),
        anchors=options(drawn, first),
        metric=escape(METRICS[metrics[0]]),
        summary=summary(drawn, exact, missing),
        style=style(),
        slider=slider(),
        pictures=picture_section(pictures, coder),
        points="".join(points(c, metrics) for c in drawn),
        data=as_script(
            {
                "bd": bd_rates(drawn, metrics[0]),
                "pictures": [picture.data() for picture in pictures],
            }
        ),
    )


# ---- curves ----


def options(curves: Sequence[Curve], first: Curve) -> str:
    """The anchors to choose from."""
    return "".join(
        f'<option value="{i}"{" selected" if curve is first else ""}>'
        f"{escape(curve.name)}</option>"
        for i, curve in enumerate(curves)
    )


def figure(curves: Sequence[Curve], metrics: Sequence[str]) -> str:
    """The curves as SVG, a panel each: all rates, low rates, then other metrics."""
    panels = [draw(curves, metrics[0], 0), draw(curves, metrics[0], 1, low_rates(curves))]
    return "".join(panels + [draw(curves, m, i) for i, m in enumerate(metrics[1:], 2)])


def draw(curves: Sequence[Curve], metric: str, i: int, up_to: float | None = None) -> str:
    """Panel ``i``, of rates up to a limit if there is one."""
    ink: dict[Any, Any] = dict.fromkeys(
        ["text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"],
        INK,
    )
    with mpl.rc_context({**ink, "svg.fonttype": "none", "svg.hashsalt": f"panel {i}"}):
        drawing = Figure(figsize=(5.25, 4.2), layout="constrained")
        ax = drawing.subplots()
        draw_panel(ax, curves, metric)
        ax.grid(color=INK, alpha=0.12)
        if up_to is not None:
            limit([ax], up_to)
        for line in ax.get_lines():
            if line.get_gid():  # once in the page
                line.set_gid(f"{line.get_gid()}-{i}")
        file = io.StringIO()
        drawing.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = svg.replace("'DejaVu Sans'", "system-ui")
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # which nothing refers to
    rates = "bits per pixel" if up_to is None else f"up to {up_to:.2g} bits per pixel"
    label = escape(f"{METRICS[metric]} over {rates}; the tables have all")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def low_rates(curves: Sequence[Curve]) -> float:
    """A rate that three in four points lie below, and so the crowded part of the figure."""
    return float(np.quantile([rate for c in curves for rate in c.bpp], 0.75))


def legend(curves: Sequence[Curve]) -> str:
    """A box to tick for every curve."""
    entries = "".join(
        f'<label><input type="checkbox" value="curve-{i}" checked>{swatch(style)}'
        f"{escape(curve.name)}</label>"
        for i, (curve, style) in enumerate(ordered(curves).items())
    )
    return (
        f'<fieldset class="legend"><legend class="quiet">Shown</legend>{entries}</fieldset>'
    )


def swatch(style: Style) -> str:
    dashes = {"-": "", ":": ' stroke-dasharray="2 3"', "--": ' stroke-dasharray="7 3"'}
    return (
        f'<svg viewBox="0 0 32 10" aria-hidden="true"><path d="M0 5h32" fill="none" '
        f'stroke="{style.color}" stroke-width="3"{dashes[style.linestyle]}/></svg>'
    )


# ---- tables ----


def summary(
    curves: Sequence[Curve], exact: Sequence[Curve], missing: Sequence[Curve]
) -> str:
    """A row per codec."""
    head = [
        "codec",
        "lossless, bpp",
        "BD-rate",
        "over",
        "encode, s",
        "decode, s",
        "rates are",
    ]
    body = []
    for i, c in enumerate(curves):
        lossless = "" if c.lossless_bpp is None else f"{c.lossless_bpp:.3f}"
        bd = [Cell("", f' data-bd="{i}" data-part="{part}"') for part in (0, 1)]
        times = [Cell(time_range(c, side)) for side in ("encoding", "decoding")]
        kind = Cell(c.bits, ' class="left"')
        body.append([Cell(c.name), Cell(lossless), *bd, *times, kind])
    for c in exact:
        times = [Cell(time_range(c, side)) for side in ("encoding", "decoding")]
        cells = [
            Cell(f"{c.lossless_bpp:.3f}" if c.lossless_bpp else ""),
            Cell(""),
            Cell(""),
        ]
        body.append([Cell(c.name), *cells, *times, Cell(c.bits, ' class="left"')])
    for c in missing:
        note = Cell(f"not run: missing {c.missing}", ' class="left long" colspan="6"')
        body.append([Cell(c.name), note])
    return table(head, body)


def time_range(curve: Curve, side: str) -> str:
    """Seconds per image, from the fastest point to the slowest."""
    kinds = (f"{side}_time", f"lossless_{side}_time")
    seconds = [t for kind in kinds for t in curve.times.get(kind, [])]
    if not seconds:
        return ""
    low, high = (duration(t) for t in (min(seconds), max(seconds)))
    return low if low == high else f"{low} to {high}"


def duration(seconds: float) -> str:
    if seconds < 0.0005:
        return "<0.001"
    return f"{seconds:.3f}" if seconds < 1 else f"{seconds:.3g}"


def bd_rates(curves: Sequence[Curve], metric: str) -> list[list[list[str]]]:
    """By anchor and curve, the BD-rate and the range of the metric it is over."""
    out = []
    for anchor in curves:
        against = []
        for curve in curves:
            found = Bjontegaard.of(curve, anchor, metric)
            if curve is anchor:
                against.append(["anchor", ""])
            elif found is None:
                against.append(["–", "no common range"])
            else:
                percent = f"{found.percent:+.1f}%".replace("-", "−")
                against.append([percent, f"{found.low:.1f} to {found.high:.1f} dB"])
        out.append(against)
    return out


def points(curve: Curve, metrics: Sequence[str]) -> str:
    """All points of a curve, folded away."""
    known = [m for m in METRICS if m in curve.metrics]
    times = [t for t in ("encoding_time", "decoding_time") if t in curve.times]
    head = ["bits per pixel", *(METRICS[m] for m in known)]
    head += [f"{t.removesuffix('_time')}, s" for t in times]
    body = []
    for i, rate in enumerate(curve.bpp):
        values = [curve.metrics[m][i] for m in known]
        cells = [Cell("exact" if v is None else f"{v:.4f}") for v in values]
        cells += [Cell(duration(curve.times[t][i])) for t in times]
        body.append([Cell(f"{rate:.4f}"), *cells])
    text = table(head, body)
    if curve.lossless_bpp is not None:
        text += f"<p>Lossless at {curve.lossless_bpp:.4f} bits per pixel.</p>"
    note = f'<p class="quiet">{escape(curve.description)}</p>' if curve.description else ""
    return f"<details><summary>{escape(curve.name)}</summary>{note}{text}</details>"


# ---- pictures ----


def choose(images: ImageSet, count: int | None) -> list[int]:
    """Places of so many images, evenly from the whole set.

    Args:
        images: the set.
        count: how many; by default three, or all if there are fewer.

    Raises:
        InputError: there are not so many.
    """
    if count is None:
        count = min(DEFAULT_PICTURES, len(images))
    if not 1 <= count <= len(images):
        raise InputError(f"expected 1 to {len(images)} pictures, got {count}")
    return sorted({round(i) for i in np.linspace(0, len(images) - 1, count)})


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", type=Path, help="folder of result files")
    parser.add_argument("page", type=Path, help="HTML file to write")
    parser.add_argument(
        "--anchor", help="first anchor of BD-rates, a name or its beginning"
    )
    parser.add_argument("--images", type=Path, help="the images, to show some of them")
    parser.add_argument("--model", default="uqdm-tiny-ctx", help="what codes them")
    parser.add_argument("--reconstruction", choices=METHODS, default="denoise")
    parser.add_argument(
        "--pictures",
        type=int,
        help=f"how many to show, by default up to {DEFAULT_PICTURES}",
    )
    args = parser.parse_args(argv)

    curves = read_curves([args.results])
    pictures = []
    if args.images:
        images = ImageSet(args.images)
        known = {c.images["digest"] for c in curves if "digest" in c.images}
        if known and images.digest not in known:
            raise InputError(f"the results in {args.results} are not of {args.images}")
        chosen, net = choose(images, args.pictures), load_coder(args.model)
        for i in tqdm(chosen, "coding"):
            received = receive(net, images[i], args.reconstruction)
            pictures.append(Picture(images.names[i], images[i], received))
    coder = f"{args.model} ({args.reconstruction})"
    page = report(curves, pictures, coder, args.anchor)
    try:
        args.page.write_text(page)
    except OSError as error:
        raise InputError(f"cannot write the page {args.page}: {error}") from error
    print(f"{args.page}: {len(page) / 2**20:.1f} MiB")


if __name__ == "__main__":
    run_program(main)
