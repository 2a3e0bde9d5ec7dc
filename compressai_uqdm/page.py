"""Parts of pages in HTML that need nothing else, and pictures under a slider in them."""

import base64
import html
import io
import json
import math

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from PIL import Image

__all__ = [
    "ASSETS",
    "Cell",
    "Picture",
    "Received",
    "as_script",
    "escape",
    "picture_section",
    "slider",
    "style",
    "table",
]

ASSETS = Path(__file__).parent / "assets/page"

EXACT_SIDE = 256
"""Up to this many pixels a side, pictures are in the page as they are."""

PREVIEW_QUALITY = 90


def style() -> str:
    """The style sheet of all pages."""
    return (ASSETS / "page.css").read_text()


def slider() -> str:
    """The script that moves pictures; ``data.pictures`` is what they are."""
    return (ASSETS / "slider.js").read_text()


def escape(text: str) -> str:
    """Text as HTML."""
    return html.escape(text)


def as_script(data: object) -> str:
    """Data as JSON, for a script element."""
    # "</script>" and "<!--" must not appear in the page's script element
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        text: what is in it.
        attributes: of its element, as HTML.
    """

    text: str
    attributes: str = ""


def table(head: Sequence[str], body: Sequence[Sequence[Cell]]) -> str:
    """A table, in which the first cell of each row is its heading.

    Args:
        head: what stands above the columns, and where there is no room for these, before
            each cell.
        body: the rows.
    """
    lines = []
    for row in body:
        cells = []
        for i, (name, cell) in enumerate(zip(head, row)):
            tag = "td" if i else 'th scope="row"'
            cells.append(
                f'<{tag} data-head="{escape(name)}"{cell.attributes}>{escape(cell.text)}'
                f"</{tag[:2]}>"
            )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


# ---- pictures ----


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
        return f"{10 * math.log10(255**2 / self.mse):.2f} dB" if self.mse else "exact"


class Picture:
    """A picture of the page.

    Args:
        name: of the image.
        original: uint8, ``[H, W, 3]``.
        received: what is seen of it, by size: after stages, or any other cuts.
        exact_side: up to this many pixels a side it is in the page as it is.

    Attributes:
        is_exact: whether it is in the page as it is, not as a preview.
    """

    def __init__(
        self,
        name: str,
        original: np.ndarray,
        received: Sequence[Received],
        exact_side: int = EXACT_SIDE,
    ):
        self.name, self.original, self.received = name, original, received
        self.is_exact = max(original.shape[:2]) <= exact_side

    def data(self) -> dict[str, Any]:
        """What the page's slider needs; the last step is the original if none is given."""
        steps = [
            {
                "size": r.size,
                "words": f"{r.name} · {r.size:,} bytes · {r.bpp:.3f} bits per pixel · "
                f"{r.quality}",
                "src": self._embed(r.picture),
            }
            for r in self.received
        ]
        is_last = np.array_equal(self.received[-1].picture, self.original)
        original = None if is_last else self._embed(self.original)
        return {"name": self.name, "original": original, "steps": steps}

    def _embed(self, picture: np.ndarray) -> str:
        file = io.BytesIO()
        kind, options = "webp", {"quality": PREVIEW_QUALITY, "method": 6}
        if self.is_exact:
            kind, options = "png", {"optimize": True}
        Image.fromarray(picture).save(file, kind, **options)
        return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def picture_section(pictures: Sequence[Picture], coder: str) -> str:
    """A slider per picture; the page's script fills it."""
    if not pictures:
        return ""
    figures = []
    for i, picture in enumerate(pictures):
        height, width = picture.original.shape[:2]
        scale = max(1, 384 // max(height, width)) if picture.is_exact else 1
        pixelated = ' style="image-rendering: pixelated"' if scale > 1 else ""
        figures.append(
            f'<figure class="card picture"><div class="head"><h3 id="picture-{i}">'
            f'{escape(picture.name)}</h3><output for="slider-{i}" class="quiet"></output>'
            f'</div><img alt="{escape(picture.name)}, as far as received" '
            f'width="{scale * width}" height="{scale * height}"{pixelated}>'
            f'<div class="controls"><input type="range" id="slider-{i}" min="0" step="1" '
            f'max="{len(picture.received) - 1}" value="0" aria-labelledby="picture-{i}">'
            '<button type="button" aria-pressed="false">Original</button></div>'
            '<div class="bar"><div></div></div></figure>'
        )
    kinds = {picture.is_exact for picture in pictures}
    notes = {
        True: "Small pictures are shown exactly.",
        False: f"Large pictures are shown as previews, WebP of quality {PREVIEW_QUALITY}, "
        "which hide differences above some 40 dB; bytes and PSNR are of the pictures "
        "themselves.",
    }
    shown = " ".join(notes[kind] for kind in (True, False) if kind in kinds)
    return (
        '<section aria-labelledby="pictures"><h2 id="pictures">Pictures as they arrive'
        f"</h2><p>Real streams of {escape(coder)}; drag the slider, or use the arrow keys. "
        "The bar is the share of all bytes. "
        f"{shown}</p>{''.join(figures)}<noscript><p>The pictures need JavaScript."
        "</p></noscript></section>"
    )
