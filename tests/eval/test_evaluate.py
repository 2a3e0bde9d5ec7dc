"""Evaluation of our models: what it says, and what it does when stopped or misused."""

import json
import os
import signal
import subprocess
import sys

from pathlib import Path
from typing import Any

import curves
import evaluate
import images
import numpy as np
import pytest
import torch

from compressai.zoo import image_models
from PIL import Image

from compressai_uqdm import VDM

EVAL = Path(evaluate.__file__).parent
METHODS = ("denoise", "ancestral", "flow_based")


@pytest.fixture(scope="session")
def patches(squares: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of three images of 40x48."""
    file = tmp_path_factory.mktemp("patches") / "patches.npy"
    np.save(file, squares[:3, :40, :48])
    return file


def read(folder: Path) -> dict[str, Any]:
    """All result files, without what may differ from run to run."""

    def steady(value: Any) -> Any:
        if isinstance(value, dict):
            keys = [k for k in value if k != "times" and not k.endswith("_time")]
            return {k: steady(value[k]) for k in keys}
        return [steady(v) for v in value] if isinstance(value, list) else value

    return {
        f.name: steady(json.loads(f.read_text())) for f in sorted(folder.glob("*.json"))
    }


def run(images: Path, output: Path, *arguments: str) -> dict[str, Any]:
    evaluate.main(["--output", str(output), str(images), "uqdm-nano", *arguments])
    assert [f for f in output.iterdir() if f.suffix != ".json"] == []
    return read(output)


@pytest.fixture(scope="session")
def whole(patches: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds in one go."""
    return run(patches, tmp_path_factory.mktemp("whole"), "uqdm-nano-ctx")


# ---- what it says ----


@pytest.mark.parametrize("model", ["uqdm-nano", "uqdm-nano-ctx"])
@pytest.mark.parametrize("method", METHODS)
def test_results_are_those_of_the_model(
    whole: dict[str, Any], patches: Path, model: str, method: str
) -> None:
    """Bytes and pictures are those that compress() and decompress() give."""
    result = whole[f"{model}-{method}.json"]
    net = image_models[model](1, pretrained=True)
    net.quality = net.n_stages
    arrays = np.load(patches)
    mse = []
    for i, (image, found) in enumerate(zip(arrays, result["per_image"], strict=True)):
        x = torch.tensor(image).permute(2, 0, 1)[None].float() / 255
        out = net.compress(x, seed=i)
        bits = 8 * np.cumsum([len(s[0]) for s in out["strings"]])
        assert [*found["bpp"], found["lossless_bpp"]] == list(bits / (40 * 48))
        x_hats = net.decompress(**out, reconstruction=method, progressive=True, seed=i)
        decoded = torch.cat(x_hats["x_hats"][:-1])
        mse.append(((decoded - x) * 255).double().pow(2).mean((1, 2, 3)).numpy())
        assert found["mse"] == pytest.approx(mse[-1], rel=1e-6)
    r = result["results"]
    assert r["quality"] == list(range(1, net.n_stages))
    assert r["psnr-of-mean-mse"] == pytest.approx(10 * np.log10(255**2 / np.mean(mse, 0)))
    assert r["psnr-rgb"] == pytest.approx(np.mean(10 * np.log10(255**2 / np.array(mse)), 0))
    assert r["bpp"] == pytest.approx(np.mean([p["bpp"] for p in result["per_image"]], 0))
    assert "ms-ssim-rgb" not in r  # the images are too small for it
    overhead = np.array(r["bpp"]) - r["bpp-estimate"]
    assert (0 < overhead).all() and (overhead < 0.15).all()


def test_times_are_split(patches: Path, tmp_path: Path) -> None:
    run(patches, tmp_path, "--first", "1")
    result = json.loads((tmp_path / "uqdm-nano-denoise.json").read_text())
    times = result["times"]
    for side in ("encode", "decode"):
        network, coding = (np.array(times[f"{side} {p}"]) for p in ("network", "coding"))
        assert (network > 0).all() and (coding > 0).all()
        total = [*result["results"][f"{side[:5]}ing_time"]]
        total.append(result[f"lossless_{side[:5]}ing_time"])
        assert list(network + coding) == pytest.approx(total)
    encoding = result["results"]["encoding_time"]
    assert encoding == sorted(encoding)
    network = times["encode network"]
    # one pass for each latent stage, none for the pixels
    assert network[4] == network[3] > network[2] > network[1] > network[0]


def test_estimates_are_of_the_same_pictures(
    whole: dict[str, Any], patches: Path, tmp_path: Path
) -> None:
    estimated = run(patches, tmp_path, "--bits", "estimated")
    for method in METHODS:
        name = f"uqdm-nano-{method}.json"
        real, guess = whole[name]["results"], estimated[name]["results"]
        assert estimated[name]["bits"] == "estimated" and "encoding_time" not in guess
        assert guess["bpp"] == real["bpp-estimate"]
        assert guess["psnr-rgb"] == pytest.approx(real["psnr-rgb"], abs=1e-3)


def test_model_that_cannot_code(patches: Path, tmp_path: Path) -> None:
    """Gaussian diffusion of three steps, from a checkpoint, by estimate alone."""
    torch.manual_seed(0)
    net = VDM(n_timesteps=3)
    torch.save(net.state_dict(), tmp_path / "vdm.pt")
    options = ["--output", str(tmp_path / "out"), "--first", "1", str(patches)]
    named = f"vdm-tiny={tmp_path / 'vdm.pt'}"
    with pytest.raises(images.InputError, match="vdm-tiny cannot code.*--bits estimated"):
        evaluate.main([*options, named])
    evaluate.main([*options, named, "--bits", "estimated"])
    results = read(tmp_path / "out")
    assert list(results) == [f"vdm-tiny-{m}.json" for m in sorted(METHODS)]
    x = torch.tensor(np.load(patches)[:1]).permute(0, 3, 1, 2).float() / 255
    for method in METHODS:
        out = net.eval().estimate(x, 0, method, progressive=True)
        found = results[f"vdm-tiny-{method}.json"]
        bits = [-p.double().log2().sum().item() for p in out["likelihoods"].values()]
        bpp = np.cumsum(bits) / (40 * 48)
        assert found["results"]["bpp"] + [found["lossless_bpp"]] == pytest.approx(list(bpp))
        mse = [((y - x) * 255).double().pow(2).mean().item() for y in out["x_hats"][:3]]
        assert found["per_image"][0]["mse"] == pytest.approx(mse, rel=1e-6)


def test_photograph_with_ms_ssim_and_pictures(
    photograph: Image.Image, tmp_path: Path
) -> None:
    folder, output, pictures = (tmp_path / n for n in ("photographs", "out", "pictures"))
    (folder / "some").mkdir(parents=True)
    image = photograph.crop((150, 79, 320, 240))
    image.save(folder / "some/photograph.png")
    results = run(folder, output, "--pictures", str(pictures))
    denoise, ancestral = (results[f"uqdm-nano-{m}.json"] for m in METHODS[:2])
    similar = denoise["results"]["ms-ssim-rgb"]
    assert 0.7 < similar[0] < similar[1] < similar[2] < similar[3] < 1
    assert ancestral["results"]["ms-ssim-rgb"][0] < similar[0]
    assert denoise["per_image"][0]["name"] == "some/photograph.png"
    for i in range(4):
        file = pictures / f"uqdm-nano-denoise/{i + 1}/some/photograph.png"
        error = np.asarray(Image.open(file)).astype(float) - np.asarray(image)
        assert np.square(error).mean() == pytest.approx(denoise["per_image"][0]["mse"][i])


def test_means_stay_finite_and_weigh_pixels() -> None:
    exact, wrong = {"mse": 0.0}, {"mse": 100.0}
    out = curves.curve(["a", "b"], [100, 300], [1], np.ones((2, 1)), [[exact], [wrong]])
    psnr = 10 * np.log10(255**2 * np.array([300, 1 / 100, 1 / 75]))
    assert out["results"]["psnr-rgb"][0] == pytest.approx((psnr[0] + psnr[1]) / 2)
    assert out["results"]["psnr-of-mean-mse"][0] == pytest.approx(psnr[2])
    assert out["results"]["bpp"] == [pytest.approx((1 / 100 + 1 / 300) / 2)]


def check_against_published(results: dict[str, Any], published: Path) -> None:
    """Within three spreads over seeds in rate, 0.15 dB at stages 1 to 3."""
    figures = json.loads(published.read_text())["estimate"]
    for method in METHODS:
        result, expected = results[f"uqdm-tiny-{method}.json"], figures[method]
        r = result["results"]
        estimate = [*r.get("bpp-estimate", r["bpp"])]
        estimate.append(result.get("lossless_bpp_estimate", result["lossless_bpp"]))
        difference = np.subtract(estimate, expected["bpp"][1:])
        assert (abs(difference) < 3 * np.array(expected["bpp_spread_over_seeds"][1:])).all()
        psnr = expected["psnr_of_mean_mse"][1:4]
        assert r["psnr-of-mean-mse"][:3] == pytest.approx(psnr, abs=0.15)


@pytest.mark.slow
def test_agrees_with_the_published_implementation(
    shared: Path, zoo: None, tmp_path: Path
) -> None:
    file = str(shared / "images/kodak_box64.npy")
    options = ["--output", str(tmp_path), "--weights", "raw", "--bits", "estimated"]
    evaluate.main([file, "uqdm-tiny", *options])
    check_against_published(read(tmp_path), shared / "reference/kodak_box64_first48.json")


def test_results_kept_here_agree_too(shared: Path) -> None:
    results = read(EVAL / "results/kodak_box64")
    check_against_published(results, shared / "reference/kodak_box64_first48_ema.json")


# ---- interruption, several processes, other runs ----


def command(patches: Path, output: Path, *launcher: str) -> list[str]:
    program = [*launcher, str(EVAL / "evaluate.py"), str(patches)]
    return [*program, "uqdm-nano", "uqdm-nano-ctx", "--output", str(output)]


@pytest.mark.slow
def test_two_processes_find_the_same(
    whole: dict[str, Any], patches: Path, tmp_path: Path
) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launch += ["--num_processes", "2", "--main_process_port", "0"]
    subprocess.run(command(patches, tmp_path, *launch), check=True, capture_output=True)
    assert read(tmp_path) == whole
    result = json.loads((tmp_path / "uqdm-nano-denoise.json").read_text())
    assert result["times"]["processes"] == 2


KILLED_AT_THE_SECOND_IMAGE = """
import evaluate, os, signal, sys
original = evaluate.evaluate_image
def evaluate_image(nets, networks, image, seed, *rest):
    if seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(nets, networks, image, seed, *rest)
evaluate.evaluate_image = evaluate_image
evaluate.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_killed_run_goes_on(
    whole: dict[str, Any], patches: Path, tmp_path: Path, python: str
) -> None:
    program = [python, "-c", KILLED_AT_THE_SECOND_IMAGE, str(patches)]
    done = subprocess.run(
        [*program, "uqdm-nano", "uqdm-nano-ctx", "--output", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{EVAL}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL
    waiting = tmp_path / "unfinished/uqdm-nano+uqdm-nano-ctx"
    first = waiting / "000000.json"
    assert sorted(f.name for f in waiting.iterdir()) == ["000000.json", "run.json"]
    written = os.stat(first).st_mtime_ns
    evaluated = []
    with pytest.MonkeyPatch.context() as patch:
        original = evaluate.evaluate_image

        def counted(*arguments: Any) -> dict[str, Any]:
            assert os.stat(first).st_mtime_ns == written
            evaluated.append(arguments)
            return original(*arguments)

        patch.setattr(evaluate, "evaluate_image", counted)
        assert run(patches, tmp_path, "uqdm-nano-ctx") == whole
    assert len(evaluated) == 2
    assert run(patches, tmp_path, "uqdm-nano-ctx") == whole  # at once: all is there


def test_results_of_another_run_are_refused(
    patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(patches, tmp_path, "--first", "1")
    before = read(tmp_path)
    with pytest.raises(images.InputError, match=r"uqdm-nano-denoise\.json is of another"):
        run(patches, tmp_path, "--first", "2")
    with pytest.raises(images.InputError, match="bits: 'real' there, 'estimated' here"):
        run(patches, tmp_path, "--first", "1", "--bits", "estimated")
    assert read(tmp_path) == before

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "uqdm-nano-flow_based.json").write_text("[1, 2]")
    with pytest.raises(images.InputError, match=r"flow_based\.json is not a result file"):
        run(patches, foreign)

    stopped = tmp_path / "stopped"

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(evaluate, "evaluate_image", stop)
        run(patches, stopped, "--first", "1")
    with pytest.raises(images.InputError, match=r"run\.json is of another run"):
        run(patches, stopped, "--first", "2")
    damaged = stopped / "unfinished/uqdm-nano/000000.json"
    damaged.write_text('{"pixels": 19')
    with pytest.raises(images.InputError, match=r"000000\.json is damaged"):
        run(patches, stopped, "--first", "1")


# ---- bad input ----


def test_models_that_cannot_be_had(patches: Path, tmp_path: Path) -> None:
    def main(model: str) -> None:
        evaluate.main([str(patches), model, "--output", str(tmp_path)])

    with pytest.raises(images.InputError, match="no model 'uqdm-tinny'.* has uqdm-tiny"):
        main("uqdm-tinny")
    with pytest.raises(images.InputError, match=r"uqdm-nano=.*nowhere\.pt"):
        main(f"uqdm-nano={tmp_path}/nowhere.pt")


def test_message_of_the_program(tmp_path: Path, python: str) -> None:
    done = subprocess.run(
        command(tmp_path / "nowhere", tmp_path, python),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "evaluate.py: no folder or file of images at" in done.stderr


def test_the_same_images_in_any_layout(squares: np.ndarray, tmp_path: Path) -> None:
    array = squares[:2]
    np.savez(tmp_path / "a.npz", data=array.transpose(0, 3, 1, 2).reshape(2, -1), labels=0)
    np.save(tmp_path / "a.npy", array)
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, image in enumerate(array):
        Image.fromarray(image).save(folder / f"{i}.png")
    (folder / "notes.txt").write_text("not an image")
    sets = [images.ImageSet(tmp_path / name) for name in ("a.npz", "a.npy", "folder")]
    assert all(np.array_equal(list(s), array) for s in sets)
    assert [s.names for s in sets] == 2 * [["00000", "00001"]] + [["0.png", "1.png"]]
    assert sets[0].digest == sets[1].digest != sets[2].digest
    assert images.ImageSet(tmp_path / "a.npz", 1).digest != sets[0].digest
    grey = Image.fromarray(array[0]).convert("L")
    grey.save(folder / "0.png")
    assert (images.ImageSet(folder)[0] == np.asarray(grey)[..., None]).all()


@pytest.mark.parametrize(
    "name, write, message",
    [
        ("nowhere", lambda f: None, "no folder or file of images at .*nowhere"),
        ("empty", lambda f: f.mkdir(), "no images in the folder .*empty"),
        ("notes.txt", lambda f: f.write_text("x"), "notes.txt is not a folder"),
        ("a.npz", lambda f: f.write_bytes(b"PK"), "a.npz cannot be read as .npz"),
        ("a.npz", lambda f: np.savez(f, x=np.zeros(3)), r"a.npz: .* got x float64 \[3\]"),
        (
            "a.npz",
            lambda f: np.savez(f, data=np.zeros((2, 3072), np.uint8)),
            r"a.npz: .*ImageNet 64x64.* got data uint8 \[2, 3072\]",
        ),
        ("a.npy", lambda f: np.save(f, np.zeros((1, 64, 64, 3))), "a.npy: .*float64"),
        ("a.npy", lambda f: np.save(f, np.zeros((0, 64, 64, 3), np.uint8)), r"got .*\[0"),
        (
            "a.npy",
            lambda f: np.save(f, np.zeros((2, 31, 64, 3), np.uint8)),
            "image 0 of .*a.npy is too small: 64x31 pixels, expected at least 32x32",
        ),
    ],
)
def test_sets_of_no_use(tmp_path: Path, name: str, write: Any, message: str) -> None:
    write(tmp_path / name)
    with pytest.raises(images.InputError, match=message):
        images.ImageSet(tmp_path / name)


def test_images_of_no_use(tmp_path: Path) -> None:
    good = Image.new("RGB", (40, 40), "red")
    good.save(tmp_path / "a.png")
    assert len(images.ImageSet(tmp_path)) == 1
    with pytest.raises(images.InputError, match="first 2 images of .*, which has 1"):
        images.ImageSet(tmp_path, 2)
    other = tmp_path / "b.png"
    other.write_text("not a PNG")
    with pytest.raises(images.InputError, match="b.png cannot be read"):
        images.ImageSet(tmp_path)
    other.write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(images.InputError, match="b.png cannot be read"):
        images.ImageSet(tmp_path)
    Image.new("RGB", (31, 100)).save(other)
    with pytest.raises(images.InputError, match="b.png is too small: 31x100"):
        images.ImageSet(tmp_path)
    Image.fromarray(np.full((40, 40), 40_000, np.uint16)).save(other)
    with pytest.raises(images.InputError, match="b.png has more than 8 bits"):
        images.ImageSet(tmp_path)
