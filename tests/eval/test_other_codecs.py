"""Other codecs: their figures are those of the codecs, and what is missing is named."""

import json

from collections.abc import Callable
from pathlib import Path
from typing import Any

import compressai.utils.bench.__main__ as bench_program
import numpy as np
import other_codecs
import pytest
import torch

from compressai.utils import bench
from compressai.zoo import image_models
from images import InputError
from PIL import Image, ImageEnhance, ImageOps

RUN_HERE = ("JPEG", "JPEG 4:4:4", "JPEG 2000", "WebP", "AVIF", "JPEG XL", "PNG")
LOSSLESS = ("JPEG 2000", "WebP", "JPEG XL", "PNG")


@pytest.fixture(scope="session")
def crops(photograph: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two photographs of 161x170.

    In paler colours: halved chroma costs saturated red so much that JPEG and WebP would
    end below 40 dB.
    """
    folder = tmp_path_factory.mktemp("crops")
    image = ImageEnhance.Color(photograph).enhance(0.7).crop((159, 70, 320, 240))
    image.save(folder / "03.png")
    ImageOps.mirror(image).save(folder / "05.png")
    return folder


@pytest.fixture(scope="session")
def results(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("output")
    run(crops, output, *RUN_HERE)
    assert [f for f in output.iterdir() if f.suffix != ".json"] == []
    files = {name: other_codecs.result_file(output, name) for name in RUN_HERE}
    return {name: json.loads(file.read_text()) for name, file in files.items()}


def run(images: Path, output: Path, *arguments: str) -> None:
    other_codecs.main(["--output", str(output), str(images), *arguments])


@pytest.mark.parametrize("name", RUN_HERE)
def test_every_codec_runs(results: dict[str, Any], name: str) -> None:
    result = results[name]
    r = result["results"]
    assert result["name"] == name and len(result["per_image"]) == 2
    for metric in ("quality", "bpp", "psnr-rgb", "psnr-of-mean-mse"):
        assert r[metric] == sorted(r[metric])
        assert all(
            len(p[m]) == len(r["bpp"]) for p in result["per_image"] for m in ("mse",)
        )
    if name != "PNG":
        assert r["bpp"][0] < 1 < 4 < r["bpp"][-1]
        assert r["psnr-rgb"][0] < 29 and r["psnr-rgb"][-1] > 40
        assert 0.5 < r["ms-ssim-rgb"][0] < r["ms-ssim-rgb"][-1] < 1
        assert min(r["encoding_time"] + r["decoding_time"]) > 0
    assert ("lossless_bpp" in result) == (name in LOSSLESS)
    if name in LOSSLESS:
        assert max(r["bpp"], default=8) < result["lossless_bpp"] < 20


def test_png_is_the_size_of_its_files(results: dict[str, Any], crops: Path) -> None:
    sizes = []
    for file in sorted(crops.iterdir()):
        Image.open(file).save(crops.parent / "again.png", optimize=True)
        sizes.append((crops.parent / "again.png").stat().st_size)
    bpp = 8 * np.mean(sizes) / (161 * 170)
    assert results["PNG"]["lossless_bpp"] == pytest.approx(bpp)


@pytest.mark.parametrize("name", ["JPEG", "WebP"])
def test_figures_are_those_of_compressai_bench(
    results: dict[str, Any], crops: Path, name: str
) -> None:
    r = results[name]["results"]
    codec = getattr(bench.codecs, name)(None)
    expected = bench_program.collect(codec, crops, [40, 80], ["psnr-rgb", "ms-ssim-rgb"])
    at = [r["quality"].index(quality) for quality in (40, 80)]
    for metric in ("bpp", "psnr-rgb", "ms-ssim-rgb"):
        assert [r[metric][i] for i in at] == pytest.approx(expected[metric], rel=1e-5)


def test_compressai_models(squares: np.ndarray) -> None:
    """Of any size, with the bits of their strings; untrained, since weights are far."""

    def load(quality: int) -> torch.nn.Module:
        torch.manual_seed(quality)
        net = image_models["bmshj2018-hyperprior"](quality, pretrained=False)
        net.update()
        return net

    image = squares[0, :50, :40]
    coded = other_codecs.CompressAIModel(load)(Image.fromarray(image), 3)
    assert coded.image.shape == (50, 40, 3) and coded.image.dtype == np.uint8
    padded = np.zeros((64, 64, 3), np.uint8)
    padded[7:57, 12:52] = image
    x = torch.tensor(padded).permute(2, 0, 1)[None].float() / 255
    strings = load(3).eval().compress(x)["strings"]
    assert coded.bits == 8 * sum(len(s[0]) for s in strings)


def test_what_is_missing_is_named(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(other_codecs.shutil, "which", lambda program: None)

    def no_network(*arguments: Any, **options: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("compressai.zoo.image.load_state_dict_from_url", no_network)
    run(crops, tmp_path, "BPG", "mbt2018-mean", "PNG")
    missing = {
        name: json.loads(other_codecs.result_file(tmp_path, name).read_text())
        for name in ("BPG", "mbt2018-mean", "PNG")
    }
    assert missing["BPG"]["missing"] == "the program bpgenc and bpgdec"
    assert "no network" in missing["mbt2018-mean"]["missing"]
    assert "results" not in missing["BPG"] and "lossless_bpp" in missing["PNG"]

    # once it is there it takes its place, and stays where it is missing again
    available = other_codecs.Codec("here", (), None, other_codecs.png().lossless)
    monkeypatch.setitem(other_codecs.CODECS, "BPG", lambda: available)
    run(crops, tmp_path, "BPG")
    measured = (tmp_path / "bpg.json").read_text()
    assert "lossless_bpp" in measured
    monkeypatch.setitem(other_codecs.CODECS, "BPG", other_codecs.bpg)
    run(crops, tmp_path, "BPG")
    assert (tmp_path / "bpg.json").read_text() == measured
    with pytest.raises(InputError, match=r"bpg\.json is of other images"):
        run(crops, tmp_path, "BPG", "--first", "1")
    (tmp_path / "bpg.json").write_text("{}")
    with pytest.raises(InputError, match=r"bpg\.json is not a result file"):
        run(crops, tmp_path, "BPG")


def test_figures_stand_in_for_bpg(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(other_codecs.shutil, "which", lambda program: None)
    figures = Path(other_codecs.__file__).parent / "results/kodak/bpg.json"
    run(crops, tmp_path, "BPG", "--bpg", str(figures))
    found = json.loads((tmp_path / "bpg.json").read_text())
    assert found["results"] == json.loads(figures.read_text())["results"]
    assert "measured elsewhere" in found["name"] and "missing" not in found
    figures = tmp_path / "figures.json"
    figures.write_text('{"name": "x"}')
    with pytest.raises(InputError, match=r"figures\.json is not a result"):
        run(crops, tmp_path, "BPG", "--bpg", str(figures))


def broken(image: Image.Image, *quality: int) -> other_codecs.Coded:
    black = np.zeros((image.height, image.width, 3), np.uint8)
    return other_codecs.Coded(8, black, 0.1, 0.1)


def test_lossless_that_is_not_is_an_error(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make: Callable[[], other_codecs.Codec]
    make = lambda: other_codecs.Codec("broken", (), None, broken)  # noqa: E731
    monkeypatch.setitem(other_codecs.CODECS, "PNG", make)
    with pytest.raises(RuntimeError, match=r"03\.png, PNG: its lossless mode lost"):
        run(crops, tmp_path, "PNG")
    assert not (tmp_path / "png.json").exists()
