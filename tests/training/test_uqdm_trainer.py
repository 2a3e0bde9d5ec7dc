"""The trainer of a UQDM: what a run depends on, what it writes, how it resumes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressai.losses import RateDistortionLoss
from compressai.models import FactorizedPrior
from compressai.registry import CRITERIONS
from PIL import Image
from training_runs import (
    REPOSITORY,
    SMALL,
    STEPS,
    command,
    finish,
    lines,
    load,
    losses,
    make_folder,
    run,
    start,
    tensors,
)

from compressai_uqdm import UQDM, UQDMConfig
from compressai_uqdm.families.uqdm.bound import Bound
from compressai_uqdm.families.uqdm.diffusion import levels_to_x
from compressai_uqdm.families.uqdm.unet import UNetConfig
from compressai_uqdm.losses import BitsPerDimensionLoss
from compressai_uqdm.models.checkpoint import published_weights
from compressai_uqdm.train import main, parse_args
from compressai_uqdm.training.average import ema_decay
from compressai_uqdm.training.data import BatchSampler
from compressai_uqdm.training.settings import UQDMSettings


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory, python: str) -> Path:
    """A folder with photographs, a configuration, and a whole run in ``reference``."""
    folder = tmp_path_factory.mktemp("training")
    make_folder(folder)
    run(command(folder, "reference"), python=python)
    return folder


# ---- runs ----


@pytest.mark.slow
def test_a_run_learns_and_is_recorded(work: Path) -> None:
    found = losses(work / "reference")
    assert list(found) == list(range(1, STEPS + 1))
    loss = np.array(list(found.values()))
    assert loss[-10:].mean() < loss[:10].mean() - 0.3
    parts = ("prior", "stage_1", "stage_2", "stage_3", "stage_4", "pixels")
    for line in lines(work / "reference"):
        if "loss" in line:
            assert sum(line[part] for part in parts) == pytest.approx(line["loss"])
            assert line["grad_norm"] > 0
    tests = [line for line in lines(work / "reference") if "test_ema" in line]
    assert [line["step"] for line in tests] == [15, 30, 40]
    for kind in ("test_raw", "test_ema"):
        bits = [line[kind] for line in tests]
        assert bits == sorted(bits, reverse=True) and bits[-1] < bits[0] - 0.3

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(work / "reference"))
    board.Reload()
    shown = {event.step: event.value for event in board.Scalars("loss")}
    assert shown == pytest.approx(found)


@pytest.mark.slow
def test_losses_do_not_change(work: Path) -> None:
    """They are those of the first trainer, which gave them to the last bit on the machine
    that they were recorded on; others may sum in another order."""
    recorded = json.loads((Path(__file__).parents[1] / "data/losses.json").read_text())
    found = losses(work / "reference")
    assert [found[step + 1] for step in range(20)] == pytest.approx(recorded, abs=1e-4)


@pytest.mark.slow
def test_killed_and_resumed(work: Path, python: str) -> None:
    """The same numbers, bit for bit, whenever and however a run was ended."""
    arguments, folder = command(work, "killed"), work / "killed"
    started, metrics = start(arguments), folder / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not metrics.exists() or metrics.read_text().count("\n") < 20:
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    started.send_signal(signal.SIGKILL)
    started.communicate()
    assert 19 <= max(losses(folder)) < STEPS
    assert load(folder)["step"] in (14, 21, 28, 35)
    with metrics.open("a") as file:  # as if in the middle of a line
        file.write('{"step": 40, "lo')

    output = run(arguments, python=python)
    assert f"resuming {folder / 'checkpoint.pt'} at step" in output
    assert lines(folder) == lines(work / "reference")
    resumed, expected = load(folder), load(work / "reference")
    assert resumed["step"] == expected["step"] == STEPS
    assert resumed["arguments"] == expected["arguments"]
    a, b = tensors(resumed), tensors(expected)
    assert a.keys() == b.keys() and len(a) > 300
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.slow
def test_records_do_not_tell_of_interruptions(work: Path) -> None:
    """Even where they are averages over steps before and after."""
    options = ("--log-every", 5, "--test-every", 100, "--bound", "one")
    for output, ends in (("at once", (12,)), ("in parts", (7, 12))):
        for steps in ends:
            main(command(work, output, *options, "--steps", steps))
    whole, parts = lines(work / "at once"), lines(work / "in parts")
    assert [line["step"] for line in whole] == [5, 10, 12, 12]
    # where a run ended there are a record and a test more
    assert [line["step"] for line in parts] == [5, 7, 7, 10, 12, 12]
    assert [line for line in parts if line["step"] != 7] == whole


@pytest.mark.slow
def test_two_processes(work: Path, python: str) -> None:
    """The same losses as one process, which resumes what two began."""
    options = ("--steps", 20, "--checkpoint-every", 20)
    run(command(work, "two", *options), processes=2)
    found, expected = losses(work / "two"), losses(work / "reference")
    assert list(found) == list(range(1, 21))
    for step, loss in found.items():
        assert loss == pytest.approx(expected[step], abs=1e-5), step
    run(command(work, "two"), python=python)
    found = losses(work / "two")
    assert list(found) == list(expected)
    assert list(found.values()) == pytest.approx(list(expected.values()), abs=1e-4)
    a, b = lines(work / "two")[-1], lines(work / "reference")[-1]
    assert a == pytest.approx(b, abs=1e-4)


@pytest.mark.slow
def test_one_step_per_image_and_other_choices(work: Path) -> None:
    """They train too, and neither workers nor memory saved change a run."""
    one = ["--bound", "one", "--vary-colours", "--test-every", 100, "--steps", 30]
    main(command(work, "one", *one))
    found = losses(work / "one")
    loss = np.array(list(found.values()))
    assert loss[-10:].mean() < loss[:10].mean() - 0.15
    saving = ["--workers", 1, "--gradient-checkpointing"]
    main(command(work, "saving", *one, *saving))
    assert losses(work / "saving") == pytest.approx(found, abs=1e-4)
    main(command(work, "other", *one, "--seed", 1, "--steps", 1))
    assert abs(losses(work / "other")[1] - found[1]) > 1e-3


@pytest.mark.slow
def test_initial_weights(work: Path) -> None:
    """A run can start from another's average, or from published weights."""
    reference = work / "reference/checkpoint.pt"
    options = ("--steps", 1, "--learning-rate", 1e-30, "--initial", reference)
    main(command(work, "from", *options))
    a, b = (
        UQDM.from_checkpoint(work / "from/checkpoint.pt"),
        UQDM.from_checkpoint(reference),
    )
    for (name, p), q in zip(a.named_parameters(), b.parameters()):
        if "quantiles" not in name:
            assert torch.equal(p, q), name


# ---- checkpoints ----


def same_network(a: UQDM, b: UQDM) -> bool:
    pairs = zip(a.denoiser.parameters(), b.denoiser.parameters())
    return all(torch.equal(p, q) for p, q in pairs)


@pytest.mark.slow
def test_checkpoint_in_all_layouts(work: Path) -> None:
    file = work / "reference/checkpoint.pt"
    checkpoint = load(work / "reference")
    average, last = UQDM.from_checkpoint(file), UQDM.from_checkpoint(file, weights="raw")
    assert average.config == last.config == SMALL
    assert not same_network(average, last)
    for net, key in ((average, "state_dict"), (last, "raw_state_dict")):
        for name, parameter in net.named_parameters():
            assert torch.equal(parameter, checkpoint[key][name])
    assert not torch.equal(average.noise_schedule.w, torch.tensor(18.3))
    with pytest.raises(ValueError, match="weights must be one of"):
        UQDM.from_checkpoint(file, weights="best")  # type: ignore[arg-type]
    assert same_network(UQDM.from_state_dict(checkpoint), average)

    # the rest of it is the published layout
    published = {k: checkpoint[k] for k in ("model", "ema", "optimizer", "step")}
    torch.save(published, work / "checkpoint.pt")
    for weights, net in (("ema", average), ("ema_schedule", average), ("raw", last)):
        read = UQDM.from_checkpoint(work, weights=weights)  # with config.json beside it
        assert read.config == SMALL and same_network(read, net)
        learned = torch.equal(read.noise_schedule.w, net.noise_schedule.w)
        assert learned == (weights == "ema_schedule")
    names = published_weights(published, "ema_schedule")
    assert [*names][-1] == "noise_schedule.w"
    shapes = [list(p.shape) for p in names.values()]
    moments = published["optimizer"]["state"]
    assert [list(moments[i]["exp_avg"].shape) for i in range(len(shapes))] == shapes


@pytest.mark.slow
def test_average_is_the_published_one(work: Path) -> None:
    """Its decay grows to 0.9999: checked against the weights of every step."""
    assert ema_decay(0, 0.9999) == 0.1 and ema_decay(8, 0.9999) == 0.5
    assert ema_decay(10**6, 0.9999) == 0.9999
    expected: dict[str, torch.Tensor] = {}
    for n in range(4):
        arguments = command(work, "average", "--steps", n + 1, "--checkpoint-every", 1)
        main(arguments)
        checkpoint = load(work / "average")
        assert checkpoint["ema"]["num_updates"] == n + 1
        for name, w in checkpoint["model"].items():
            decay = (1 + n) / (10 + n) if n else 0  # the first average is the first weights
            expected[name] = decay * expected.get(name, w) + (1 - decay) * w
        for name, average in zip(expected, checkpoint["ema"]["shadow_params"]):
            torch.testing.assert_close(average, expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_eval_model_reads_it(work: Path, tmp_path: Path, python: str) -> None:
    image = Image.open(work / "held out/a.png").resize((192, 192))  # for its MS-SSIM
    (tmp_path / "images").mkdir()
    image.save(tmp_path / "images/a.png")
    file = work / "reference/checkpoint.pt"
    program = ["-m", "compressai.utils.eval_model", "checkpoint", tmp_path / "images"]
    done = subprocess.run(
        [python, *map(str, program), "-a", "uqdm-tiny", "-p", str(file)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert results["psnr-rgb"] == [float("inf")]
    net = UQDM.from_checkpoint(file)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    strings = net.compress(x)["strings"]
    assert results["bpp"] == pytest.approx([8 * sum(len(s[0]) for s in strings) / 192**2])


# ---- bad input ----


def check_refused(work: Path, message: str, *options: object, output: str = "bad") -> None:
    with pytest.raises(SystemExit, match=message) as raised:
        main(command(work, output, *options))
    assert isinstance(raised.value.code, str)  # which exits with 1


@pytest.mark.slow
def test_errors_are_a_line_and_an_exit_status(work: Path) -> None:
    for processes in (1, 2):
        arguments = command(work, "bad", "--batch-size", 9, "--bound", "one")
        status, output = finish(start(arguments, processes))
        assert status == 1
        assert f"--batch-size must be a multiple of {4 * processes}" in output
        if processes == 1:
            assert "Traceback" not in output
    assert not (work / "bad").exists()


def test_bad_configurations(work: Path, tmp_path: Path) -> None:
    values, file = asdict(SMALL), tmp_path / "config.json"
    no_blocks = {**values["network"], "n_blocks": 0}
    for bad, message in (
        ({**values, "colour": 1}, r"config\.json.*unknown keys \['colour'\]"),
        ({"embedding_dim": 8}, r"config\.json.*missing .*'gamma_min'"),
        (
            {**values, "network": no_blocks},
            r"config\.json.*n_blocks must be a positive integer",
        ),
    ):
        file.write_text(json.dumps(bad))
        check_refused(work, message, "--model", file)
    check_refused(
        work, "--model must be one of uqdm-tiny,.*got '.*no", "--model", "no.json"
    )


def test_bad_folders_and_batches(work: Path, tmp_path: Path) -> None:
    check_refused(work, "no images of at least 200 x 200", "--crop-size", 200)
    check_refused(work, "there is no folder .*nowhere", "--test", work / "nowhere")
    check_refused(work, "multiple of 4 .*for --bound one.*got 6", "--bound", "one",
                  "--batch-size", 6)  # fmt: skip
    np.savez(tmp_path / "train.npz", data=np.zeros((2, 3072), np.uint8))
    arguments = [str(tmp_path), str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"train\.npz: expected .*12288.*\(2, 3072\)"):
        main(arguments)
    with pytest.raises(SystemExit, match="--crop-size must be 64"):
        main([*arguments, "--crop-size", "32"])


@pytest.mark.parametrize(
    "option", ["steps", "batch-size", "log-every", "crop-size", "seed"]
)
def test_numbers_out_of_range(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    for value, message in (
        ("-1", f"--{option} must be at least "),
        ("1.5", f"argument --{option}: "),
        ("some", f"argument --{option}: "),
    ):
        with pytest.raises(SystemExit):
            parse_args(["photographs", "output", f"--{option}={value}"])
        assert message in capsys.readouterr().err


def test_a_run_is_described_without_a_command_line(tmp_path: Path) -> None:
    config = UQDMSettings(tmp_path, tmp_path / "out", batch_size=8)
    assert config == parse_args([str(tmp_path), str(tmp_path / "out"), "--batch-size=8"])
    for bad, message in (
        ({"learning_rate": 0.0}, "--learning-rate must be more than 0, got 0.0"),
        ({"checkpoint_minutes": float("nan")}, "--checkpoint-minutes must be more than 0"),
        ({"bound": "some"}, "--bound must be"),
        ({"warmup": -1}, "--warmup must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(config, **bad)  # type: ignore[arg-type]


@pytest.mark.slow
def test_checkpoints_that_are_none(work: Path, tmp_path: Path) -> None:
    """In the output folder, or to start from: an error, and the file is left alone."""
    file = work / "strange/checkpoint.pt"
    file.parent.mkdir()
    whole = (work / "reference/checkpoint.pt").read_bytes()
    state = UQDM(SMALL).state_dict()
    other = UQDM(
        UQDMConfig(network=UNetConfig(embedding_dim=8, norm_groups=4))
    ).state_dict()
    foreign = FactorizedPrior(8, 8).state_dict()
    for content, message in (
        (whole[:-1000], "is not a checkpoint that can be read"),
        (b"", "is not a checkpoint that can be read"),
        ([1, 2], "holds no state dict"),
        (state, "cannot resume .*none of this trainer's.*another output"),
        ({"state_dict": foreign}, "cannot resume .*none of this trainer's"),
        ({"state_dict": other}, "cannot resume .*another model: .*norm_groups=4"),
        ({"state_dict": state, "raw_state_dict": foreign}, "cannot resume"),
    ):
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            torch.save(content, file)
        before = file.read_bytes()
        check_refused(work, f"(?s){message}", output="strange")
        assert file.read_bytes() == before
    torch.save(foreign, file)
    check_refused(work, "expected the state dict of a UQDM", "--initial", file)
    check_refused(work, "No such file.*nothing.pt", "--initial", work / "nothing.pt")


@pytest.mark.slow
def test_another_run_in_the_output_folder(work: Path) -> None:
    shutil.copytree(work / "reference", work / "changed")
    for option, value, was in (
        ("--batch-size", 16, "batch_size .was 8, is 16."),
        ("--bound", "one", "bound .was all, is one."),
        ("--seed", 3, "seed .was 0, is 3."),
    ):
        check_refused(work, f"other arguments: {was}", option, value, output="changed")
    Image.new("RGB", (70, 70)).save(work / "photographs/more.png")
    try:
        check_refused(work, "number of images .was 3, is 4.", output="changed")
    finally:
        (work / "photographs/more.png").unlink()
    assert lines(work / "changed") == lines(work / "reference")


@pytest.mark.slow
def test_weights_that_are_lost_are_not_saved(work: Path) -> None:
    shutil.copytree(work / "reference", work / "lost")
    checkpoint = torch.load(work / "lost/checkpoint.pt", weights_only=True)
    checkpoint["raw_state_dict"]["denoiser.conv_in.bias"][0] = torch.nan
    torch.save(checkpoint, work / "lost/checkpoint.pt")
    before = (work / "lost/checkpoint.pt").read_bytes()
    options = ("--steps", 60, "--log-every", 1000, "--checkpoint-every", 1)
    check_refused(work, "is not finite at step 41: try", *options, output="lost")
    assert (work / "lost/checkpoint.pt").read_bytes() == before


def test_without_what_training_needs(tmp_path: Path) -> None:
    (tmp_path / "accelerate.py").write_text("raise ImportError('not there')")
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    done = subprocess.run(
        [sys.executable, "-m", "compressai_uqdm.train", "photographs", "output"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert 'not there): pip install "compressai-uqdm[train]"' in done.stderr


@pytest.mark.parametrize("trainer", ["train", "train_dct", "train_context"])
def test_ctrl_c_while_it_starts(trainer: str, tmp_path: Path) -> None:
    """Which takes seconds, most of them to import PyTorch."""
    (tmp_path / "torch.py").write_text(
        "import os, signal, time\n"
        # shells start what is in the background without it
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"
    )
    arguments = ["uqdm-nano"] * (trainer == "train_context") + ["photographs", "out.npz"]
    done = subprocess.run(
        [sys.executable, "-m", f"compressai_uqdm.{trainer}", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130
    assert done.stderr.startswith("stopped at once: ") and done.stderr.count("\n") == 1


# ---- draws ----


def test_every_image_once_an_epoch() -> None:
    draws = [
        draw for batch in BatchSampler(10, 4, 1, range(1), range(10), 0) for draw in batch
    ]
    epochs = [[draw.image for draw in draws[at : at + 10]] for at in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert len({draw.key for draw in draws}) == 40
    assert draws != [d for b in BatchSampler(10, 4, 1, range(1), range(10), 1) for d in b]


def test_parts_make_up_the_batches() -> None:
    """Over processes, accumulated gradients and interruptions alike."""
    whole = list(BatchSampler(10, 8, 1, range(1), range(6), 0))
    parts = [list(BatchSampler(10, 8, 4, range(p, p + 2), range(6), 0)) for p in (0, 2)]
    for step, batch in enumerate(whole):
        made = [draw for part in parts for b in part[2 * step : 2 * step + 2] for draw in b]
        assert made == batch
    assert list(BatchSampler(10, 8, 1, range(1), range(3, 6), 0)) == whole[3:]


# ---- the bound and the criterion ----


def randomized(config: UQDMConfig) -> UQDM:
    """A model with every layer at work: some start at zero."""
    torch.manual_seed(0)
    net = UQDM(config)
    for parameter in net.denoiser.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return net.train()


@pytest.mark.parametrize("changes", [{}, {"prior_type": "normal", "n_timesteps": 2}])
def test_bound_agrees_with_the_model(changes: dict[str, Any]) -> None:
    """In expectation, every part of it, with all steps of an image or one."""
    config = UQDMConfig(network=UNetConfig(embedding_dim=8, norm_groups=2), **changes)
    net, criterion = randomized(config), BitsPerDimensionLoss()
    smooth = torch.rand(32, 3, 4, 4)
    images = torch.nn.functional.interpolate(smooth, size=16, mode="bicubic").clamp(0, 1)
    levels = (images * 255).round().to(torch.uint8)
    drawn: dict[str, list[dict[str, float]]] = {"model": [], "all": [], "one": []}
    with torch.no_grad():
        for i in range(24):
            order = torch.randperm(32)
            keys = torch.arange(32) + 32 * i
            drawn["model"].append(criterion(net(levels[order] / 255)))
            for steps in ("all", "one"):
                out = Bound(net, steps)(levels[order], keys)  # type: ignore[arg-type]
                drawn[steps].append(criterion(out))
    for part in drawn["model"][0]:
        values = {k: np.array([float(d[part]) for d in v]) for k, v in drawn.items()}
        mean = {k: v.mean() for k, v in values.items()}
        error = {k: v.std() / len(v) ** 0.5 for k, v in values.items()}
        for steps in ("all", "one"):
            assert error[steps] < 0.01 * mean["model"]  # or the next line says little
            allowed = 5 * np.hypot(error[steps], error["model"]) + 1e-6
            assert abs(mean[steps] - mean["model"]) < allowed, (part, steps)


def test_noise_belongs_to_the_image() -> None:
    """Not to its place, nor to those beside it."""
    net = randomized(SMALL)
    levels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    keys = torch.tensor([3, 2**62 + 5, 7, 3])
    with torch.no_grad():
        together = Bound(net)(levels, keys)["likelihoods"]
        order = torch.tensor([2, 0, 3, 1])
        moved = Bound(net)(levels[order], keys[order])["likelihoods"]
        alone = Bound(net)(levels[1:2], keys[1:2])["likelihoods"]
        other = Bound(net)(levels[1:2], keys[:1])["likelihoods"]
        single = Bound(net, "one")(levels, keys)["likelihoods"]
    for i, (stage, likelihoods) in enumerate(together.items()):
        close = {"rtol": 1e-3, "atol": 1e-5}
        torch.testing.assert_close(moved[stage], likelihoods[order], **close)
        torch.testing.assert_close(alone[stage], likelihoods[1:2], **close)
        if stage != "prior":
            assert not torch.allclose(other[stage], alone[stage], **close)
        of = likelihoods if stage in ("prior", "pixels") else likelihoods[i - 1 : i]
        torch.testing.assert_close(single[stage], of, **close)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing(dropout: float) -> None:
    """The same gradients from a fraction of the memory."""
    network = UNetConfig(
        embedding_dim=8, norm_groups=2, dropout_prob=dropout, attention_everywhere=True
    )
    config = UQDMConfig(network=network)
    net = randomized(config)
    levels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    gradients, kept = [], []
    for saving in (False, True):
        net.denoiser.gradient_checkpointing = saving
        held: dict[int, int] = {}

        def keep(tensor: torch.Tensor, held: dict[int, int] = held) -> torch.Tensor:
            held[tensor.data_ptr()] = tensor.numel()
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = BitsPerDimensionLoss()(Bound(net)(levels, torch.arange(2)))
        kept.append(sum(held.values()))
        net.zero_grad()
        out["loss"].backward()
        gradients.append([p.grad.clone() for p in net.denoiser.parameters()])
    assert kept[1] < 0.6 * kept[0]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_criterion() -> None:
    likelihoods = {
        "prior": torch.full((4, 3, 2, 2), 0.5),
        "stage_1": torch.tensor([0.25, 1.0]).repeat(6).reshape(1, 3, 2, 2),
        "pixels": torch.full((4, 3, 2, 2), 0.125),
    }
    cls: Any = CRITERIONS["BitsPerDimensionLoss"]
    out = cls()({"likelihoods": likelihoods}, torch.zeros(4, 3, 2, 2))
    values = {name: value.item() for name, value in out.items()}
    assert values == pytest.approx({"loss": 5, "prior": 1, "stage_1": 1, "pixels": 3})

    net = randomized(SMALL)
    x = torch.randint(0, 256, (2, 3, 16, 16)) / 255
    output = net(x)
    bpp = RateDistortionLoss(lmbda=0)(output, x)["bpp_loss"].item()
    assert cls()(output, x)["loss"].item() == pytest.approx(bpp / 3)


def test_compressai_knows_our_parts() -> None:
    """In a process that imports nothing of ours."""
    code = """
import compressai
from compressai.registry import CRITERIONS, DATASETS
assert {"ImageNet64", "Photographs"} <= set(DATASETS), DATASETS
assert "BitsPerDimensionLoss" in CRITERIONS, CRITERIONS
"""
    path = {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **path}, check=True)


def test_rate_distortion_training() -> None:
    """CompressAI's own loss with lambda > 0: both of its parts fall."""
    net = randomized(SMALL)
    net.quality = 2
    smooth = torch.rand(4, 3, 4, 4)
    x = torch.nn.functional.interpolate(smooth, size=16, mode="bicubic").clamp(0, 1)
    criterion = RateDistortionLoss(lmbda=0.05)
    optimizer = torch.optim.Adam(net.denoiser.parameters(), 2e-3)
    history = []
    for _ in range(60):
        out = criterion(net(x), x)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        history.append([out[k].item() for k in ("loss", "bpp_loss", "mse_loss")])
    first, last = np.array(history[:8]).mean(0), np.array(history[-8:]).mean(0)
    assert (last < 0.9 * first).all()


def test_levels_are_the_models_own() -> None:
    """The trainer's uint8 levels and the model's images in [0, 1] are one x."""
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(levels_to_x(levels), (levels.double() + 0.5).float() / 128 - 1)
