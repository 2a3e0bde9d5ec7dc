"""A page in the browser that codes a photograph, and shows what a beginning of it gives.

pip install . gradio
python demo/app.py
"""

import bisect
import functools
import math
import os

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

# the threads of PyTorch, imported below, would wait for each other in a loop, and leave
# little of the processors to others
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import gradio as gr
import numpy as np

from gradio.processing_utils import save_bytes_to_cache
from PIL import Image, ImageOps
from rivals import RIVALS, largest, opened, psnr

import compressai_uqdm

from compressai_uqdm import StreamingDecoder, encode
from compressai_uqdm.files.container import parse_header
from compressai_uqdm.files.model import open_codec

MODEL = "uqdm-photo"
MAX_PIXELS = 1_000_000
MAX_SIDE = 4096
EXAMPLE = Path(compressai_uqdm.__file__).parent / "assets/demo/friends.webp"
ORIGINAL = "Original"

INTRODUCTION = f"""
# A photograph that arrives in stages

[UQDM](https://arxiv.org/abs/2412.10935) codes a picture by universally quantized diffusion:
any beginning of the file is a picture, and all of it is the exact one. Drop a photograph;
coding takes up to half a minute. One of more than {MAX_PIXELS:,} pixels is reduced to that
first: all that is shown, and the file, is of the reduced one.
"""
CSS = """
#numbers table { width: 100%; }
#numbers :is(th, td) { border-color: var(--border-color-primary); text-align: right;
  padding: 0.4rem; overflow-wrap: normal; word-break: normal; }
#numbers td { white-space: nowrap; }
#numbers :is(th, td):first-child { text-align: left; }
#stages .grid-wrap { min-height: 0; max-height: none; }
#stages .grid-container { padding-top: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); }
#stages .thumbnail-item { aspect-ratio: auto; height: auto; }
#stages .thumbnail-item img { height: auto; }
#stages .caption-label { position: static; max-width: 100%; white-space: normal; }
"""
CREDIT = (
    "Example: “friends” by Aitzol Berasategi, 2018, from `lomiri-wallpapers`, "
    "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/), cut and reduced. The model "
    "was not trained on it."
)


@dataclass(frozen=True, eq=False)  # caches know it by its identity
class Coded:
    """A photograph and its file.

    Args:
        image: RGB.
        data: the whole file.
        ends: bytes up to the end of the header, and of each stage.
    """

    image: Image.Image
    data: bytes
    ends: Sequence[int]


def prepare(image: Image.Image) -> Image.Image:
    """The photograph upright, in RGB, of ``MAX_PIXELS`` at most; alpha over white."""
    scale = min(
        math.sqrt(MAX_PIXELS / (image.width * image.height)), MAX_SIDE / max(image.size)
    )
    if scale < 1:
        image.thumbnail((int(image.width * scale) or 1, int(image.height * scale) or 1))
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # more than 8 bits: encode() says what to do
        return image
    if image.has_transparency_data:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), over)
    return Image.fromarray(np.asarray(image.convert("RGB")))  # without metadata


def encoded(image: Image.Image, progress: Any = None) -> Coded:
    """The file of a photograph.

    Raises:
        ValueError: it is of a kind that cannot be coded.
    """
    image = prepare(image)
    data = encode(image, open_codec(MODEL), progress=progress)
    found = parse_header(data)
    assert found is not None
    header, start = found
    return Coded(image, data, tuple(accumulate(header.lengths, initial=start)))


# ---- beginnings of a file ----


@functools.lru_cache(maxsize=8)
def _decoder(coded: Coded, stages: int) -> StreamingDecoder:
    """One that has so many whole stages, to be copied before it is fed more."""
    if stages:
        decoder, start = _decoder(coded, stages - 1).copy(), coded.ends[stages - 1]
    else:
        decoder, start = StreamingDecoder(open_codec(MODEL)), 0
    decoder.feed(coded.data[start : coded.ends[stages]])
    return decoder


@functools.lru_cache(maxsize=32)
def beginning(coded: Coded, n_bytes: int) -> Image.Image:
    """The picture in the first bytes; whole stages before their end are not decoded anew.

    Args:
        coded: the photograph.
        n_bytes: from the header's end to the file's.
    """
    stages = bisect.bisect_right(coded.ends, n_bytes) - 1
    decoder = _decoder(coded, stages)
    if n_bytes > coded.ends[stages]:
        decoder = decoder.copy()
        decoder.feed(coded.data[coded.ends[stages] : n_bytes])
    return decoder.picture().image


# ---- the page ----


@functools.lru_cache(maxsize=64)
def rival(coded: Coded, name: str, n_bytes: int) -> bytes | None:
    """The best file of another codec of so many bytes at most, or None if none is."""
    return largest(coded.image, name, n_bytes)


def numbers(coded: Coded, n_bytes: int, image: Image.Image) -> tuple[str, str, str]:
    """Bytes, bits per pixel and dB, as the page shows them."""
    bpp = 8 * n_bytes / (image.width * image.height)
    decibels = psnr(image, coded.image)
    quality = f"{decibels:.1f} dB" if math.isfinite(decibels) else "exact"
    return f"{n_bytes:,}", f"{bpp:.2f}", quality


def start(path: str | None, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:
    """Code a photograph, and fill the page: all but what depends on the byte slider."""
    nothing = None, gr.Column(visible=False), None, 0, None
    if path is None:
        return nothing
    try:
        with Image.open(path) as image:
            coded = encoded(image, lambda share: progress(share, desc="Coding"))
    except (Image.DecompressionBombError, OSError, ValueError) as error:
        gr.Warning(str(error), duration=None, title="This picture cannot be coded")
        return nothing
    stages = []
    for stage, end in enumerate(coded.ends[1:], 1):
        image = beginning(coded, end)
        size, bpp, quality = numbers(coded, end, image)
        stages.append((image, f"{stage}: {size} bytes, {bpp} bits per pixel, {quality}"))
    slider = gr.Slider(coded.ends[0], coded.ends[-1], coded.ends[1], step=1)
    file = save_bytes_to_cache(coded.data, f"{Path(path).stem}.uqdm", DOWNLOADS)
    label = f"Download the file, {len(coded.data):,} bytes"
    button = gr.DownloadButton(label, value=file)
    return coded, gr.Column(visible=True), stages, slider, button


def look(coded: Coded | None, n_bytes: int, beside: str) -> Any:
    """The picture of the first bytes, and another to lay beside it."""
    if coded is None:
        return None
    if beside == ORIGINAL:
        return beginning(coded, n_bytes), coded.image
    data = rival(coded, beside, n_bytes)
    other = opened(data) if data else Image.new("RGB", coded.image.size, "gray")
    return beginning(coded, n_bytes), other


def compare(coded: Coded | None, n_bytes: int) -> Iterator[str]:
    """A table of all codecs at these bytes, in Markdown, again with each row that is known.

    Others search for their best file, which takes seconds; numbers of other bytes must not
    stand there meanwhile.
    """
    if coded is None:
        yield ""
        return
    rows = {name: ("…", "", "") for name in ("**UQDM**", *RIVALS)}
    for name in rows:
        yield _table(rows)
        if name not in RIVALS:
            rows[name] = numbers(coded, n_bytes, beginning(coded, n_bytes))
        elif data := rival(coded, name, n_bytes):
            rows[name] = numbers(coded, len(data), opened(data))
        else:
            rows[name] = ("does not fit", "", "")
    yield _table(rows)


def _table(rows: dict[str, tuple[str, str, str]]) -> str:
    head = ["| | bytes | bits per pixel | PSNR |", "| --- | --- | --- | --- |"]
    body = (f"| {name} | {' | '.join(row)} |" for name, row in rows.items())
    return "\n".join([*head, *body])


def to_stage(coded: Coded, event: gr.SelectData) -> int:
    """The end of the stage that was clicked."""
    return coded.ends[event.index + 1]


with gr.Blocks(title="UQDM: a photograph in stages", delete_cache=(3600, 3600)) as page:
    DOWNLOADS = page.GRADIO_CACHE
    coded = gr.State(time_to_live=3600)
    gr.Markdown(INTRODUCTION)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            photo = gr.Image(
                type="filepath",
                image_mode=None,
                label="Photograph",
                sources=["upload"],
                height=300,
            )
            gr.Examples([str(EXAMPLE)], photo, label="Or this one")
            gr.Markdown(CREDIT)
        with gr.Column(scale=3, min_width=320, visible=False) as results:
            n_bytes = gr.Slider(0, 1, 0, step=1, label="Bytes that have arrived")
            beside = gr.Radio(
                [ORIGINAL, *RIVALS], value=ORIGINAL, label="Left: UQDM. Right:"
            )
            pair = gr.ImageSlider(format="png", show_label=False, max_height=560)
            table = gr.Markdown(elem_id="numbers")
            stages = gr.Gallery(
                label="Stages: choose one",
                format="png",
                columns=4,
                allow_preview=False,
                buttons=[],
                elem_id="stages",
            )
            download = gr.DownloadButton("Download")
    look_args: dict[str, Any] = {
        "fn": look,
        "inputs": [coded, n_bytes, beside],
        "outputs": pair,
        "show_progress": "hidden",
        "trigger_mode": "always_last",
    }
    compare_args = look_args | {
        "fn": compare,
        "inputs": [coded, n_bytes],
        "outputs": table,
    }
    outputs = [coded, results, stages, n_bytes, download]
    coding = photo.change(start, photo, outputs, show_progress_on=photo)
    coding.then(**look_args).then(**compare_args)
    stages.select(to_stage, coded, n_bytes).then(**look_args).then(**compare_args)
    beside.input(**look_args)
    n_bytes.input(**look_args)
    n_bytes.input(**compare_args)

if __name__ == "__main__":
    page.launch(css=CSS)
