"""The family in the cosine basis: integers, nested cells, exact round trips."""

import copy
import math
import shutil
import subprocess
import sys

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from compressai.losses import RateDistortionLoss
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.functional import to_tensor

import compressai_uqdm

from compressai_uqdm import CosineConfig, CosineUQDM, DamagedStringError
from compressai_uqdm.entropy_models import head_adaptation
from compressai_uqdm.families.dct import coefficient_scales
from compressai_uqdm.families.dct import pixel_prior as pixels
from compressai_uqdm.families.dct.block_order import BlockOrder
from compressai_uqdm.families.dct.context_network import (
    SubbandContextLayer,
    fractional_bits,
)
from compressai_uqdm.families.dct.model import draw_grids
from compressai_uqdm.families.dct.transform import (
    BLOCK,
    SUBBANDS,
    forward_dct,
    inverse_dct,
)
from compressai_uqdm.files.container import parse_header
from compressai_uqdm.files.model import open_codec
from compressai_uqdm.quantization.nested import POINTS, finest_cells
from compressai_uqdm.zoo import RECIPES


@pytest.fixture(scope="module")
def net() -> CosineUQDM:
    net = RECIPES["uqdm-photo"].load()
    assert isinstance(net, CosineUQDM)
    return net


@pytest.fixture(scope="module")
def x(photograph: Image.Image) -> torch.Tensor:
    return to_tensor(photograph)[None]


def small(**changes: object) -> CosineUQDM:
    """A network whose every layer is at work: some start at zero."""
    torch.manual_seed(0)
    net = CosineUQDM(CosineConfig(hidden=8, **changes))  # type: ignore[arg-type]
    for name, parameter in net.named_parameters():
        if "head" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    net.update()
    return net.eval()


# ---- the basis ----


def test_basis_is_orthonormal_and_its_inverse_near_in_integers() -> None:
    levels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 24, 40)))
    y = forward_dct(levels)
    energy = (levels.double() - 127.5).square().sum()
    assert y.square().sum().item() == pytest.approx(energy.item(), rel=1e-12)
    for image, coefficients in zip(levels, y):
        positions = inverse_dct(np.rint(coefficients.numpy() * 64), (24, 40)) / 2**16
        assert np.abs(positions - image.numpy()).max() < 0.06  # of rounding to 1/64


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (17, 30)], ids=str)
def test_sides_are_extended_by_their_last_row_and_column(size: tuple[int, int]) -> None:
    H, W = size
    levels = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1, 3, H, W)))
    padded = np.pad(levels.numpy(), ((0, 0), (0, 0), (0, -H % 8), (0, -W % 8)), "edge")
    assert torch.equal(forward_dct(levels), forward_dct(torch.from_numpy(padded)))
    back = inverse_dct(np.rint(forward_dct(levels)[0].numpy() * 64), size)
    assert back.shape == (3, H, W) and np.abs(back / 2**16 - levels[0].numpy()).max() < 0.1


def test_groups_hold_every_coefficient_once_from_low_to_high() -> None:
    assert [k for s in SUBBANDS for k in range(s.start, s.stop)] == list(range(192))
    flat = forward_dct(torch.full((1, 3, BLOCK, BLOCK), 200))[0, :, 0, 0]
    assert flat[0] > 500 and flat[1:].abs().max() < 1e-9  # all grey stands in the first


def test_constants_are_not_near_the_middle_between_integers(net: CosineUQDM) -> None:
    """Where another library's cosine or logarithm could be rounded otherwise."""
    k, i = np.arange(8)[:, None], np.arange(8)
    cosines = 2**14 * np.sqrt(2 / 8) * np.cos(np.pi * (i + 0.5) * k / 8)
    q = np.arange(POINTS * (1 << 11)) / POINTS
    for values in (cosines, cosines[0] / 2**0.5, np.log1p(2 * q) * 16):
        assert np.abs(values - np.floor(values) - 0.5).min() > 1e-7
    for stage, width in enumerate(net.config.quantization_steps):
        prior = net.latent_priors[net.config.network(stage)]
        low, high = (math.log(scale) for scale in coefficient_scales.SCALE_SPAN)
        base = (0.4 * prior.coefficient_std.double() / width).log() - low
        scaled = (base / (high - low) * 127 * 2**22).numpy()
        assert np.abs(scaled - np.floor(scaled) - 0.5).min() > 1e-5


# ---- nested cells ----


@settings(max_examples=60, deadline=None)
@given(
    ratios=st.lists(st.integers(2, 6), min_size=0, max_size=3),
    last=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_value_is_in_its_cells(ratios: list[int], last: int, seed: int) -> None:
    widths = [last * math.prod(ratios[i:]) for i in range(len(ratios) + 1)]
    x = torch.from_numpy(np.random.default_rng(seed).normal(0, 90, (6, 192)))
    grids = draw_grids(widths, BlockOrder(1, 3, 2), seed)
    finest, before = finest_cells(x, float(last), grids[-1].dither), None
    for grid in grids:
        cells = grid.cells(finest)
        middles = (cells + grid.middle / POINTS) * grid.width
        # middles are rounded to a 32nd of the width
        assert ((x - middles).abs() <= (0.5 + 0.5 / POINTS + 1e-9) * grid.width).all()
        if before is not None:
            part = cells - grid.first_in(before)
            assert part.min() >= 0 and part.max() < grid.ratio
        before = cells


def test_noise_is_uniform_and_independent_of_the_value() -> None:
    x = torch.full((1600, 192), 3.7, dtype=torch.float64)
    grids = draw_grids((48, 8), BlockOrder(1, 40, 40), 5)
    for grid in grids:
        cells = grid.cells(finest_cells(x, 8.0, grids[-1].dither))
        noise = ((cells + grid.middle / POINTS) * grid.width - x) / grid.width
        assert abs(noise.mean().item()) < 0.003
        assert noise.std().item() * 12**0.5 == pytest.approx(1, abs=0.005)
        assert noise.abs().max() <= 0.5 + 0.5 / POINTS + 1e-9


# ---- integers ----


def reference(group: SubbandContextLayer, state: np.ndarray) -> np.ndarray:
    """Location and log scale, by NumPy's 64-bit integers."""
    w = {name: np.rint(p.detach().numpy() * 2.0 ** fractional_bits(name)).astype(np.int64)
         for name, p in group.named_parameters()}  # fmt: skip

    def activate(sums: np.ndarray) -> np.ndarray:
        half, one = 1 << 7, 1 << 8
        up = (sums + half) // one
        tie = (sums + half) % one == 0  # to the even one, as PyTorch rounds
        return np.where(tie & (up % 2 == 1), up - 1, up).clip(0, 1023)

    h = activate(state + w["bias"])
    h = activate(h @ w["mix"].T + w["mix_bias"])
    return h @ w["head"].T + w["head_bias"]


def test_floats_compute_the_integers(net: CosineUQDM) -> None:
    rng = np.random.default_rng(0)
    for prior in net.latent_priors:
        for _, channels, group in prior.steps()[::7]:
            n = channels.stop - channels.start
            state = rng.integers(-(1 << 18), 1 << 18, (50, 96))
            found = (
                group.entropy_parameters(torch.from_numpy(state).double()).detach().numpy()
            )
            assert (found == reference(group, state)).all()
            features = rng.integers(-127, 128, (50, 3 * n))
            padded = np.concatenate([features, np.zeros((1, 3 * n), np.int64)])
            for name, places in (("same_parity", 5), ("opposite_parity", 4)):
                at = torch.from_numpy(rng.integers(0, 51, (50, places)))
                sums = group.propagate_context(name, torch.from_numpy(padded).float(), at)
                weight = group.fixed(name).detach().numpy().astype(np.int64)
                bias = group.fixed(f"{name}_bias").detach().numpy().astype(np.int64)
                exact = padded[at].reshape(50, -1) @ weight.T + bias
                assert (sums.detach().numpy() == exact).all()


def test_weights_whose_sums_could_round_are_refused() -> None:
    net = small()
    with torch.no_grad():
        net.latent_priors[0].steps()[5].layer.mix[3] += 20
    with pytest.raises(ValueError, match="'mix' are too large: a sum may reach .* below 2"):
        net.update(force=True)


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    yield
    torch.set_num_threads(before)


def test_strings_are_the_same_under_other_settings(
    net: CosineUQDM, x: torch.Tensor
) -> None:
    x = x[:, :, 40:120, 60:170]
    out = net.compress(x, seed=3)
    with threads(2):
        assert net.compress(x, seed=3) == out
    with torch.backends.mkldnn.flags(enabled=False):
        assert net.compress(x, seed=3) == out
    with torch.autocast("cpu"):
        assert net.compress(x, seed=3) == out
    assert copy.deepcopy(net).double().compress(x, seed=3) == out
    in_pixels = x.contiguous(memory_format=torch.channels_last)
    assert net.compress(in_pixels, seed=3) == out
    both = net.compress(torch.cat([x.flip(3), x]), seed=3)
    assert [stage[1] for stage in both["strings"]] == [stage[0] for stage in out["strings"]]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a compiler")
def test_compiled_networks_give_the_same_integers(net: CosineUQDM) -> None:
    """However a compiler fuses and orders their sums."""
    generator = torch.Generator().manual_seed(0)
    group = net.latent_priors[1].layers[20]
    assert isinstance(group, SubbandContextLayer)
    state = torch.randint(-20000, 20000, (500, 96), generator=generator).double()
    window = torch.randint(-512, 513, (9, 43, 63), generator=generator).float()
    blocks = torch.randint(-(2**20), 2**20, (48, 20, 30), generator=generator).float()
    network = net.pixel_prior.network
    with torch.no_grad():
        assert torch.equal(
            torch.compile(group.entropy_parameters)(state), group.entropy_parameters(state)
        )
        expected = network.layers(window, blocks, 5)
        for a, b in zip(torch.compile(network.layers)(window, blocks, 5), expected):
            assert torch.equal(a, b)


# ---- coding ----


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (3, 70), (65, 9), (80, 110)], ids=str)
def test_lossless_and_prefixes(
    net: CosineUQDM, x: torch.Tensor, size: tuple[int, int]
) -> None:
    x = x[:, :, 50 : 50 + size[0], 60 : 60 + size[1]]
    out = net.compress(x)
    assert len(out["strings"]) == net.n_stages == 6
    decoded = net.decompress(**out, progressive=True)
    assert torch.equal(decoded["x_hat"], x)
    with torch.no_grad():
        estimate = net.estimate(x, progressive=True)
    for q, (a, b) in enumerate(zip(decoded["x_hats"], estimate["x_hats"]), 1):
        assert torch.equal(a, b)
        fewer = net.decompress(out["strings"][:q], out["shape"])["x_hat"]
        assert torch.equal(fewer, a)


def test_bits_are_those_of_the_estimate(net: CosineUQDM, x: torch.Tensor) -> None:
    out = net.compress(x)
    with torch.no_grad():
        likelihoods = net(x)["likelihoods"]
    for strings, p in zip(out["strings"], likelihoods.values(), strict=True):
        estimate = -p.double().log2().sum().item()
        # the softmax of the pixels is estimated in floats, and coded by tables of 256 bins
        rel = 3e-3 if p.dim() == 1 and len(p) == x.numel() else 1e-3
        assert 8 * len(strings[0]) == pytest.approx(estimate, rel=rel, abs=100)


def test_teaching_costs_what_coding_does(net: CosineUQDM, x: torch.Tensor) -> None:
    """Likelihoods of training, of the coefficients that are sent, beside real ones."""
    x = x[:, :, :120, :160]
    net.train()
    try:
        torch.manual_seed(0)
        with torch.no_grad():
            taught = net(x)["likelihoods"]
    finally:
        net.eval()
    with torch.no_grad():
        real = net(x)["likelihoods"]
    for name in ("stage_1", "stage_2"):
        all_of_them = -taught[name].log2().sum().item()
        sent = -real[name].log2().sum().item()
        assert sent < all_of_them < 4 * sent


def test_it_learns() -> None:
    net, criterion = small().train(), RateDistortionLoss(lmbda=0)
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((4, 3, 4, 4))).float()
    x = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = criterion(net(x), x)["bpp_loss"]
        (loss + net.aux_loss()).backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.8 * losses[0]


def test_damaged_strings(net: CosineUQDM, x: torch.Tensor) -> None:
    x = x[:, :, :40, :48]
    out = net.compress(x)
    rng = np.random.default_rng(0)
    for _ in range(30):
        strings = [stage[0] for stage in out["strings"]]
        stage = rng.integers(len(net.config.quantization_steps))
        damaged = bytearray(strings[stage])
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        strings[stage] = bytes(damaged)
        with pytest.raises(DamagedStringError, match="damaged"):
            net.decompress([[s] for s in strings], out["shape"])
    with pytest.raises(ValueError, match='must be "denoise", got'):
        net.decompress(**out, reconstruction="ancestral")
    with pytest.raises(ValueError, match="another seed"):
        net.decompress(**out, seed=4)


def test_fits_see_the_same_either_way(
    net: CosineUQDM, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether what the network of pixels gives is kept, or some of it computed twice."""
    monkeypatch.setattr(head_adaptation, "_SAMPLE", 3000)  # one of seven
    kept = net.compress(x)["strings"]
    monkeypatch.setattr(pixels, "RECOMPUTED_FROM", 1)
    assert net.compress(x)["strings"] == kept


# ---- memory ----

CODING = """
import resource, sys
from compressai_uqdm import encode, load
from PIL import Image

peaks = []
for path in sys.argv[1:]:
    if path.endswith("uqdm"):
        size = load(path).image.size
    else:
        size = Image.open(path).size
        encode(Image.open(path))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
unit = 1 if sys.platform == "darwin" else 1024
print((peaks[1] - peaks[0]) * unit / (size[0] * size[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is asked of POSIX")
@pytest.mark.parametrize(("kind", "most"), [("png", 230), ("uqdm", 120)])
def test_coding_takes_little_memory(
    photograph: Image.Image, tmp_path: Path, kind: str, most: int
) -> None:
    """Bytes per pixel of a large picture beyond what a small one takes: 156, 47 to 75."""
    paths = [tmp_path / f"small.{kind}", tmp_path / f"large.{kind}"]
    for path, size in zip(paths, ((320, 240), (1000, 750))):
        resized = photograph.resize(size, Image.Resampling.BICUBIC)
        if kind == "png":
            resized.save(path)
        else:
            compressai_uqdm.save(resized, path)
    done = subprocess.run(
        [sys.executable, "-c", CODING, *paths], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < most


# ---- files and weights ----


def test_files_and_cuts(photograph: Image.Image) -> None:
    """More bytes never make the picture worse by more than 0.1 dB."""
    image = photograph.crop((40, 30, 168, 126))
    codec = open_codec("uqdm-photo")
    data = compressai_uqdm.encode(image, codec)
    assert compressai_uqdm.decode(data, model=codec).image.tobytes() == image.tobytes()
    best = 0.0
    for n in np.linspace(60, len(data) - 1, 40).astype(int):
        picture = compressai_uqdm.decode(data[:n], model=codec).image
        mse = np.square(np.asarray(picture, float) - np.asarray(image, float)).mean()
        psnr = 10 * math.log10(255**2 / max(mse, 1e-9))
        assert psnr > best - 0.1
        best = max(best, psnr)
    with pytest.raises(ValueError, match="computes in integer, not in float32"):
        compressai_uqdm.encode(image, codec, arithmetic="float32")


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.5])
def test_a_cut_first_stage_shows_no_grid(photograph: Image.Image, share: float) -> None:
    """Blocks of both colours of the checkerboard are as bright, whichever of them came."""
    data = compressai_uqdm.encode(photograph, stages=1)
    header, start = parse_header(data)  # type: ignore[misc]
    cut = data[: start + int(share * header.lengths[0])]
    levels = np.asarray(compressai_uqdm.decode(cut).image, float)
    blocks = levels.reshape(30, 8, 40, 8, 3).mean((1, 3))
    colour = np.add.outer(np.arange(30), np.arange(40)) % 2
    difference = blocks[colour == 0].mean(0) - blocks[colour == 1].mean(0)
    assert np.abs(difference).max() < 2.5  # it was up to 7.8


def test_weights_travel(net: CosineUQDM, x: torch.Tensor, tmp_path: Path) -> None:
    folder = tmp_path
    x = x[:, :, :24, :24]
    strings = net.compress(x)["strings"]
    net.save_integers(folder / "weights.npz")
    torch.save({"state_dict": net.state_dict()}, folder / "weights.pt")
    net.save_pretrained(folder / "hub")
    for other in (
        CosineUQDM.from_checkpoint(folder / "weights.npz"),
        CosineUQDM.from_checkpoint(folder / "weights.pt"),
        CosineUQDM.from_pretrained(folder / "hub"),
    ):
        other.update()
        assert other.eval().compress(x)["strings"] == strings
    assert open_codec(str(folder / "weights.npz")).digest == open_codec("uqdm-photo").digest
    with pytest.raises(
        ValueError, match="expected the state dict of .* got a dict with \\['a'\\]"
    ):
        CosineUQDM.from_state_dict({"a": torch.zeros(1)})
    arrays = dict(np.load(folder / "weights.npz"))
    arrays["latent_priors.1.layers.mix"] = arrays["latent_priors.1.layers.mix"][:-1]
    np.savez(folder / "short.npz", **arrays)
    with pytest.raises(ValueError, match="442368 values of latent_priors.1.layers.mix"):
        CosineUQDM.from_checkpoint(folder / "short.npz")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"quantization_steps": (48, 7)}, "each a multiple of the next"),
        ({"quantization_steps": ()}, "positive integers"),
        ({"quantization_steps": (5140, 20)}, "at most 256 times"),
        ({"trained_steps": ()}, "trained_steps must be positive integers"),
        ({"quantization_steps": (8, 48)}, "each a multiple"),
        ({"dead_zones": (0.3,)}, "as many as quantization_steps"),
        ({"dead_zones": (0.3, 9.0)}, r"each in 0\.02\.\.4"),
        ({"hidden": 0}, "hidden must be a positive integer"),
    ],
)
def test_bad_configurations(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CosineConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("units", [(48, 8), (20, 7), (1000,)], ids=str)
def test_stages_share_networks(units: tuple[int, ...]) -> None:
    """Whatever networks count in, and also where that is no multiple of a width."""
    net = small(
        quantization_steps=(48, 16, 8), dead_zones=(0.3, 0.3, 0.4), trained_steps=units
    )
    assert [prior.trained_step for prior in net.latent_priors] == list(units)
    x = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    x = (x * 255).round() / 255
    assert torch.equal(net.decompress(**net.compress(x))["x_hat"], x)
