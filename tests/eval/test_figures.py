"""Figures show the numbers in the files, and tables what they say."""

import json

from collections.abc import Callable
from pathlib import Path
from typing import Any

import figures
import numpy as np
import pytest

from figures import draw_curves, draw_panel, draw_strip, limit, ordered
from images import InputError
from matplotlib.figure import Figure
from PIL import Image
from result_files import Bjontegaard, Curve, common_metrics, find, read_curves
from stages import load_coder, receive

PUBLISHED = Path(figures.__file__).parent / "published"
SETS = ("imagenet64", "cifar10")


def result(name: str, factor: float = 1.0, **more: Any) -> dict[str, Any]:
    """A result file of a codec that takes `factor` times the bits of another."""
    bpp = [0.5 * factor, 1.0 * factor, 2.0 * factor, 4.0 * factor]
    psnr = [26.0, 30.0, 34.5, 39.0]
    results = {"bpp": bpp, "psnr-rgb": psnr, "psnr-of-mean-mse": [p - 0.3 for p in psnr]}
    images = {"name": "some", "count": 2, "digest": "0"}
    return {"name": name, "images": images, "bits": "real", "results": results} | more


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of two codecs, one of ours, one that was not run and one without points."""
    ours = result("uqdm-tiny (denoise)", 1.25, lossless_bpp=12.5)
    ours["results"]["fid"] = [90.0, 20.0, 3.0, 0.0]
    ours["results"]["encoding_time"] = ours["results"]["decoding_time"] = [1.0, 2, 3, 4]
    png = result("PNG", lossless_bpp=13.0, results={"bpp": [], "psnr-rgb": []})
    missing = {"name": "BPG", "images": ours["images"], "missing": "the program bpgenc"}
    for file, data in {"a": ours, "b": result("JPEG"), "c": png, "d": missing}.items():
        (tmp_path / f"{file}.json").write_text(json.dumps(data))
    return tmp_path


def lines(panel: Any) -> dict[str, list[list[float]]]:
    """The points of a panel's lines, by label."""
    return {line.get_label(): line.get_xydata().tolist() for line in panel.get_lines()}


# ---- published figures ----


@pytest.mark.parametrize("name", SETS)
def test_published_figures_are_those_of_the_source(shared: Path, name: str) -> None:
    source = json.loads((shared / f"reference/published_rd_{name}.json").read_text())
    ours = json.loads((PUBLISHED / f"{name}.json").read_text())
    assert "Yang" in ours["source"] and "ICLR 2025" in ours["source"]
    assert ours["curves"].keys() == source["curves"].keys()
    for key, curve in source["curves"].items():
        for metric, values in curve.items():
            finite = [None if v == float("inf") else v for v in values]
            assert ours["curves"][key][metric] == finite


@pytest.mark.parametrize("name", SETS)
def test_published_points_are_drawn_as_they_are(name: str) -> None:
    """Every point of both panels stands in the JSON, and every one there is drawn."""
    file = PUBLISHED / f"{name}.json"
    published = json.loads(file.read_text())["curves"].values()
    curves = read_curves([file])
    assert common_metrics(curves) == ["psnr-of-mean-mse", "fid"]
    psnr, fid = draw_curves(curves, common_metrics(curves)).axes
    for panel, metric in ((psnr, "psnr"), (fid, "fid")):
        expected = {
            c["name"]: [
                [rate, value]
                for rate, value in zip(c["bpp"], c[metric], strict=True)
                if value is not None and (metric == "psnr" or value > 0)
            ]
            for c in published
        }
        assert lines(panel) == expected
        assert sum(len(points) for points in expected.values()) > 80
    assert "mean squared error" in psnr.get_ylabel() and fid.get_yscale() == "log"


# ---- measured results ----


def test_measured_points_are_drawn_as_they_are(folder: Path) -> None:
    curves = read_curves([folder])
    assert [c.name for c in curves] == ["uqdm-tiny (denoise)", "JPEG", "PNG", "BPG"]
    psnr, fid = draw_curves([c for c in curves if c.bpp], common_metrics(curves)).axes
    ours, jpeg = (json.loads((folder / f"{f}.json").read_text())["results"] for f in "ab")
    assert lines(psnr) == {
        "uqdm-tiny (denoise)": np.transpose(
            [ours["bpp"], ours["psnr-of-mean-mse"]]
        ).tolist(),
        "JPEG": np.transpose([jpeg["bpp"], jpeg["psnr-of-mean-mse"]]).tolist(),
    }
    # 0, which has no place on a logarithmic axis, is left out
    expected = np.transpose([ours["bpp"], ours["fid"]])[:3].tolist()
    assert lines(fid) == {"uqdm-tiny (denoise)": expected}
    assert psnr.get_xlabel() == "bits per pixel (real)"


def test_one_panel_has_one_kind_of_psnr(folder: Path) -> None:
    data = result("WebP")
    del data["results"]["psnr-of-mean-mse"]
    (folder / "e.json").write_text(json.dumps(data))
    assert common_metrics(read_curves([folder]))[0] == "psnr-rgb"
    data["results"]["ms-ssim-rgb"] = data["results"].pop("psnr-rgb")
    (folder / "e.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="no PSNR in common"):
        common_metrics(read_curves([folder]))


def test_styles_tell_curves_apart(folder: Path) -> None:
    names = [f"{m} ({r})" for m in ("a", "b") for r in ("ancestral", "denoise")]
    curves = [Curve(n, folder) for n in ["JPEG", *names, "WebP"]]
    styles = ordered(curves)
    assert [c.name for c in styles] == [
        *("a (denoise)", "a (ancestral)", "b (denoise)", "b (ancestral)"),
        *("JPEG", "WebP"),
    ]
    assert len({(s.color, s.linestyle) for s in styles.values()}) == 6
    by_name = {c.name: s for c, s in styles.items()}
    assert by_name["a (denoise)"].color == by_name["a (ancestral)"].color
    for name in SETS:
        published = ordered(read_curves([PUBLISHED / f"{name}.json"])).values()
        assert len(set(published)) == len(published)


def test_published_beside_measured(folder: Path) -> None:
    curves = read_curves([folder / "b.json", PUBLISHED / "cifar10.json"])
    (panel,) = draw_curves(curves, ["psnr-of-mean-mse"]).axes
    assert {"JPEG", "JPEG, published"} <= set(lines(panel))


def test_a_part_of_the_rates(folder: Path) -> None:
    panel = Figure().subplots()
    draw_panel(panel, [c for c in read_curves([folder]) if c.bpp], "psnr-rgb")
    limit([panel], 1.1)
    assert panel.get_xlim() == (0, 1.1)
    low, high = panel.get_ylim()
    assert 25 < low < 26 and 30 < high < 31


def test_bd_rate(folder: Path) -> None:
    ours, jpeg, *_ = read_curves([folder])
    found = Bjontegaard.of(ours, jpeg, "psnr-rgb")
    assert found and found.percent == pytest.approx(25)
    assert (found.low, found.high) == (26.0, 39.0)
    found = Bjontegaard.of(jpeg, ours, "psnr-rgb")
    assert found and found.percent == pytest.approx(-20)
    # curves that double back, have no rate, or only meet at no value
    back = Curve(
        "", folder, [0.0, *jpeg.bpp, 9], {"psnr-rgb": [1, *jpeg.metrics["psnr-rgb"], 5]}
    )
    found = Bjontegaard.of(back, ours, "psnr-rgb")
    assert found and found.percent == pytest.approx(-20)
    above = Curve("", folder, [1.0, 2.0], {"psnr-rgb": [39.0, 45.0]})
    assert Bjontegaard.of(above, jpeg, "psnr-rgb") is None
    single = Curve("", folder, [1.0], {"psnr-rgb": [30.0]})
    assert Bjontegaard.of(single, jpeg, "psnr-rgb") is None


def test_bd_rate_of_published_curves() -> None:
    """Near that of straight lines between the points, as the area between curves is."""
    curves = read_curves([PUBLISHED / "imagenet64.json"])
    jpeg, bpg = find(curves, "JPEG"), find(curves, "BPG")
    assert jpeg.name == "JPEG"  # rather than JPEG 2000
    found = Bjontegaard.of(bpg, jpeg, "psnr-of-mean-mse")
    psnr = np.linspace(20.1191, 38.5133, 1000)
    logs = []
    for curve in (bpg, jpeg):
        rates, values = zip(*curve.points("psnr-of-mean-mse"))
        logs.append(np.interp(psnr, values, np.log(rates)).mean())
    expected = 100 * np.expm1(logs[0] - logs[1])
    assert found and found.percent == pytest.approx(expected, abs=3)
    assert (found.low, found.high) == (20.1191, 38.5133)


# ---- the program ----


def test_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("png", "svg", "pdf"):
        figure = folder / f"figure.{kind}"
        figures.main(["curves", str(folder), str(figure), "--max-bpp", "3"])
        assert figure.stat().st_size > 1000
    with Image.open(folder / "figure.png") as picture:
        assert picture.width > picture.height > 300
    text = (folder / "figure.svg").read_text()
    assert ">uqdm-tiny (denoise)<" in text and ">BPG<" not in text
    figures.main(["curves", str(folder), str(folder / "again.svg"), "--max-bpp", "3"])
    assert (folder / "again.svg").read_text() == text

    figures.main(["curves", str(folder), str(folder / "one.svg"), "--only", "JPEG"])
    assert ">uqdm-tiny (denoise)<" not in (folder / "one.svg").read_text()
    capsys.readouterr()
    figures.main(["bd-rate", str(folder), "--anchor", "JPEG"])
    out = capsys.readouterr().out
    assert "against JPEG" in out and "+25.0%" in out and "25.70 to 38.70" in out


def test_strip(squares: np.ndarray, tmp_path: Path) -> None:
    patch = squares[2, :40, :56]
    received = receive(load_coder("uqdm-nano"), patch)
    assert [r.name for r in received] == [f"stage {i}" for i in range(1, 6)]
    assert (received[-1].picture == patch).all() and received[-1].quality == "exact"
    assert [r.size for r in received] == sorted({r.size for r in received})
    figure = draw_strip(received)
    for axes, stage in zip(figure.axes, received, strict=True):
        (shown,) = axes.get_images()
        assert (shown.get_array() == stage.picture).all()
        error = np.square(stage.picture.astype(float) - patch).mean()
        db = f"{10 * np.log10(255**2 / error):.2f} dB" if error else "exact"
        bpp = f"{8 * stage.size / (40 * 56):.3f} bits per pixel"
        assert axes.get_title() == f"{stage.name}: {db}\n{bpp}"

    Image.fromarray(patch).save(tmp_path / "patch.png")
    strip = ["strip", "uqdm-nano", str(tmp_path / "patch.png")]
    figures.main([*strip, str(tmp_path / "strip.png"), "--reconstruction", "flow_based"])
    with Image.open(tmp_path / "strip.png") as picture:
        assert picture.width > 4 * picture.height
    for bad, message in (("uqdm-huge", "no model 'uqdm-huge'"), ("vdm-tiny", "no weights")):
        with pytest.raises(InputError, match=message):
            load_coder(bad)


# ---- bad input ----


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no result files .* in .*"):
        read_curves([tmp_path])
    with pytest.raises(InputError, match="no result file or folder of them at .*nowhere"):
        read_curves([tmp_path / "nowhere"])


def cut(data: dict[str, Any]) -> None:
    data["results"]["psnr-rgb"].pop()


BAD: dict[str, Callable[[dict[str, Any]], object]] = {
    "without results": lambda data: data.pop("results"),
    "without a name": lambda data: data.pop("name"),
    "without rates": lambda data: data["results"].pop("bpp"),
    "with a value too few": cut,
    "with words for rates": lambda data: data["results"].update(bpp=["a", "b", "c", "d"]),
    "with a number for results": lambda data: data.update(results=3),
}


@pytest.mark.parametrize("kind", BAD)
def test_file_that_is_no_result(folder: Path, kind: str) -> None:
    data = result("bad")
    BAD[kind](data)
    (folder / "bad.json").write_text(json.dumps(data))
    with pytest.raises(
        InputError, match=r"bad\.json is not a result file: expected a name"
    ):
        read_curves([folder])


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"text"', "\x80"])
def test_file_that_is_no_json(folder: Path, text: str) -> None:
    (folder / "bad.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(
        InputError, match=r"bad\.json (cannot be read as JSON|is not a result)"
    ):
        read_curves([folder])


def test_results_that_do_not_belong_together(folder: Path) -> None:
    other = result("WebP", images={"name": "others", "count": 3, "digest": "1"})
    (folder / "other.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match=r"other\.json is of other images \(3 of others\)"):
        read_curves([folder])
    (folder / "other.json").write_text(json.dumps(result("JPEG")))
    with pytest.raises(InputError, match="has the name of another curve, JPEG"):
        read_curves([folder])


def test_bad_arguments(folder: Path) -> None:
    with pytest.raises(InputError, match="AVIF is no curve: uqdm-tiny .denoise., JPEG"):
        figures.main(["bd-rate", str(folder), "--anchor", "AVIF"])
    with pytest.raises(InputError, match="cannot write the figure .*figure.mp3"):
        figures.main(["curves", str(folder), str(folder / "figure.mp3")])
    with pytest.raises(InputError, match="cannot write the figure .*nowhere"):
        figures.main(["curves", str(folder), str(folder / "nowhere/figure.png")])
    with pytest.raises(InputError, match="no curve's name begins with AVIF"):
        figures.main(["curves", str(folder), str(folder / "a.png"), "--only", "AVIF"])
