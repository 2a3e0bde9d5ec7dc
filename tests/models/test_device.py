"""Every model on another device: a fake one, which refuses what CUDA does."""

import sys

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from accelerate import Accelerator
from fake_cuda import FAKE, fake_cuda, is_fake
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor
from training_runs import make_folder

from compressai_uqdm import UQDM, CosineUQDM, StreamingDecoder, cli
from compressai_uqdm.files.decoding import decode
from compressai_uqdm.files.encoding import encode
from compressai_uqdm.models.arguments import Reconstruction
from compressai_uqdm.models.base import ProgressiveModel
from compressai_uqdm.training.run import Run
from compressai_uqdm.training.settings import UQDMSettings
from compressai_uqdm.training.uqdm import start
from compressai_uqdm.zoo import ASSETS, RECIPES

Model = ProgressiveModel[Any]

PACKAGED = [name for name, recipe in RECIPES.items() if isinstance(recipe.weights, Path)]
MODELS = [*PACKAGED, "vdm-tiny"]
METHODS: dict[type, tuple[Reconstruction, ...]] = {CosineUQDM: ("denoise",)}
ALL_METHODS = get_args(Reconstruction)

cuda = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture
def fake() -> Iterator[torch.device]:
    with fake_cuda() as device:
        yield device


@pytest.fixture(params=["fake", pytest.param("cuda", marks=cuda)])
def there(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda":
        return torch.device("cuda", 0)
    return request.getfixturevalue("fake")


@pytest.fixture(scope="module")
def image(photograph: Image.Image) -> Image.Image:
    return photograph.crop((100, 100, 128, 121))


@pytest.fixture(scope="module")
def images(image: Image.Image) -> Tensor:
    x = to_tensor(image)
    return torch.stack([x, x.flip(2)])


@pytest.fixture
def x(images: Tensor, there: torch.device) -> Tensor:
    """Two images, there."""
    return images.to(there)


def moved(name: str, there: torch.device) -> Model:
    """A model there; of those without weights, every layer is at work."""
    recipe = RECIPES[name]
    if recipe.weights:
        return recipe.load().to(there)
    torch.manual_seed(0)
    net = recipe.cls(recipe.config, n_timesteps=3)  # type: ignore[call-arg]
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return net.eval().to(there)


def check_there(out: dict[str, Any], stages: int, there: torch.device) -> None:
    images = [*out["x_hats"], out["x_hat"]]
    assert len(images) == stages + 1
    assert all(image.device == there for image in images)


# ---- the fake device ----


def test_it_computes_as_the_cpu_does(fake: torch.device) -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Conv2d(2, 3, 3), torch.rand(1, 2, 5, 4)
    expected = layer(x).square().sum()
    expected.backward()
    gradient, weight = layer.weight.grad, layer.weight
    layer.zero_grad()
    layer.to(FAKE)
    found = layer(x.to(FAKE)).square().sum()
    found.backward()
    assert layer.weight is weight and is_fake(weight.grad.device)
    assert torch.equal(found.cpu(), expected) and torch.equal(weight.grad.cpu(), gradient)
    assert layer.double().weight.cpu().dtype == torch.float64

    y = torch.arange(12, device=FAKE).view(3, 4)
    y[:, 1] += 10  # through a view
    y[[0, -1]] = 0
    y.view(-1)[torch.tensor([5])] = 7  # by an index on the CPU
    assert y.cpu().tolist() == [[0, 0, 0, 0], [4, 7, 6, 7], [0, 0, 0, 0]]
    assert y.new_tensor([1, 2]).sum().item() == torch.tensor(3, device=FAKE).item()


def refused() -> dict[str, Callable[[Tensor, Tensor], object]]:
    return {
        "numpy": lambda here, there: there.numpy(),
        "asarray": lambda here, there: np.asarray(there),
        "sum": lambda here, there: there + here,
        "in place": lambda here, there: here.add_(there[0, 0]),
        "number in place": lambda here, there: here[0, 0].add_(there[0, 0]),
        "product": lambda here, there: there @ here,
        "cat": lambda here, there: torch.cat([there, here]),
        "stack of numbers": lambda here, there: torch.stack([there[0, 0], here[0, 0]]),
        "where": lambda here, there: torch.where(here > 0, there, 0.0),
        "index of the CPU's": lambda here, there: here[there.long()],
        "values set": lambda here, there: there.__setitem__(torch.tensor([0]), here[0]),
        "equal": lambda here, there: torch.equal(here, there),
        "generator": lambda here, there: there.normal_(generator=torch.Generator()),
        "generator there": lambda here, there: here.normal_(
            generator=torch.Generator(FAKE)
        ),
    }


@pytest.mark.parametrize("what", refused())
def test_it_refuses_what_cuda_does(what: str, fake: torch.device) -> None:
    here = torch.ones(2, 2)
    with pytest.raises(RuntimeError, match=r"device|subclasses"):
        refused()[what](here, here.to(FAKE))


def test_it_allows_what_cuda_does(fake: torch.device) -> None:
    there, number = torch.ones(2, 2).to(FAKE), torch.tensor(2.0)
    assert (there * number - 1 / number).sum().item() == 6.0
    there[0] = number
    there[1].copy_(torch.zeros(2))
    assert there.cpu().tolist() == [[2.0, 2.0], [0.0, 0.0]]
    assert there[torch.tensor([1])].shape == (1, 2)
    assert there.normal_(generator=torch.Generator(FAKE)).isfinite().all()


def test_it_divides_by_numbers_as_cuda_does(fake: torch.device) -> None:
    here = torch.arange(256.0)
    there = here.to(FAKE)
    assert not torch.equal((there / 255).cpu(), here / 255)
    assert torch.equal((there / torch.tensor(255.0, device=FAKE)).cpu(), here / 255)


# ---- models ----


@pytest.mark.parametrize("name", MODELS)
def test_estimates(name: str, x: Tensor, there: torch.device) -> None:
    net = moved(name, there)
    if isinstance(net, UQDM):
        assert net.update(force=True) and not net.update()
    for method in METHODS.get(type(net), ALL_METHODS):
        out = net.estimate(x, reconstruction=method, progressive=True)
        check_there(out, net.n_stages, there)
        assert torch.equal(out["x_hat"], x)
    likelihoods = net(x)["likelihoods"].values()
    assert all(p.device == there and p.min() > 0 for p in likelihoods)


@pytest.mark.parametrize("name", PACKAGED)
def test_codes(name: str, x: Tensor, there: torch.device) -> None:
    net = moved(name, there)
    strings, shape = net.compress(x, seed=5).values()
    for method in METHODS.get(type(net), ALL_METHODS):
        out = net.decompress(strings, shape, method, progressive=True, seed=5)
        check_there(out, net.n_stages, there)
        assert torch.equal(out["x_hat"], x)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uqdm-nano", "vdm-tiny"])
def test_several_windows(name: str, photograph: Image.Image, there: torch.device) -> None:
    net = moved(name, there)
    x = to_tensor(photograph.crop((100, 100, 140, 165)))[None].to(there)
    assert torch.equal(net(x)["x_hat"], x)
    net.quality = 1
    if isinstance(net, UQDM):
        strings, shape = net.compress(x).values()
        assert net.decompress(strings, shape)["x_hat"].device == there


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step(name: str, x: Tensor, there: torch.device) -> None:
    net = moved(name, there).train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for quality in (1, net.n_stages):
        net.quality = quality
        out = net(x)
        loss = -sum(p.log2().sum() for p in out["likelihoods"].values())
        (loss + out["x_hat"].square().sum() + net.aux_loss()).backward()
        assert loss.isfinite() and out["x_hat"].device == there
        optimizer.step()
    assert all(p.isfinite().all() and p.device == there for p in net.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_weights_travel_from_there(
    name: str, x: Tensor, there: torch.device, tmp_path: Path
) -> None:
    net = moved(name, there)
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    back = type(net).from_state_dict(torch.load(tmp_path / "weights.pt")).eval()
    assert back.device.type == "cpu"
    net.quality = back.quality = 1
    # kernels of attention may be others there
    assert (back(x.cpu())["x_hat"] - net(x)["x_hat"].cpu()).abs().max() < 0.02


def test_contexts_come_to_a_model_there(x: Tensor, there: torch.device) -> None:
    net = moved("uqdm-nano", there)
    assert isinstance(net, UQDM)
    net.load_contexts(ASSETS / "uqdm-nano/contexts.npz")
    net.update()
    strings, shape = net.compress(x[:1]).values()
    assert len(strings) == 4
    assert torch.equal(net.decompress(strings, shape)["x_hat"], x[:1])


# ---- files ----


@pytest.mark.parametrize("name", PACKAGED)
def test_files_between_devices(name: str, image: Image.Image, there: torch.device) -> None:
    """Made here or there, they decode there and here."""
    here_data, there_data = encode(image, name), encode(image, name, device=str(there))
    for data, device in (
        (there_data, "cpu"),
        (here_data, str(there)),
        (there_data, str(there)),
    ):
        picture = decode(data, device=device)
        assert picture.exact and picture.image.tobytes() == image.tobytes()


@pytest.mark.parametrize("name", PACKAGED)
def test_cuts_and_limits_there(name: str, image: Image.Image, there: torch.device) -> None:
    data = encode(image, name, device=str(there), min_psnr=30)
    decoder = StreamingDecoder(device=str(there))
    for first in range(0, len(data), 300):
        decoder.feed(data[first : first + 300])
        if decoder.header:
            decoder.picture()
    difference = np.subtract(decoder.picture().image, image, dtype=float)
    assert 10 * np.log10(255**2 / np.square(difference).mean()) >= 30


def test_the_command(image: Image.Image, there: torch.device, tmp_path: Path) -> None:
    run = cli.main
    image.save(tmp_path / "a.png")
    options = ["--device", str(there)]
    names = [str(tmp_path / name) for name in ("a.png", "a.uqdm", "b.png")]
    assert not run(["encode", *names[:2], *options])
    assert not run(["decode", *names[1:], *options])
    assert not run(["verify", names[1], *options])
    assert Image.open(names[2]).tobytes() == image.tobytes()


# ---- the trainer ----


@pytest.mark.slow
def test_the_trainer(
    tmp_path: Path, there: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run there, with measurements, which is resumed."""
    if there == FAKE:
        monkeypatch.setattr(Accelerator, "device", there)
        monkeypatch.setattr(  # PyTorch's list of devices with a fused Adam
            sys.modules["torch.optim.optimizer"],
            "_get_fused_kernels_supported_devices",
            lambda: ["cpu", there.type],
        )
    make_folder(tmp_path)

    def train(steps: int) -> Run:
        run = start(
            UQDMSettings(
                tmp_path / "photographs",
                tmp_path / "run",
                test=tmp_path / "held out",
                model=str(tmp_path / "config.json"),
                crop_size=16,
                batch_size=4,
                steps=steps,
                log_every=1,
                test_every=2,
                test_images=1,
            )
        )
        before = [p.detach().cpu().clone() for p in run.phase.weights]
        run.train()
        after = [p.detach().cpu() for p in run.phase.weights]
        assert any(not torch.equal(a, b) for a, b in zip(before, after))
        assert all(p.device == there for p in run.phase.weights)
        return run

    assert train(2).step == 2
    assert train(3).step == 3
    assert UQDM.from_checkpoint(tmp_path / "run/checkpoint.pt").device.type == "cpu"
