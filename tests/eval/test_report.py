"""The page of results: it needs nothing else, and shows what is in the files."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report

from images import ImageSet, InputError
from PIL import Image
from report import Picture
from result_files import Bjontegaard, Curve, read_curves
from stages import Received
from test_figures import result

REPOSITORY = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def images(squares: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "patches.npy"
    np.save(file, squares[:4, :40, :48])
    return file


@pytest.fixture(scope="module")
def folder(images: Path) -> Path:
    about = ImageSet(images).describe()
    ours = result("uqdm-tiny (denoise)", 1.25, images=about, lossless_bpp=12.5)
    ours["results"] |= {"encoding_time": [1.0, 2, 3, 4], "decoding_time": [0.0001] * 4}
    jpeg = result("JPEG", images=about, description="with <b>tags</b> & such")
    png = result("PNG", images=about, lossless_bpp=13.0, results={"bpp": []})
    bpg = {"name": "BPG", "images": about, "missing": "the program bpgenc"}
    results = images.parent / "results"
    results.mkdir()
    for i, data in enumerate((ours, jpeg, png, bpg)):
        (results / f"{i}.json").write_text(json.dumps(data))
    return results


class Page(HTMLParser):
    """A page's elements, with their attributes, and its texts."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        plots = text[text.index("<svg role") : text.rindex("</svg>") + 6]
        self.svg = f"<div>{plots}</div>"
        (data,) = re.findall(
            r'<script type="application/json" id="data">(.*)</script>', text
        )
        self.data: dict[str, Any] = json.loads(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(folder: Path, images: Path) -> Path:
    file = folder.parent / "page.html"
    options = ["--images", str(images), "--model", "uqdm-nano", "--pictures", "2"]
    report.main([str(folder), str(file), *options, "--anchor", "JPEG"])
    return file


def decode(source: str) -> np.ndarray:
    kind, data = source.split(",", 1)
    assert kind in ("data:image/png;base64", "data:image/webp;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_page_needs_nothing_else(page: Path) -> None:
    text = page.read_text()
    for tag, attributes in Page(text).elements:
        for name in ("src", "href", "xlink:href", "data", "action", "srcset"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:")), (tag, name, value)
        assert tag not in ("link", "iframe", "object", "base")
    assert not re.search(r"@import|url\((?!#)", text)


def test_curves_and_tables(page: Path, folder: Path) -> None:
    shown = Page(page.read_text())
    texts = [t for t in shown.texts if t]
    assert "patches: 4 images" in texts
    for text in ("12.500", "13.000", "1 to 4", "<0.001", "Lossless at 12.5000"):
        assert any(text in t for t in texts), text
    assert "not run: missing the program bpgenc" in texts
    assert "with <b>tags</b> & such" in texts  # as text, not as tags

    # a box per curve, for lines in all panels
    ids = {e.get("id") for e in ET.fromstring(shown.svg).iter()}
    boxes = [a["value"] for a in shown.all("input") if a.get("type") == "checkbox"]
    assert boxes == ["curve-0", "curve-1"]
    assert {f"{box}-{panel}" for box in boxes for panel in (0, 1)} <= ids
    assert "#123456" not in shown.svg and "currentColor" in shown.svg
    all_ids = [a["id"] for _, a in shown.elements if "id" in a]
    assert len(all_ids) == len(set(all_ids))

    ours, jpeg = (c for c in read_curves([folder]) if c.bpp)
    against_jpeg = shown.data["bd"][1]
    found = Bjontegaard.of(ours, jpeg, "psnr-of-mean-mse")
    assert found and against_jpeg[0] == [f"{found.percent:+.1f}%", "25.7 to 38.7 dB"]
    assert against_jpeg[1][0] == "anchor"
    assert shown.data["bd"][0][1][0] == "−20.0%"
    (chosen,) = [a for a in shown.all("option") if "selected" in a]
    assert chosen["value"] == "1"


def test_pictures_are_those_that_arrive(page: Path, images: Path) -> None:
    shown, squares = Page(page.read_text()), np.load(images)
    pictures = shown.data["pictures"]
    assert [p["name"] for p in pictures] == ["00000", "00003"]
    sliders = [a for a in shown.all("input") if a.get("type") == "range"]
    for picture, slider, original in zip(pictures, sliders, squares[[0, 3]], strict=True):
        steps = picture["steps"]
        assert len(steps) == 5 and slider["max"] == "4"
        assert [s["size"] for s in steps] == sorted({s["size"] for s in steps})
        errors = [np.square(decode(s["src"]).astype(int) - original).mean() for s in steps]
        assert errors == sorted(errors, reverse=True) and errors[-1] == 0
        for error, step in zip(errors, steps):
            quality = f"{10 * np.log10(255**2 / error):.2f} dB" if error else "exact"
            assert step["words"].endswith(quality)
            assert f"{step['size']:,} bytes" in step["words"]
        assert picture["original"] is None


def test_any_cuts_and_large_pictures(folder: Path) -> None:
    """Not only stages, not only to the end, and previews where pictures are large."""
    ramp = np.linspace(0, 255, 400 * 300).reshape(300, 400)
    original = np.stack([ramp, ramp[::-1], ramp[:, ::-1]], -1).astype(np.uint8)
    received = [
        Received(f"{size} bytes", size, original // step * step, 2.0)
        for size, step in ((100, 64), (150, 32), (201, 16), (999, 4))
    ]
    small = Picture(
        "small", original[:64, :64], [Received("1 byte", 1, original[:64, :64], 0)]
    )
    curves = read_curves([folder])
    text = report.report(curves, [Picture("<large>", original, received), small], "a codec")
    shown = Page(text)
    large = shown.data["pictures"][0]
    assert large["name"] == "<large>" and "<large>" in shown.texts
    for step, part in zip(large["steps"], received, strict=True):
        assert step["src"].startswith("data:image/webp")
        error = decode(step["src"]).astype(int) - part.picture
        assert np.square(error).mean() < 30
    assert np.square(decode(large["original"]).astype(int) - original).mean() < 30
    assert "shown as previews, WebP of quality 90" in text
    assert (
        decode(shown.data["pictures"][1]["steps"][0]["src"]) == original[:64, :64]
    ).all()
    assert "</script>" not in json.dumps(shown.data)


def test_without_pictures(folder: Path, tmp_path: Path) -> None:
    report.main([str(folder), str(tmp_path / "page.html")])
    shown = Page((tmp_path / "page.html").read_text())
    assert shown.data["pictures"] == [] and not shown.all("img")
    # the anchor is none of ours
    (chosen,) = [a for a in shown.all("option") if "selected" in a]
    assert chosen["value"] == "1"


@pytest.mark.slow
def test_whole_evaluation_of_two_images(tmp_path: Path, python: str) -> None:
    """As a newcomer tries it: few images, small ones, and the packaged model."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
        fine = coarse.resize((40, 36), Image.Resampling.BICUBIC)
        fine.save(tmp_path / f"images/{name}.png")
    results = tmp_path / "results"
    offline = {
        **dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9"),
        "TORCH_HOME": str(tmp_path / "no weights of others"),
        "PATH": os.pathsep.join([str(Path(python).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [REPOSITORY / "eval/all.sh", tmp_path / "images", results, "uqdm-nano"],
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (results / "curves.svg").stat().st_size > 0
    done = subprocess.run([REPOSITORY / "eval/all.sh"], capture_output=True, text=True)
    assert done.returncode == 2 and "usage:" in done.stderr
    shown = Page((results / "report.html").read_text())
    assert "images: 2 images" in shown.texts
    names = ("uqdm-nano (denoise)", "uqdm-nano (flow_based)", "JPEG 2000", "JPEG XL", "PNG")
    for name in names:
        assert name in shown.texts
    pictures = shown.data["pictures"]
    assert [picture["name"] for picture in pictures] == ["a.png", "b.png"]
    for picture in pictures:
        assert picture["steps"][-1]["words"].endswith("exact")
        source = np.asarray(Image.open(tmp_path / "images" / picture["name"]))
        assert (decode(picture["steps"][-1]["src"]) == source).all()


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
@pytest.mark.slow
def test_in_a_browser(page: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 390, "height": 800})
        said: list[str] = []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto(page.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        wide = "[...document.querySelectorAll('main *')].filter(e => e.checkVisibility()"
        wide += " && e.getBoundingClientRect().right > 390).map(e => e.outerHTML)"
        assert tab.evaluate(wide) == []  # plots and tables too
        steps = tab.evaluate("data.pictures[0].steps")
        figure = tab.locator(".picture").first
        slider, image = figure.locator("input"), figure.locator("img")
        slider.focus()
        for step in steps:
            assert figure.locator("output").inner_text() == step["words"]
            assert slider.get_attribute("aria-valuetext") == step["words"]
            assert image.get_attribute("src") == step["src"]
            tab.keyboard.press("ArrowRight")
        slider.fill("1")
        figure.locator("button").click()
        assert image.get_attribute("src") == steps[-1]["src"]
        figure.locator("button").click()
        assert image.get_attribute("src") == steps[1]["src"]

        line = tab.locator("#curve-0-0")
        assert line.is_visible()
        tab.locator(".legend input").first.uncheck()
        assert not line.is_visible()
        tab.select_option("#anchor", "0")
        cells = [cell.inner_text() for cell in tab.locator("[data-part='0']").all()]
        assert cells == ["anchor", "−20.0%"]
        browser.close()
        assert said == []


# ---- bad input ----


def test_bad_input(folder: Path, images: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "page.html")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no result files .* in .*empty"):
        report.main([str(tmp_path / "empty"), target])
    with pytest.raises(InputError, match="no curve: uqdm-tiny"):
        report.main([str(folder), target, "--anchor", "AVIF"])
    with pytest.raises(InputError, match="cannot write the page .*nowhere"):
        report.main([str(folder), str(tmp_path / "nowhere/page.html")])
    others = tmp_path / "others.npy"
    np.save(others, np.load(images)[:2])
    with pytest.raises(InputError, match=r"results in .* are not of .*others\.npy"):
        report.main([str(folder), target, "--images", str(others)])
    with pytest.raises(InputError, match="no folder or file of images"):
        report.main([str(folder), target, "--images", str(tmp_path / "none")])
    for bad in (["--pictures", "0"], ["--pictures", "5"]):
        with pytest.raises(InputError, match="expected 1 to 4 pictures, got"):
            report.main([str(folder), target, "--images", str(images), *bad])
    with pytest.raises(InputError, match="no model 'uqdm-huge' in the zoo"):
        report.main([str(folder), target, "--images", str(images), "--model", "uqdm-huge"])
    assert not Path(target).exists()
    with pytest.raises(InputError, match="no PSNR in common"):
        report.report([Curve("BPG", folder, missing="a program")])
