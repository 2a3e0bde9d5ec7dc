"""The trainer of a CosineUQDM."""

import json
import os
import signal

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from PIL import Image

from compressai_uqdm import CosineUQDM, train_dct
from compressai_uqdm.training.augmentation import halve_chroma, vary
from compressai_uqdm.training.data import draw_crops, read_photographs
from compressai_uqdm.training.dct import PicturePhase
from compressai_uqdm.training.progress_bar import StepBar

STEPS = 20
STEP_48, STEP_8 = "quantization step 48", "quantization step 8"


def arguments(work: Path, output: str, *options: object) -> list[str]:
    """A run of seconds; every option of ``options`` counts, the last of a kind."""
    small: list[object] = ["--quantization-steps", 48, 8, "--dead-zones", 0.3, 0.42]
    small += ["--hidden", 8, "--crop-size", 16, "--batch-size", 4, "--min-factor", 1]
    small += ["--max-factor", 2, "--learning-rate", 1e-2, "--warm-learning-rate", 5e-3]
    small += ["--warmup", 3, "--steps", STEPS, "--log-every", 6, "--checkpoint-every", 8]
    test = ["--test", work / "held out", "--test-every", 10, "--test-crops", 6]
    words = (work / "photographs", work / output, *small, *test, *options)
    return [str(word) for word in words]


def train(work: Path, output: str, *options: object) -> list[dict[str, Any]]:
    """Train, and return the records."""
    train_dct.main(arguments(work, output, *options))
    return records(work / output)


def records(output: Path) -> list[dict[str, Any]]:
    """Return the records of a run, without what no two runs have in common."""
    lines = output.with_suffix(".metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    for record in found:
        record.pop("images_per_second", None)
    return found


def values(records: list[dict[str, Any]], phase: str, name: str) -> dict[int, float]:
    """Return a value of the records of a phase by step."""
    chosen = [r for r in records if r["phase"] == phase and name in r]
    return {record["step"]: record[name] for record in chosen}


def weights(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as arrays:
        return dict(arrays)


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not np.array_equal(a[name], b[name])] == []


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, held-out ones, and a run: ``whole.npz``."""
    folder = tmp_path_factory.mktemp("dct")
    rng = np.random.default_rng(0)
    for name in ("photographs/a", "photographs/b", "photographs/c", "held out/a"):
        file = folder / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        coarse = rng.integers(0, 256, (9, 10, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((80, 70), Image.Resampling.BICUBIC).save(file)
    train(folder, "whole.npz")
    return folder


def test_it_learns_and_its_weights_code_exactly(work: Path) -> None:
    found = records(work / "whole.npz")
    names = [STEP_48, STEP_8, "pixels", "picture filters"]
    assert list(dict.fromkeys(record["phase"] for record in found)) == names
    # the second one starts from the first, and has less to learn
    for phase, share in ((STEP_48, 0.9), (STEP_8, 0.95)):
        assert list(values(found, phase, "loss")) == [6, 12, 18, 20]
        losses = values(found, phase, "test_loss")
        assert list(losses) == [0, 10, 20]
        assert losses[20] < share * losses[0]
    psnr = [values(found, phase, "test_psnr")[20] for phase in (STEP_48, STEP_8)]
    assert psnr[1] > psnr[0] + 3
    pixels = values(found, "pixels", "test_bpp")
    assert pixels[20] < 0.99 * pixels[0]
    # so few steps promise nothing there: see test_pictures_get_better
    measured = {"test_psnr 1", "test_gain 1", "test_psnr 2", "test_gain 2"}
    assert found[-1].keys() >= measured
    net = CosineUQDM.from_checkpoint(work / "whole.npz")
    image = np.asarray(Image.open(work / "held out/a.png"))
    x = torch.from_numpy(image.transpose(2, 0, 1).copy())[None] / 255
    out = net.compress(x)
    assert torch.equal(net.decompress(**out)["x_hat"], x)
    # what was measured is what files cost, other crops of this picture notwithstanding
    bpp = [8 * len(stage[0]) / image[..., 0].size for stage in out["strings"]]
    measured_bpp = values(found, STEP_8, "test_bpp")[20]
    assert sum(bpp[:2]) == pytest.approx(measured_bpp, rel=0.25)
    assert bpp[2] == pytest.approx(pixels[20], rel=0.25)


def test_pictures_get_better(work: Path) -> None:
    """On the crops that their networks are fitted to, at least."""
    net = CosineUQDM.from_checkpoint(work / "whole.npz")
    rng = np.random.default_rng(1)
    image = np.asarray(Image.open(work / "photographs/a.png")).transpose(2, 0, 1)
    grain = rng.normal(0, 4, (2, 3, 64, 64))  # what a mean of neighbours takes away
    crops = np.stack([image[:, :64, :64], image[:, 6:, 16:]]) + grain
    levels = torch.from_numpy(crops.clip(0, 255).astype(np.uint8))
    phase = PicturePhase(net)
    optimizer = torch.optim.Adam(phase.weights, 1e-2)
    torch.manual_seed(0)
    for _ in range(40):
        optimizer.zero_grad()
        phase.loss(levels, rng).backward()
        optimizer.step()
        phase.after_step()
    measured = phase.measure_crops(levels)
    # at the first stage, where all grain is left, it may have nothing to say
    assert measured["gain 1"] > -0.02 and measured["gain 2"] > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "stops", [[STEPS], [1, 8, STEPS + 5, 2 * STEPS + 9, 3 * STEPS + 12]], ids=str
)
def test_an_interruption_changes_nothing(
    work: Path, stops: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the first stage, at its end, in the others; again and again."""
    output, made = f"stopped {stops}.npz", 0
    update = StepBar.update

    def update_and_stop(self: StepBar, loss: float, seconds: float) -> None:
        nonlocal made
        made += 1
        update(self, loss, seconds)
        if made in stops:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StepBar, "update", update_and_stop)
    for _ in stops:
        with pytest.raises(SystemExit) as stopped:
            train(work, output)
        assert stopped.value.code == 128 + signal.SIGINT
        assert not (work / output).exists()
    found = train(work, output)
    assert made == 4 * STEPS
    assert_same(weights(work / output), weights(work / "whole.npz"))
    assert found == records(work / "whole.npz")


@pytest.mark.slow
def test_an_interruption_while_it_measures(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first step of a stage: what was measured is not measured again."""
    written, write = 0, StepBar.write

    def write_and_stop(self: StepBar, text: str) -> None:
        nonlocal written
        write(self, text)
        if "measured after step 0:" in text:
            written += 1
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StepBar, "write", write_and_stop)
    for _ in (1, 2, 3, 4):
        with pytest.raises(SystemExit):
            train(work, "measured.npz")
    found = train(work, "measured.npz")
    assert written == 4
    assert found == records(work / "whole.npz")


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_from_its_checkpoint(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves the first stage alone while it trains the second."""
    made, update = 0, StepBar.update

    def update_and_die(self: StepBar, loss: float, seconds: float) -> None:
        nonlocal made
        made += 1
        if made == STEPS + 11:
            raise KeyboardInterrupt
        update(self, loss, seconds)

    monkeypatch.setattr(StepBar, "update", update_and_die)
    with pytest.raises(SystemExit):
        train(work, "killed.npz")
    half = CosineUQDM.from_checkpoint(work / "killed.checkpoint.pt")
    half.save_integers(work / "half.npz")
    found = train(work, "killed.npz")
    assert made == 4 * STEPS + 3  # from step 8 of the second stage
    final = weights(work / "killed.npz")
    assert_same(final, weights(work / "whole.npz"))
    assert found == records(work / "whole.npz")
    changed = {n for n, a in weights(work / "half.npz").items() if (final[n] != a).any()}
    assert changed and not any(name.startswith("latent_priors.0") for name in changed)


@pytest.mark.slow
def test_the_seed_is_all_that_is_random(work: Path) -> None:
    train(work, "same.npz", "--test-every", 7, "--test-crops", 3)  # which draw noise too
    assert_same(weights(work / "same.npz"), weights(work / "whole.npz"))
    train(work, "other.npz", "--seed", 1)
    name = "latent_priors.0.layers.mix"
    assert (weights(work / "other.npz")[name] != weights(work / "whole.npz")[name]).any()


@pytest.mark.slow
def test_stages_start_from_initial_weights(work: Path) -> None:
    """Those of the same width are as they were; a new one takes the nearest."""
    before = records(work / "whole.npz")
    options = ("--initial", work / "whole.npz", "--steps", 4)
    after = train(work, "on.npz", *options)
    for value in ("test_loss", "test_bpp"):  # pictures are better: they have filters now
        was, starts = (values(run, STEP_48, value) for run in (before, after))
        assert starts[0] == pytest.approx(was[20], rel=1e-9)
    three: list[object] = ["--quantization-steps", 48, 24, 8]
    three += ["--trained-steps", 48, 24, 8, "--dead-zones", 0.3, 0.3, 0.4]
    train(work, "three.npz", *options, *three, "--warm-learning-rate", 1e-9)
    old, new = weights(work / "whole.npz"), weights(work / "three.npz")
    for stage, source in ((0, 0), (1, 0), (2, 1)):
        for name in ("coefficient_std", "layers.mix", "layers.head"):
            found = new[f"latent_priors.{stage}.{name}"]
            assert np.array_equal(found, old[f"latent_priors.{source}.{name}"])


# ---- photographs ----


def test_photographs_are_box_averaged(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (64, 40, 3)).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    found = read_photographs(tmp_path, "train", 8, range(2, 10))
    assert [p.shape[1:] for p in found] == [(32, 20), (22, 14), (16, 10), (13, 8)]
    boxes = levels.reshape(32, 2, 20, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(found[0] - boxes).max() <= 0.5


def test_crops_vary() -> None:
    """Each in its own way; what has colours of half the resolution is as bright."""
    rng = np.random.default_rng(0)
    crops = torch.from_numpy(rng.integers(60, 200, (40, 3, 16, 24)).astype(np.uint8))
    varied = vary(crops, rng)
    assert varied.shape == crops.shape and varied.dtype == torch.uint8
    same = (varied == crops).flatten(1).all(1).double().mean()
    assert 0.05 < same < 0.6
    halved = halve_chroma(crops.double())
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]
    before, after = ((weights * x).sum(1) for x in (crops.double(), halved))
    assert (before - after).abs().max() < 1e-6
    red_less_blue = (halved[:, 0] - halved[:, 2]).diff().abs().mean()
    assert red_less_blue < 0.5 * (crops.double()[:, 0] - crops[:, 2]).diff().abs().mean()


def test_crops_are_of_the_photographs_and_rather_detailed() -> None:
    rng = np.random.default_rng(0)
    flat = np.full((3, 50, 60), 100, np.uint8)
    detailed = rng.integers(0, 256, (3, 50, 60)).astype(np.uint8)
    crops = draw_crops([flat, detailed], 40, 16, rng).numpy()
    is_flat = (crops == 100).all((1, 2, 3))
    assert is_flat.mean() < 0.1
    plain = draw_crops([flat, detailed], 40, 16, rng, candidates=1).numpy()
    assert 0.25 < (plain == 100).all((1, 2, 3)).mean() < 0.75
    windows = np.lib.stride_tricks.sliding_window_view(detailed, (16, 16), (1, 2))
    every = {w.tobytes() for w in windows.transpose(1, 2, 0, 3, 4).reshape(-1, 3, 16, 16)}
    for crop in crops[~is_flat]:
        turned = (crop, crop[:, :, ::-1], (t := crop.transpose(0, 2, 1)), t[:, :, ::-1])
        assert any(np.ascontiguousarray(c).tobytes() in every for c in turned)


# ---- what goes wrong ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--crop-size", 12), "--crop-size must be a multiple of 8, got 12"),
        (("--min-factor", 3), "--min-factor must be at most --max-factor, 2, got 3"),
        (("--steps", 0), "--steps must be at least 1, got 0"),
        (("--warm-learning-rate", 0), "--warm-learning-rate must be more than 0"),
        (
            ("--quantization-steps", 48, 7),
            "each a multiple of the next and at most 256 times it, got (48, 7)",
        ),
        (("--quantization-steps", 48), "dead_zones must be as many as quantization_steps"),
        (("--crop-size", 72), "no images of at least 72 x 72 pixels"),
        (("--test", "nowhere"), "there is no folder nowhere"),
        (("--initial", "nothing.npz"), "nothing.npz"),
        (("--initial", "whole.npz", "--hidden", 9), "--hidden must be 8, as in whole.npz"),
        (
            ("--initial", "whole.metrics.jsonl"),
            "whole.metrics.jsonl is not a checkpoint that can be read",
        ),
        (("--learning-rate", 1e9), "try smaller learning rates"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_refused(
    work: Path,
    options: tuple[object, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(work)
    with pytest.raises(SystemExit) as refused:
        train(work, "refused.npz", *options)
    assert message in f"{refused.value} {capsys.readouterr().err}"
    assert not (work / "refused.npz").exists()


def test_output_that_is_no_npz_is_refused(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train(work, "weights.pt")
    assert "output must be a file .npz, got" in capsys.readouterr().err


def test_another_run_is_not_gone_on_with(work: Path) -> None:
    with pytest.raises(SystemExit, match="holds a run with other arguments: batch_size"):
        train(work, "whole.npz", "--batch-size", 5)
    torch.save({"state_dict": {}}, work / "foreign.checkpoint.pt")
    with pytest.raises(SystemExit, match="none of this trainer's"):
        train(work, "foreign.npz")


def test_a_damaged_photograph_is_left_out(
    work: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = (work / "photographs/a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="none of the 1 images in .* can be read"):
        read_photographs(tmp_path, "train", 8, range(2, 5))
    (tmp_path / "whole.png").write_bytes(data)
    assert len(read_photographs(tmp_path, "train", 8, range(2, 5))) == 3
    assert "cut.png: it is damaged" in caplog.text
