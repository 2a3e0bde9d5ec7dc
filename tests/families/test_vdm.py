"""Gaussian diffusion: its bound, its estimates, and that it says it cannot code."""

import json
import math
import os
import subprocess

from pathlib import Path

import numpy as np
import pytest
import torch

from compressai.losses import RateDistortionLoss
from compressai.optimizers import net_aux_optimizer
from compressai.zoo import image_models
from PIL import Image
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from compressai_uqdm import UQDM, VDM, UQDMConfig
from compressai_uqdm.families.uqdm.denoiser import Denoiser
from compressai_uqdm.families.uqdm.diffusion import levels_to_x
from compressai_uqdm.families.uqdm.unet import UNetConfig

TINY = UNetConfig(embedding_dim=8, norm_groups=2)
GAUSSIAN = {
    "prior_type": "normal",
    "learned_prior_scale": False,
    "base_prior_scale": "default",
}
METHODS = ("denoise", "ancestral", "flow_based")


def small(T: int = 4, **changes: object) -> VDM:
    """A network whose every layer is at work: some start at zero."""
    torch.manual_seed(0)
    values = {"network": TINY, **GAUSSIAN, **changes}
    net = VDM(UQDMConfig(n_timesteps=T, **values))  # type: ignore[arg-type]
    for parameter in net.denoiser.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    return net.eval()


def pictures(count: int = 2, size: int = 16) -> Tensor:
    torch.manual_seed(1)
    noise = torch.rand(count, 3, size // 4, size // 4)
    smooth = torch.nn.functional.interpolate(noise, size=size, mode="bilinear")
    return (smooth * 255).round() / 255


def nats(likelihoods: Tensor) -> Tensor:
    return -likelihoods.double().log().sum()


def test_rate_is_the_divergence_of_the_transitions() -> None:
    net = small().double()
    x = pictures().double()
    likelihoods = net(x, seed=3)["likelihoods"]
    assert list(likelihoods) == ["stage_1", "stage_2", "stage_3", "stage_4", "pixels"]

    z = net.first_latent(x.shape, seed=3).z
    step = net.noise_schedule.steps()[0]
    scale = step.sigma_s * step.c.sqrt()
    q = Normal(step.mean(z, levels_to_x((x * 255).round(), torch.float64)), scale)
    p = Normal(step.mean(z, net.predict(z, step).x_hat), scale)
    expected = kl_divergence(q, p).sum()
    assert nats(likelihoods["stage_1"]).item() == pytest.approx(expected.item(), rel=1e-9)


VARIANCE = 0.01


def with_optimal_network(net: VDM) -> VDM:
    """The network replaced by the best one for pixels that are Gaussian about grey."""

    class Best(Denoiser):
        device, dtype = torch.device("cpu"), torch.float32

        def forward(
            self, z: Tensor, gamma: Tensor, progress: object = None
        ) -> tuple[Tensor, Tensor]:
            alpha2, sigma2 = torch.sigmoid(-gamma), torch.sigmoid(gamma)
            x_hat = alpha2.sqrt() * VARIANCE / (alpha2 * VARIANCE + sigma2) * z
            return (z - alpha2.sqrt() * x_hat) / sigma2.sqrt(), torch.ones_like(z)

    return VDM(net.config, denoiser=Best()).eval()


def toy_picture() -> Tensor:
    torch.manual_seed(2)
    levels = (127.5 + 128 * VARIANCE**0.5 * torch.randn(1, 3, 64, 64)).round()
    return levels.clamp(0, 255) / 255


def toy_bound(net: VDM) -> float:
    """Nats per value: sum of (SNR_s - SNR_t) / 2 times the least squared error."""
    total = 0.0
    for step in net.noise_schedule.steps():
        snr_t, snr_s = math.exp(-step.gamma_t.item()), math.exp(-step.gamma_s.item())
        total += (snr_s - snr_t) / 2 / (1 / VARIANCE + snr_t)
    return total


def test_bound_tightens_to_the_information_of_a_gaussian_channel() -> None:
    x, bounds = toy_picture(), []
    for T in (2, 4, 8, 16, 32, 64):
        net = with_optimal_network(small(T))
        net.quality = T
        with torch.no_grad():
            likelihoods = net(x)["likelihoods"].values()
        bounds.append(sum(nats(p).item() for p in likelihoods) / x.numel())
        assert bounds[-1] == pytest.approx(toy_bound(net), rel=0.03)
    assert bounds == sorted(bounds, reverse=True)
    gammas = net.noise_schedule(0.0).item(), net.noise_schedule(1.0).item()
    low, high = (0.5 * math.log1p(VARIANCE * math.exp(-gamma)) for gamma in gammas)
    information = low - high
    assert information < bounds[-1] < 1.2 * information


@pytest.mark.parametrize("T", [4, 100])
def test_training_draws_steps_without_bias(T: int) -> None:
    net = with_optimal_network(small(T)).train()
    x = toy_picture().expand(10, -1, -1, -1)
    torch.manual_seed(3)
    estimates = [nats(net(x)["likelihoods"]["stages"]).item() for _ in range(40)]
    mean, error = np.mean(estimates), np.std(estimates) / 40**0.5
    expected = toy_bound(net) * x.numel()
    assert abs(mean - expected) < 4 * error + 0.01 * expected
    assert error < 0.03 * expected  # steps are spread over the batch


def test_training_lowers_the_bound() -> None:
    net, x = (
        small(T=10, network=UNetConfig(embedding_dim=16, norm_groups=2)).train(),
        pictures(8),
    )
    conf = {
        "net": {"type": "Adam", "lr": 3e-3},
        "aux": {"type": "Adam", "lr": 1e-3},
    }
    optimizers = net_aux_optimizer(net, conf)
    criterion = RateDistortionLoss(lmbda=0)

    def bound() -> float:
        with torch.no_grad():
            return criterion(net.eval()(x), x)["bpp_loss"].item()

    before = bound()
    for _ in range(60):
        net.train()
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        criterion(net(x), x)["loss"].backward()
        optimizers["net"].step()
        net.aux_loss().backward()
        optimizers["aux"].step()
    assert bound() < 0.9 * before


@pytest.mark.parametrize("quality", [1, 3, 4, 5])
def test_distortion_has_a_gradient(quality: int) -> None:
    net, x = small(fix_gamma_max=False).train(), pictures()
    net.quality = quality
    out = net(x)
    assert out["x_hat"].dtype == x.dtype and out["x_hat"].shape == x.shape
    RateDistortionLoss(lmbda=0.01)(out, x)["loss"].backward()
    for name, parameter in net.named_parameters():
        if name != "latent_conditional.quantiles":
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_costs_beyond_double_precision_add_up() -> None:
    net, x = small(T=1), pictures()
    with torch.no_grad():
        likelihoods = net(x)["likelihoods"]["stage_1"]
        latent = net.first_latent(x.shape, seed=0)
        x_hat = latent.prediction.x_hat
    error = (x_hat - levels_to_x((x * 255).round())).double()
    snr_t, snr_s = (math.exp(-g.item()) for g in (latent.step.gamma_t, latent.step.gamma_s))
    expected = (snr_s - snr_t) / 2 * error.pow(2)
    assert expected.max() > 1000  # exp(-1000) is 0
    assert nats(likelihoods).item() == pytest.approx(expected.sum().item(), rel=1e-4)


@pytest.mark.parametrize("cls", [VDM, UQDM])
@pytest.mark.parametrize("method", METHODS)
def test_reconstructions(cls: type, method: str) -> None:
    net = small(T=3)
    if cls is UQDM:
        torch.manual_seed(0)
        net = UQDM(UQDMConfig(network=TINY, n_timesteps=3)).eval()
    x = pictures()
    with torch.no_grad():
        out = net.estimate(x, 5, method, progressive=True)
        alone = net.estimate(x[1:], 5, method, progressive=True)
    assert len(out["x_hats"]) == 4 and (out["x_hats"][-1] == x).all()
    for x_hat, other in zip(out["x_hats"], alone["x_hats"]):
        assert (x_hat * 255 - (x_hat * 255).round()).abs().max() < 1e-4
        # a batch of one may sum in another order
        assert (x_hat[1:] - other).abs().max() < 2.5 / 255
    net.quality = 2
    with torch.no_grad():
        second = net.estimate(x, 5, method)
    assert (second["x_hat"] == out["x_hats"][1]).all()
    assert list(second["likelihoods"]) == ["stage_1", "stage_2"]
    with pytest.raises(ValueError, match="reconstruction must be one of"):
        net.estimate(x, reconstruction="best")


def test_estimates_are_what_is_decoded(squares: np.ndarray) -> None:
    """Of UQDM: the pictures of estimate() are those of compress() and decompress()."""
    net = image_models["uqdm-nano"](5, pretrained=True)
    x = torch.from_numpy(squares[0]).permute(2, 0, 1)[None].float() / 255
    out = net.compress(x, seed=7)
    for method in METHODS:
        decoded = net.decompress(**out, reconstruction=method, progressive=True, seed=7)
        with torch.no_grad():
            estimated = net.estimate(x, 7, method, progressive=True)
        for a, b in zip(decoded["x_hats"], estimated["x_hats"], strict=True):
            assert (a == b).all()


def test_it_cannot_code() -> None:
    net = small()
    for call in (net.compress, net.decompress):
        with pytest.raises(
            NotImplementedError, match="cannot code: no practical.*use UQDM"
        ):
            call(pictures())


def test_zoo() -> None:
    for size in ("tiny", "small"):
        net = image_models[f"vdm-{size}"](quality=3)
        assert isinstance(net, VDM) and not isinstance(net, UQDM)
        assert net.n_stages == 21 and net.quality == 3
        widths = [
            len(m.denoiser.conv_in.bias) for m in (net, image_models[f"uqdm-{size}"](1))
        ]
        assert widths[0] == widths[1]
    assert {"vdm-medium", "vdm-big"} <= set(image_models)
    assert image_models["vdm-tiny"](quality=101, n_timesteps=100).n_stages == 101
    with pytest.raises(ValueError, match=r"quality must be an integer in 1\.\.21"):
        image_models["vdm-tiny"](quality=22)
    with pytest.raises(FileNotFoundError, match="no weights of vdm-tiny are published"):
        image_models["vdm-tiny"](quality=1, pretrained=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"prior_type": "logistic"},
        {"learned_prior_scale": True},
        {"base_prior_scale": "forward_kernel"},
    ],
)
def test_another_prior(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a VDM needs prior_type .*, got"):
        small(**changes)


def test_weights_run_with_any_number_of_steps(tmp_path: Path) -> None:
    net = small(T=4)
    other = VDM.from_state_dict(net.state_dict(), n_timesteps=9).eval()
    assert other.n_stages == 10
    again = VDM.from_state_dict(other.state_dict())  # changes travel with the weights
    assert again.config == other.config and again.n_stages == 10
    other.save_pretrained(tmp_path)
    loaded = VDM.from_pretrained(tmp_path)
    assert loaded.config == other.config
    with torch.no_grad():
        a, b = other(pictures()), loaded.eval()(pictures())
    assert (a["x_hat"] == b["x_hat"]).all()
    with pytest.raises(ValueError, match="weights of a VDM, got those of a UQDM"):
        VDM.from_state_dict(UQDM(UQDMConfig(network=TINY)).state_dict())


@pytest.mark.slow
def test_eval_model(tmp_path: Path, python: str) -> None:
    """CompressAI's program estimates its rate, and shows why it cannot code."""
    (tmp_path / "images").mkdir()
    array = (pictures(1, 192)[0] * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "images/picture.png")
    torch.save(small(T=3).state_dict(), tmp_path / "vdm.pt")
    program = [python, "-m", "compressai.utils.eval_model", "checkpoint", "images"]
    program += ["-a", "vdm-tiny", "-p", "vdm.pt"]

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *options],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )

    done = run("--entropy-estimation")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert results["psnr-rgb"] == [float("inf")] and 0 < results["bpp"][0] < 3000
    done = run()
    assert done.returncode != 0 and "a VDM cannot code" in done.stderr
