"""What stands behind the page in demo/, where Gradio is installed."""

import math
import warnings

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from PIL import Image

import compressai_uqdm

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def app() -> ModuleType:
    pytest.importorskip("gradio")
    import app

    return app


@pytest.fixture(scope="module")
def coded(app: ModuleType, photograph: Image.Image) -> Any:
    return app.encoded(photograph.crop((100, 40, 196, 120)))


def test_slider_moves_as_a_decoder_does(app: ModuleType, coded: Any) -> None:
    """To and fro, within stages and at their ends."""
    header, first, second, third, whole = coded.ends
    middle = (third + whole) // 2
    ends = (middle, first, whole, first + 1, header, third, second, whole - 1, header + 9)
    for n_bytes in ends:
        expected = compressai_uqdm.decode(coded.data[:n_bytes]).image
        assert app.beginning(coded, n_bytes).tobytes() == expected.tobytes(), n_bytes


def test_stages_and_download(
    app: ModuleType, photograph: Image.Image, tmp_path: Path
) -> None:
    image = photograph.crop((100, 40, 196, 120))
    image.save(tmp_path / "cup.png")
    coded, _, stages, slider, download = app.start(str(tmp_path / "cup.png"))
    expected = compressai_uqdm.encode(image, app.MODEL)
    assert Path(download.value["path"]).read_bytes() == expected == coded.data
    assert Path(download.value["path"]).name == "cup.uqdm"
    assert (slider.minimum, slider.maximum) == (coded.ends[0], len(expected))

    quality = [app.psnr(picture, image) for picture, _ in stages]
    assert quality == sorted(quality) and quality[0] > 25
    assert quality[-1] == math.inf and "exact" in stages[-1][1]
    assert f"{len(expected):,} bytes" in stages[-1][1]


@pytest.mark.parametrize("name", ["JPEG", "WebP", "JPEG 2000"])
def test_other_codecs_take_no_more_bytes(app: ModuleType, coded: Any, name: str) -> None:
    qualities = []
    for budget in (60, 700, 2_000, 6_000, len(coded.data), 60_000):
        data = app.rival(coded, name, budget)
        if data is None:
            assert budget < 2_000
            continue
        assert len(data) <= budget
        qualities.append(app.psnr(app.opened(data), coded.image))
    assert qualities == sorted(qualities) and qualities[0] > 15
    assert name == "JPEG" or qualities[-1] == math.inf  # its lossless mode fits
    # where qualities are close together, what is found is nearly as large as it may be
    assert len(app.rival(coded, name, 2_000)) > 1_800


def test_table_tells_what_does_not_fit(app: ModuleType, coded: Any) -> None:
    *_, table = app.compare(coded, coded.ends[0])
    assert table.count("does not fit") == 3
    first, *_, table = app.compare(coded, coded.ends[3])
    assert first.count("…") == 4  # no numbers of other bytes
    assert table.count("dB") == 4 and f"| {coded.ends[3]:,} |" in table


def test_photographs_as_they_come(app: ModuleType, photograph: Image.Image) -> None:
    """Large, turned, with alpha: what is coded is upright and of a megapixel at most."""
    large = app.prepare(photograph.resize((2400, 1800)))
    assert 990_000 < large.width * large.height <= app.MAX_PIXELS
    assert app.prepare(Image.new("RGB", (100_000, 2))).size == (4096, 1)

    turned = photograph.copy()
    turned.getexif()[274] = 6
    assert app.prepare(turned).size == photograph.size[::-1]

    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    assert np.asarray(app.prepare(clear)).min() == 255
    assert app.prepare(photograph).tobytes() == photograph.tobytes()


def test_what_cannot_be_coded_is_told(app: ModuleType, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, told in (("deep.png", "8 bits"), ("text.png", "cannot identify")):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = app.start(str(tmp_path / name))
        assert found[0] is None and not found[1].visible
        assert any(told in str(warning.message) for warning in caught)
