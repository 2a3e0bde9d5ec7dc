"""The model is the published one: golden values, rates and distortions."""

import json

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from compressai.losses import RateDistortionLoss
from torch import Tensor

from compressai_uqdm import UQDM, UQDMConfig
from compressai_uqdm.families.uqdm import unet as vdm_unet
from compressai_uqdm.families.uqdm.config import PUBLISHED
from compressai_uqdm.families.uqdm.diffusion import (
    levels_to_x,
    prior_kl,
    sharpness,
    x_to_levels,
)
from compressai_uqdm.families.uqdm.unet import UNetConfig

TINY = UNetConfig(embedding_dim=8, norm_groups=2)


@pytest.fixture(scope="session")
def golden(shared: Path) -> dict[str, np.ndarray]:
    return dict(np.load(shared / "golden/uqdm_tiny.npz"))


def published_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    # the published code takes the softmax in single precision, whatever else it uses
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return torch.softmax(logits, -1, dtype=torch.float32).to(q.dtype) @ v


@pytest.mark.parametrize(
    ("dtype", "relative", "absolute"), [("float64", 1e-9, 0.0), ("float32", 0.0, 1e-4)]
)
def test_golden_values(
    shared: Path,
    golden: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    relative: float,
    absolute: float,
) -> None:
    net = UQDM.from_checkpoint(shared / "checkpoints/uqdm-tiny", weights="raw")
    net = net.to(getattr(torch, dtype))
    if dtype == "float64":
        monkeypatch.setattr(vdm_unet.F, "scaled_dot_product_attention", published_attention)

    def check(name: str, value: Tensor) -> None:
        expected = golden[name]
        error = np.abs(value.detach().numpy() - expected)
        bound = relative * np.abs(expected).max() + absolute
        assert error.max() <= bound, f"{name}: off by {error.max()}"

    x = levels_to_x(torch.from_numpy(golden["image"]), getattr(torch, dtype))
    steps = net.noise_schedule.steps()
    for i, step in enumerate(steps):
        z_t = torch.from_numpy(golden[f"step{i}_z_t"]).to(x)
        with torch.no_grad():
            p = net.predict(z_t, step)
        delta = step.delta
        check(f"step{i}_gamma_t", step.gamma_t)
        check(f"step{i}_gamma_s", step.gamma_s)
        check(f"step{i}_delta", delta)
        check(f"step{i}_q_scale", delta / 12**0.5)
        check(f"step{i}_eps_hat", p.eps_hat)
        check(f"step{i}_p_loc", p.means * delta)
        check(f"step{i}_p_scale", p.scales * delta)
        check(f"step{i}_logistic_scale", p.scales * delta * (3**0.5 / np.pi))
        scale_factors = p.scales * delta / step.prior_scale(torch.ones(()))
        check(f"step{i}_scale_factors", scale_factors)
        check(f"step{i}_q_loc", step.mean(z_t, x))
        denoised = x_to_levels(p.x_hat / steps[-1].alpha_s).round().clamp(0, 255)
        flow = z_t
        for later in steps[i:]:
            with torch.no_grad():
                flow = later.flow(flow, net.predict(flow, later).eps_hat)
        flow = x_to_levels(flow / steps[-1].alpha_s).round().clamp(0, 255)
        for name, levels in (("denoise", denoised), ("flow", flow)):
            differ = (levels.detach().numpy() != golden[f"step{i}_recon_{name}"]).mean()
            assert differ <= (0 if dtype == "float64" else 0.01), (i, name)

        # universal quantization and its cost, with the published, continuous dither
        u = torch.from_numpy(golden[f"step{i}_dither"]).to(x)
        y, means = step.mean(z_t, x) / delta, p.means
        k = (y - means + u).round()
        if dtype == "float64":
            assert (k.detach().numpy() == golden[f"step{i}_k"]).all()
            check(f"step{i}_z_s", (k - u + means) * delta)
        z_s = torch.from_numpy(golden[f"step{i}_z_s"]).to(x)
        likelihood = net.latent_priors[i].likelihood(z_s / delta, p.scales, means)
        if dtype == "float64":
            check(f"step{i}_rate_nats", -likelihood.log())
        else:
            # the steep flanks of narrow priors magnify the network's rounding; from
            # the golden location and scale, and in the sum, nothing of it is left
            total = golden[f"step{i}_rate_nats"].sum()
            assert -likelihood.log().sum().item() == pytest.approx(total, rel=1e-5)
            means = torch.from_numpy(golden[f"step{i}_p_loc"]).to(x) / delta
            scales = torch.from_numpy(golden[f"step{i}_p_scale"]).to(x) / delta
            likelihood = net.latent_priors[i].likelihood(z_s / delta, scales, means)
            check(f"step{i}_rate_nats", -likelihood.log())

    # the published code has the constants of the last stage in single precision
    alpha_0 = steps[-1].alpha_s.detach().float().to(x)
    kappa = sharpness(steps[-1].gamma_s).detach().float()
    z_0 = torch.from_numpy(golden["z_0"]).to(x) / alpha_0
    levels = torch.from_numpy(golden["image"])
    log_p = net.pixel_prior.likelihood(levels, x_to_levels(z_0), kappa)
    total = log_p.double().log().sum().detach()[None]
    expected = golden["log_prob_x_given_z0"]
    assert abs(total - expected)[0] <= abs(expected[0]) * (relative or 1e-4)
    recon = x_to_levels(z_0).round().clamp(0, 255).detach().numpy()
    assert (recon == golden["recon_z0"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_published_rate_and_distortion(shared: Path, weights: str) -> None:
    """All 48 patches once; eval/reproduce.py averages four seeds and all methods."""
    suffix = "_ema" if weights == "ema" else ""
    file = shared / f"reference/kodak_box64_first48{suffix}.json"
    reference = json.loads(file.read_text())["estimate"]["denoise"]
    images = np.load(shared / "images/kodak_box64.npy")
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    net = UQDM.from_checkpoint(shared / "checkpoints/uqdm-tiny", weights=weights)
    bits, error = np.zeros(5), np.zeros(5)
    with torch.no_grad():
        for seed, image in enumerate(x.split(1)):
            for q in range(1, 6):
                net.quality = q
                out = net(image, seed=seed) if q in (1, 2, 3, 5) else {}
                if out:
                    error[q - 1] += ((out["x_hat"] - image) * 255).pow(2).mean()
            bits += [float(-p.log2().sum()) for p in out["likelihoods"].values()]
    bpp = bits.cumsum() / (48 * 64 * 64)
    # one set of seeds spreads twice as far as the mean of four
    spread = 6 * np.array(reference["bpp_spread_over_seeds"][1:])
    assert (np.abs(bpp - reference["bpp"][1:]) < spread).all()
    psnr = 10 * np.log10(255**2 / (error[:3] / 48))
    assert np.abs(psnr - reference["psnr_of_mean_mse"][1:4]).max() < 0.3
    assert error[4] == 0


def small(**changes: object) -> UQDM:
    torch.manual_seed(0)
    of_network = {f.name for f in fields(UNetConfig)} & set(changes)
    network = replace(TINY, **{name: changes.pop(name) for name in of_network})  # type: ignore[arg-type]
    return UQDM(UQDMConfig(network=network, **changes))  # type: ignore[arg-type]


def randomized(net: UQDM) -> UQDM:
    """The same with every layer at work: some start at zero."""
    for parameter in net.denoiser.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    return net


def test_bound_is_the_training_objective() -> None:
    """RateDistortionLoss with lambda 0 is the bound, term by term as in the paper."""
    net = small().double().train()
    x = torch.randint(0, 256, (2, 3, 16, 16)).double() / 255
    torch.manual_seed(1)
    loss = RateDistortionLoss(lmbda=0)(net(x), x)["loss"]

    torch.manual_seed(1)
    x_ = levels_to_x((x * 255).round(), torch.float64)
    steps = net.noise_schedule.steps()
    z = steps[0].alpha_t * x_ + steps[0].sigma_t * torch.randn_like(x_)
    nats = prior_kl(x_, steps[0].gamma_t).sum()
    for step in steps:
        p = net.predict(z, step)
        z = step.mean(z, x_) + step.delta * torch.empty_like(x_).uniform_(-0.5, 0.5)
        a = (z - p.means * step.delta + step.delta / 2) / (p.scales * step.delta)
        b = (z - p.means * step.delta - step.delta / 2) / (p.scales * step.delta)
        s = np.pi / 3**0.5
        nats = nats - (torch.sigmoid(a * s) - torch.sigmoid(b * s)).log().sum()
    x_v = levels_to_x(torch.arange(256), torch.float64)
    distance = (z[..., None] / steps[-1].alpha_s - x_v) ** 2
    log_p = F.log_softmax(-0.5 * torch.exp(-steps[-1].gamma_s) * distance, -1)
    index = (x * 255).round().long()[..., None]
    nats = nats - log_p.gather(-1, index).sum()
    assert loss.item() == pytest.approx(nats.item() / np.log(2) / (2 * 16 * 16), rel=1e-9)


CONFIGS = [
    {"prior_type": "normal"},
    {"prior_type": "gaussian", "base_prior_scale": "default"},
    {"noise_schedule": "fixed_linear", "n_timesteps": 1},
    {"fix_gamma_max": False, "n_timesteps": 7},
    {"attention_everywhere": True, "n_attention_heads": 2, "dropout_prob": 0.1},
    {"learned_prior_scale": False, "use_fourier_features": False},
    {"n_blocks": 3},
]


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_every_configuration_trains_and_codes(changes: dict[str, object]) -> None:
    net = randomized(small(**changes))
    x = torch.randint(0, 256, (2, 3, 20, 24)).float() / 255
    net.train()
    loss = RateDistortionLoss(lmbda=0)(net(x), x)["loss"] + net.aux_loss()
    loss.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name

    net = UQDM.from_state_dict(net.state_dict()).eval()  # configuration travels inside
    net.update()
    assert net.n_stages == net.config.n_timesteps + 1
    out = net.compress(x)
    images = net.decompress(out["strings"], out["shape"], progressive=True)["x_hats"]
    assert len(images) == net.n_stages
    assert (images[-1] == x).all()
    for method in ("ancestral", "flow_based"):
        decoded = net.decompress(out["strings"][:-1], out["shape"], reconstruction=method)
        assert decoded["x_hat"].min() >= 0 and decoded["x_hat"].max() <= 1


def test_published_configurations_have_the_published_sizes() -> None:
    # the paper's table says 273M for the last, with two digits exchanged
    sizes = {"uqdm-tiny": 176e3, "uqdm-small": 2e6, "uqdm-medium": 122e6, "uqdm-big": 237e6}
    for name, size in sizes.items():
        with torch.device("meta"):
            parameters = UQDM(PUBLISHED[name]).denoiser.parameters()
        assert sum(p.numel() for p in parameters) == pytest.approx(size, rel=0.12)


def test_configurations_are_those_of_the_published_files(shared: Path) -> None:
    for name in ("uqdm-tiny", "uqdm-small", "uqdm-medium", "uqdm-big"):
        file = shared / "checkpoints" / name / "config.json"
        assert UQDMConfig.from_json(file) == PUBLISHED[name]


def test_quantiles_learn_the_spread_of_scales() -> None:
    net = randomized(small()).train()
    x = torch.randint(0, 256, (4, 3, 16, 16)).float() / 255
    optimizer = torch.optim.Adam([prior.quantiles for prior in net.latent_priors], lr=0.05)
    for _ in range(200):
        with torch.no_grad():
            net(x)
        optimizer.zero_grad()
        net.aux_loss().backward()
        optimizer.step()
    net.update(force=True)
    with torch.no_grad():
        z = torch.randn_like(x)
        scales = net.predict(z, net.noise_schedule.steps()[0]).scales
    low, middle, high = net.latent_priors[0].quantiles.exp().tolist()
    assert low < middle < high
    assert middle == pytest.approx(scales.median().item(), rel=0.1)
    assert net.latent_priors[0].scale_table[0].item() == pytest.approx(low, rel=1e-4)
    assert (
        scales.log().std() > 0
        and low < scales.quantile(0.05) < scales.quantile(0.95) < high
    )


def test_distortion_trains_the_network() -> None:
    """With lambda > 0, the reconstruction after ``quality`` stages has a gradient."""
    net = randomized(small()).train()
    net.quality = 2
    x = torch.randint(0, 256, (1, 3, 16, 16)).float() / 255
    net(x)["x_hat"].sub(x).pow(2).mean().backward()
    gradients = [p.grad for p in net.denoiser.parameters() if p.grad is not None]
    assert sum(g.abs().sum() for g in gradients) > 0
