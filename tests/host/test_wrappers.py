"""Models as programs wrap, convert, copy and compile them."""

import copy
import functools
import io
import pickle

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn

from fake_cuda import fake_cuda
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from compressai_uqdm import CosineUQDM
from compressai_uqdm.fingerprint import digest
from compressai_uqdm.integer.arithmetic import IntegerNetwork
from compressai_uqdm.models.base import ProgressiveModel
from compressai_uqdm.zoo import ASSETS, RECIPES

Model = ProgressiveModel[Any]

MODELS = ("uqdm-photo", "uqdm-nano", "uqdm-nano-ctx")
TYPES = (torch.float16, torch.bfloat16, torch.float64)


@functools.cache
def x() -> Tensor:
    path = Path(__file__).parents[1] / "data/photograph.png"
    photograph = Image.open(path).convert("RGB")
    return to_tensor(photograph.crop((100, 100, 133, 121)))[None]


@functools.cache
def loaded(name: str) -> Model:
    net = RECIPES[name].load()
    net.quality = net.n_stages
    return net


@functools.cache
def strings_of(name: str) -> list[list[bytes]]:
    return loaded(name).compress(x())["strings"]


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def net(name: str) -> Model:
    strings_of(name)
    return copy.deepcopy(loaded(name))


def levels(images: Tensor) -> Tensor:
    return (images.float() * 255).round()


def check_exact(net: Model, images: Tensor) -> list[list[bytes]]:
    """Whether pictures come back; returns their strings."""
    out = net.compress(images)
    found = net.decompress(out["strings"], out["shape"])["x_hat"]
    assert torch.equal(levels(found), levels(images))
    assert torch.equal(levels(net(images)["x_hat"]), levels(images))
    return out["strings"]


def loss_of(out: dict[str, Any]) -> Tensor:
    return torch.stack(
        [-p.double().log().mean() for p in out["likelihoods"].values()]
    ).sum()


# ---- copies ----


def saved(net: Model) -> Model:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def from_its_state(net: Model) -> Model:
    other = type(net).from_state_dict(net.state_dict(), quality=net.quality)
    other.update()
    return other.eval()


COPIES: dict[str, Callable[[Model], Model]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "torch.save": saved,
    "state dict": from_its_state,
    "shared memory": lambda net: net.share_memory(),
    "evaluation again": lambda net: net.train().eval(),
    "tables anew": lambda net: (net.update(force=True), net)[1],
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies(kind: str, name: str, net: Model) -> None:
    other = COPIES[kind](net)
    assert check_exact(other, x()) == strings_of(name)
    assert digest(other.fingerprint()) == digest(loaded(name).fingerprint())


def test_weights_of_integers_are_short_in_files(
    name: str, net: Model, tmp_path: Path
) -> None:
    """As they always were; but no process can send such to another."""
    assert all(t.dtype != torch.int16 for t in [*net.parameters(), *net.buffers()])
    integers = {
        f"{prefix}.{weight}": weight.endswith("bias")
        for prefix, module in net.named_modules()
        if isinstance(module, IntegerNetwork)
        for weight, _ in module.named_buffers()
    }
    state = net.state_dict()
    for key, is_bias in integers.items():
        assert state[key].dtype == (torch.int32 if is_bias else torch.int16)
    if isinstance(net, CosineUQDM):
        net.save_integers(tmp_path / "weights.npz")
        found = (tmp_path / "weights.npz").stat().st_size
        assert found <= (ASSETS / "uqdm-photo/weights.npz").stat().st_size * 1.02


# ---- types and formats ----


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_images_of_every_type(dtype: torch.dtype, name: str, net: Model) -> None:
    """All hold the 256 levels."""
    every = torch.arange(256) / 255
    assert levels(every.to(dtype)).tolist() == list(range(256))
    assert check_exact(net, x().to(dtype)) == strings_of(name)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_models_of_every_type(dtype: torch.dtype, name: str, net: Model) -> None:
    net.to(dtype)
    strings = check_exact(net, x().to(dtype))
    found = net.decompress(strings, x().shape[2:])["x_hat"]
    if dtype == torch.float16:
        assert found.dtype == torch.float16
    if name == "uqdm-photo":  # in integers, whatever the type
        assert strings == strings_of(name)
        assert digest(net.fingerprint()) == digest(loaded(name).fingerprint())
        assert check_exact(net.float(), x()) == strings
    net.train()
    loss = loss_of(net(x()[:, :, :16, :16].to(dtype))) + net.aux_loss()
    loss.backward()
    assert loss.isfinite()


def test_formats_of_memory(name: str, net: Model) -> None:
    last = torch.channels_last
    assert check_exact(net.to(memory_format=last), x()) == strings_of(name)
    assert check_exact(net, x().contiguous(memory_format=last)) == strings_of(name)
    across = x().transpose(2, 3).contiguous().transpose(2, 3)
    assert check_exact(net, across) == strings_of(name)
    assert check_exact(net, torch.cat([x(), x() / 2])[::2]) == strings_of(name)
    assert check_exact(net, x().clone().requires_grad_()) == strings_of(name)


def test_images_on_another_device(name: str, net: Model) -> None:
    elsewhere = "on the model's device, cpu, got them on meta: move one of them with .to()"
    for method in (net, net.compress, net.train()):
        with pytest.raises(
            ValueError, match=elsewhere.replace(".", "[.]").replace("()", "..")
        ):
            method(x().to("meta"))
    with fake_cuda() as there:
        with pytest.raises(ValueError, match="device, cpu, got them on lazy:0"):
            net(x().to(there))


# ---- compilers ----


@pytest.fixture(autouse=True)
def compiler() -> None:
    torch._dynamo.reset()  # noqa: SLF001


def test_compiled(name: str, net: Model) -> None:
    right = net(x())
    compiled: Any = torch.compile(net, backend="eager")
    for _ in range(2):
        found = compiled(x())
        assert torch.equal(found["x_hat"], right["x_hat"])
        for stage, p in right["likelihoods"].items():
            assert torch.equal(found["likelihoods"][stage], p)
    assert compiled.compress(x())["strings"] == strings_of(name)
    assert torch.equal(compiled.decompress(strings_of(name), x().shape[2:])["x_hat"], x())


def test_compiled_in_other_ways(name: str, net: Model) -> None:
    whole = torch.compile(lambda images: net(images)["x_hat"], backend="eager")
    assert torch.equal(whole(x()), x())
    encode: Any = torch.compile(net.compress, backend="eager")
    decode: Any = torch.compile(net.decompress, backend="eager")
    strings = encode(x())["strings"]
    assert strings == strings_of(name)
    assert torch.equal(decode(strings, x().shape[2:])["x_hat"], x())
    net.compile(backend="eager")
    assert check_exact(net, x()) == strings_of(name)


def test_compiled_and_trained(name: str, net: Model) -> None:
    images = x()[:, :, :16, :16]
    net.train()
    torch.manual_seed(0)
    right = loss_of(net(images)).item()
    compiled: Any = torch.compile(net, backend="eager")
    torch.manual_seed(0)
    loss = loss_of(compiled(images))
    assert loss.item() == pytest.approx(right, rel=1e-5)
    (loss + net.aux_loss()).backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


# ---- several devices or processes ----


def replica(module: nn.Module) -> nn.Module:
    """What ``DataParallel`` makes of a model for each device: it has no parameters."""
    other = module._replicate_for_data_parallel()  # noqa: SLF001
    for name, child in module.named_children():
        setattr(other, name, replica(child))
    for name, parameter in module._parameters.items():  # noqa: SLF001
        setattr(other, name, None if parameter is None else parameter.view_as(parameter))
    return other


def test_data_parallel(name: str, net: Model) -> None:
    assert torch.equal(nn.DataParallel(net)(x())["x_hat"], x())
    images = x()[:, :, :16, :16]
    for mode in (net.eval(), net.train()):
        torch.manual_seed(0)
        right = loss_of(mode(images))
        torch.manual_seed(0)
        assert loss_of(replica(mode)(images)) == right


DISTRIBUTED = """
import os, sys
from datetime import timedelta

import torch
import torch.distributed as dist

from torch.nn.parallel import DistributedDataParallel
from compressai_uqdm.zoo import RECIPES

class Wrapped(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net
    def forward(self, x):
        return self.net(x)

def train(ddp, net, rank):
    weights = [
        p for n, p in net.named_parameters() if p.requires_grad and "quantiles" not in n
    ]
    optimizer = torch.optim.SGD(weights, 1e-3)
    for step in range(3):
        torch.manual_seed(2 * step + rank)
        likelihoods = ddp(torch.rand(1, 3, 16, 16))["likelihoods"]
        loss = torch.stack([-p.double().log().mean() for p in likelihoods.values()]).sum()
        optimizer.zero_grad()
        (loss + net.aux_loss()).backward()
        optimizer.step()
    mine = torch.stack([p.detach().double().sum() for p in weights])
    both = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(both, mine)
    assert torch.equal(*both)

def process(rank, folder):
    store = dist.FileStore(folder + "/store", 2)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=200)
    )
    for name in sys.argv[2:]:
        net = RECIPES[name].load().train()
        train(DistributedDataParallel(net), net, rank)
        train(DistributedDataParallel(Wrapped(net)), net, rank)
        net.eval().update(force=True)  # the schedule has changed
        assert net.compress(torch.rand(1, 3, 16, 16))["strings"]
    dist.destroy_process_group()

child = os.fork()
process(int(child == 0), sys.argv[1])
if child:
    assert os.waitpid(child, 0)[1] == 0
    print("right")
"""


def test_distributed_data_parallel(
    tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is, and as a part of another module."""
    import subprocess

    program = tmp_path / "program.py"
    program.write_text(DISTRIBUTED)
    found = subprocess.run(
        [python, str(program), str(tmp_path), *MODELS],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert found.stdout.endswith("right\n")
