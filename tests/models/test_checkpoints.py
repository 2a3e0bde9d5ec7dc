"""Checkpoints in the layouts that trainers and wrappers give them, of every family."""

import json
import os
import subprocess
import zipfile

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from PIL import Image

from compressai_uqdm import (
    UQDM,
    VDM,
    CosineConfig,
    CosineUQDM,
    UQDMConfig,
    train_dct,
    zoo,
)
from compressai_uqdm.families.registry import open_checkpoint
from compressai_uqdm.families.uqdm.config import GAUSSIAN
from compressai_uqdm.families.uqdm.unet import UNetConfig
from compressai_uqdm.files.model import open_codec
from compressai_uqdm.fingerprint import digest

NETWORK = UNetConfig(embedding_dim=8, n_blocks=1, norm_groups=4)
SMALL = UQDMConfig(network=NETWORK)
COSINE = CosineConfig(quantization_steps=(48, 8), dead_zones=(0.3, 0.42), hidden=8)

FAMILIES: dict[str, Callable[[], UQDM | VDM | CosineUQDM]] = {
    "uqdm": lambda: UQDM(SMALL),
    "vdm": lambda: VDM(replace(GAUSSIAN["vdm-tiny"], network=NETWORK, n_timesteps=3)),
    "cosine": lambda: CosineUQDM(COSINE),
}


@pytest.fixture(params=FAMILIES)
def net(request: pytest.FixtureRequest) -> UQDM | VDM | CosineUQDM:
    torch.manual_seed(1)
    return FAMILIES[request.param]().eval()


def state(net: torch.nn.Module) -> dict[str, Any]:
    """A state dict that no later change of the model changes."""
    return {name: value.clone() for name, value in net.state_dict().items()}


def prefixed(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.named_parameters(), b.named_parameters(), strict=True)
    return type(a) is type(b) and all(
        name == other and torch.equal(x, y) for (name, x), (other, y) in pairs
    )


LAYOUTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"epoch": 1, "state_dict": s, "optimizer": {"state": {}}},
    "network": lambda s: {"network": s, "loss": torch.tensor(1.0)},
    "model_state_dict": lambda s: {"epoch": 1, "model_state_dict": s},
    "model": lambda s: {"model": s, "optimizer": {"state": {0: {}}, "param_groups": []}},
    "nested": lambda s: {"model": {"state_dict": s}},
    "ddp": lambda s: {"state_dict": prefixed(s, "module.")},
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "compiled-in-ddp": lambda s: prefixed(s, "module._orig_mod."),
    "ddp-in-compiled": lambda s: {"network": prefixed(s, "_orig_mod.module.")},
    "in-a-module-of-theirs": lambda s: {
        "state_dict": {**prefixed(s, "codec."), "discriminator.weight": torch.ones(3)}
    },
    "averaged": lambda s: {"n_averaged": torch.tensor(3), **prefixed(s, "module.")},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(net: UQDM | VDM | CosineUQDM, layout: str, tmp_path: Path) -> None:
    checkpoint = LAYOUTS[layout](state(net))
    assert same(type(net).from_state_dict(checkpoint), net)
    file = tmp_path / "checkpoint.pth.tar"
    torch.save(checkpoint, file)
    assert same(type(net).from_checkpoint(file), net)
    assert same(open_checkpoint(file), net)
    # as CompressAI's programs do
    names = {UQDM: "uqdm-tiny", VDM: "vdm-tiny", CosineUQDM: "uqdm-photo"}
    for key in ("network", "state_dict", "model_state_dict"):
        checkpoint = checkpoint.get(key, checkpoint)
    assert same(zoo.RECIPES[names[type(net)]].from_state_dict(checkpoint), net)


def write_legacy(state: dict[str, Any], file: Path) -> None:
    torch.save(state, file, _use_new_zipfile_serialization=False)


FORMATS: dict[str, Callable[[dict[str, Any], Path], object]] = {
    "a.pt": torch.save,
    "a.pth": torch.save,
    "a.pth.tar": torch.save,
    "a.bin": torch.save,
    "legacy.pth": write_legacy,
    "a.safetensors": safetensors.torch.save_file,
    "safetensors.pt": safetensors.torch.save_file,
    "a.npz": lambda s, file: np.savez(file, **{k: v.numpy() for k, v in s.items()}),
    "packed.npz": lambda s, file: np.savez_compressed(
        file, **{k: v.numpy() for k, v in s.items()}
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(net: UQDM | VDM | CosineUQDM, name: str, tmp_path: Path) -> None:
    """What a file is, its content says, not its name."""
    for prefix in ("", "module."):
        FORMATS[name](prefixed(state(net), prefix), tmp_path / name)
        assert same(type(net).from_checkpoint(tmp_path / name), net)
        assert same(open_checkpoint(tmp_path / name), net)


def test_folders(net: UQDM | VDM | CosineUQDM, tmp_path: Path) -> None:
    net.save_pretrained(tmp_path)
    assert same(type(net).from_checkpoint(tmp_path), net)
    assert same(open_checkpoint(tmp_path), net)


def test_published_folders(tmp_path: Path) -> None:
    net = UQDM(SMALL)
    model = net.denoiser.state_dict()
    published = {"model": model, "ema": {"shadow_params": list(model.values())}}
    torch.save(published, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="width 8 and depth 1 is none of the published"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(asdict(SMALL)))
    assert same(open_checkpoint(tmp_path), net)
    assert same(UQDM.from_checkpoint(tmp_path), net)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision(
    net: UQDM | VDM | CosineUQDM, kind: torch.dtype
) -> None:
    found = type(net).from_state_dict(state(net.to(kind)))
    assert next(found.parameters()).dtype == torch.float32
    net.float()
    for a, b in zip(found.parameters(), net.parameters()):
        torch.testing.assert_close(a, b)


def test_weights_of_several(net: UQDM | VDM | CosineUQDM) -> None:
    """The average over training, unless the last are asked for."""
    average = state(net)
    with torch.no_grad():
        for weight in net.parameters():
            weight += 1
    raw = state(net)
    for checkpoint in (
        {"raw_state_dict": raw, "state_dict": average},
        {"state_dict": average, "raw_state_dict": raw},
    ):
        assert same(type(net).from_state_dict(checkpoint, weights="raw"), net)
        found = type(net).from_state_dict(checkpoint).state_dict()
        assert all(torch.equal(found[name], value) for name, value in average.items())


def test_wrapped_models(net: UQDM | VDM | CosineUQDM) -> None:
    """As their wrappers really name weights, of a whole model or of a part of it."""
    compiled = torch.compile(net, backend="eager")
    assert any(name.startswith("_orig_mod.") for name in compiled.state_dict())
    assert same(type(net).from_state_dict(state(compiled)), net)
    averaged = torch.optim.swa_utils.AveragedModel(net)
    assert same(type(net).from_state_dict(state(averaged)), net)
    part = "denoiser" if hasattr(net, "denoiser") else "pixel_prior"
    expected = state(net)
    setattr(net, part, torch.nn.DataParallel(getattr(net, part)))
    wrapped = state(net)
    assert any(f"{part}.module." in name for name in wrapped)
    found = type(net).from_state_dict(wrapped).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


# ---- what is no checkpoint ----


def zip_without_arrays(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "text")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda file: file.write_bytes(b""), "it is empty"),
    "text": (lambda file: file.write_text("weights\n" * 9), "cannot|can be read"),
    "json": (lambda file: file.write_text(json.dumps({"a": [1] * 9})), "can be read"),
    "short": (lambda file: file.write_bytes(b"PK"), "can be read"),
    "zip": (zip_without_arrays, "can be read"),
    "png": (lambda file: Image.new("L", (9, 9)).save(file, "png"), "can be read"),
    "list": (lambda file: torch.save([1], file), "holds no state dict but <class 'list'>"),
    "folder": (lambda file: file.mkdir(), "config.json|checkpoint.pt"),
    "pipe": (lambda file: os.mkfifo(file), "not a regular file"),
    "other-arrays": (
        lambda file: np.savez(file.open("wb"), a=np.ones(3)),
        "expected the state dict",
    ),
    "objects": (
        lambda file: np.savez(file.open("wb"), a=np.array([{}], object)),
        "can be read",
    ),
    "module": (
        lambda file: torch.save(UQDM(SMALL), file),
        r"pickled object, compressai_uqdm\S*UQDM, .*torch.save\(net.state_dict\(\), path\)",
    ),
    "module-within": (
        lambda file: torch.save({"epoch": 1, "model": CosineUQDM(COSINE)}, file),
        r"pickled object, \S*CosineUQDM, .*state_dict",
    ),
    "program": (lambda file: torch.save({"state_dict": os.getcwd}, file), "posix.getcwd"),
    "no-tensors": (
        lambda file: torch.save({**UQDM(SMALL).state_dict(), "a": "b"}, file),
        "another architecture|got those of a UQDM",
    ),
    "no-configuration": (
        lambda file: torch.save({"state_dict": {"config_bytes": "text"}}, file),
        "damaged config_bytes",
    ),
    "another-model": (
        lambda file: torch.save(torch.nn.Linear(2, 2).state_dict(), file),
        "expected the state dict",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_checkpoint(kind: str, tmp_path: Path) -> None:
    """An error of one line, for each way in."""
    make, message = BAD[kind]
    file = tmp_path / "mine.pth"
    make(file)
    for read in (
        UQDM.from_checkpoint,
        VDM.from_checkpoint,
        CosineUQDM.from_checkpoint,
        open_checkpoint,
        lambda path: open_codec(str(path)),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
            read(file)  # type: ignore[operator]
        text = str(raised.value)
        assert "\n" not in text and str(file) in text and "weights_only" not in text


def test_weights_of_another_family(tmp_path: Path) -> None:
    nets = {name: make() for name, make in FAMILIES.items()}
    for name, net in nets.items():
        torch.save({"state_dict": net.state_dict()}, tmp_path / f"{name}.pt")
    for name, net in nets.items():
        for other in nets.keys() - {name}:
            file = tmp_path / f"{other}.pt"
            expected, found = type(net).__name__, type(nets[other]).__name__
            with pytest.raises(
                ValueError, match=f"weights of a {expected}, got those of a {found}"
            ):
                type(net).from_checkpoint(file)
    with pytest.raises(ValueError, match="of a VDM, which cannot code"):
        open_codec(str(tmp_path / "vdm.pt"))


def test_files_name_the_same_model_whatever_its_layout(tmp_path: Path) -> None:
    net = CosineUQDM(COSINE)
    net.update()
    net.save_integers(tmp_path / "a.npz")
    torch.save({"epoch": 1, "state_dict": prefixed(state(net), "module.")}, tmp_path / "a")
    assert open_codec(str(tmp_path / "a.npz")).digest == digest(net.fingerprint())
    assert open_codec(str(tmp_path / "a")).digest == digest(net.fingerprint())


# ---- what our trainers write, in CompressAI's programs ----


@pytest.fixture(scope="module")
def trained(photograph: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what ``train_dct`` wrote, and a picture."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("photographs", "images"):
        (folder / name).mkdir()
    photograph.save(folder / "photographs/a.png")
    photograph.crop((100, 20, 292, 212)).save(folder / "images/a.png")
    options = "--steps 2 --hidden 8 --batch-size 1 --crop-size 16 --min-factor 1"
    options += " --quantization-steps 48 8 --dead-zones 0.3 0.42"
    paths = [str(folder / "photographs"), str(folder / "mine.npz")]
    train_dct.main([*paths, *options.split()])
    return folder


def evaluate(folder: Path, python: str, model: str, *files: str) -> dict[str, list[float]]:
    """What CompressAI's ``eval_model`` prints of checkpoints."""
    command = ["-m", "compressai.utils.eval_model", "checkpoint", "images"]
    done = subprocess.run(
        [python, *command, "-a", model, "-p", *files],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["results"]


@pytest.mark.slow
def test_eval_model(trained: Path, python: str) -> None:
    """As docs/compressai.md says: it reads PyTorch's files alone."""
    net = CosineUQDM.from_checkpoint(trained / "mine.npz")
    torch.save(net.state_dict(), trained / "mine.pth.tar")
    checkpoint = {"epoch": 1, "state_dict": prefixed(state(net), "module.")}
    torch.save(checkpoint, trained / "ddp.pth")
    files = ["mine.checkpoint.pt", "mine.pth.tar", "ddp.pth"]
    digests = {open_codec(str(trained / file)).digest for file in ["mine.npz", *files]}
    assert len(digests) == 1
    results = evaluate(trained, python, "uqdm-photo", *files)
    assert results["psnr-rgb"] == [float("inf")] * 3
    picture = np.asarray(Image.open(trained / "images/a.png"))
    x = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255
    bits = 8 * sum(len(stage[0]) for stage in net.compress(x)["strings"])
    assert results["bpp"] == pytest.approx([bits / 192**2] * 3)


@pytest.mark.slow
def test_update_model(trained: Path, python: str) -> None:
    command = ["-m", "compressai.utils.update_model", "mine.checkpoint.pt", "-d", "new"]
    subprocess.run(
        [python, *command, "-a", "uqdm-photo", "-n", "name"], cwd=trained, check=True
    )
    (updated,) = (trained / "new").iterdir()
    assert updated.name.startswith("name-")
    assert open_codec(str(updated)).digest == open_codec(str(trained / "mine.npz")).digest


@pytest.mark.slow
def test_eval_model_with_contexts(trained: Path, python: str) -> None:
    contexts = zoo.ASSETS / "uqdm-nano/contexts.npz"
    net = UQDM.from_checkpoint(zoo.ASSETS / "uqdm-nano/weights.safetensors")
    torch.save({"network": net.state_dict()}, trained / "nano.pt")
    net = UQDM.from_checkpoint(trained / "nano.pt", contexts=contexts)
    torch.save(net.state_dict(), trained / "nano-ctx.pt")
    results = evaluate(trained, python, "uqdm-tiny-ctx", "nano-ctx.pt")
    assert results["psnr-rgb"] == [float("inf")]
    assert (
        open_codec(str(trained / "nano-ctx.pt")).digest
        == open_codec("uqdm-nano-ctx").digest
    )
