"""The model that comes with the package: nothing is downloaded, nothing else is needed."""

import os
import subprocess
import sys

from pathlib import Path

import numpy as np
import pytest
import torch

from compressai.zoo import image_models
from PIL import Image

from compressai_uqdm.files.model import DEFAULT_MODEL
from compressai_uqdm.zoo import ASSETS


def test_small_enough_for_a_package() -> None:
    for name in ("weights.safetensors", "contexts.npz"):
        assert (ASSETS / "uqdm-nano" / name).stat().st_size <= 1e6


@pytest.mark.slow
def test_first_command_needs_no_network(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "some.png")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    environment = {k: v for k, v in os.environ.items() if k != "COMPRESSAI_UQDM_ZOO"}
    for command in ("encode some.png some.uqdm", "decode some.uqdm back.png"):
        subprocess.run(
            [sys.executable, "-m", "compressai_uqdm", *command.split()],
            cwd=tmp_path,
            env={**environment, **offline},
            check=True,
        )
    assert np.array_equal(np.asarray(Image.open(tmp_path / "back.png")), noise)


def test_it_has_the_context() -> None:
    assert DEFAULT_MODEL == "uqdm-photo"
    net = image_models["uqdm-nano-ctx"](4, pretrained=True)
    assert all(bool(prior.context.conv.weight.any()) for prior in net.latent_priors[:3])
    assert net.pixel_prior.network.conv.weight.any() and net.n_stages == 4


@pytest.mark.slow
def test_not_far_behind_the_published_weights(shared: Path, zoo: None) -> None:
    """All 48 patches: 5.6% behind without context, 4.4% with (zoo/uqdm-nano)."""
    patches = torch.from_numpy(np.load(shared / "images/kodak_box64.npy")[::6])
    x = patches.permute(0, 3, 1, 2) / 255
    for context in ("", "-ctx"):
        size = {}
        for name in ("uqdm-tiny", "uqdm-nano"):
            net = image_models[name + context](1, pretrained=True)
            net.quality = net.n_stages
            strings = net.compress(x)["strings"]
            size[name] = sum(len(s) for stage in strings for s in stage)
        assert size["uqdm-nano"] < 1.08 * size["uqdm-tiny"]
