"""The integer kit: floats compute integers, train, and survive what PyTorch does."""

import copy
import pickle

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn as nn

from torch import Tensor

from compressai_uqdm.entropy_models.coding_order import CODING_ORDER
from compressai_uqdm.families.dct.context_network import SubbandContextLayer
from compressai_uqdm.families.dct.picture_filter import PictureFilter
from compressai_uqdm.families.dct.pixel_network import PixelNetwork
from compressai_uqdm.families.dct.pixel_posterior import PixelPosterior
from compressai_uqdm.families.uqdm.context_network import LatentContextNetwork
from compressai_uqdm.families.uqdm.pixel_network import PixelNetwork as LevelNetwork
from compressai_uqdm.fingerprint import digest
from compressai_uqdm.integer.arithmetic import activate, floored, rounded
from compressai_uqdm.integer.network import IntegerNetwork

NETWORKS: dict[str, Callable[[], IntegerNetwork]] = {
    "coefficients": lambda: SubbandContextLayer(3, 8),
    "pixels of dct": PixelNetwork,
    "pictures": PictureFilter,
    "latents": LatentContextNetwork,
    "pixels of uqdm": lambda: LevelNetwork(2),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> IntegerNetwork:
    """A network with random integers."""
    found = NETWORKS[request.param]()
    load(found, random_arrays(found, 30))
    return found


def random_arrays(network: IntegerNetwork, largest: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(-largest, largest + 1, array.shape).astype(array.dtype)
        for name, array in network.integer_arrays().items()
    }


def load(network: IntegerNetwork, arrays: dict[str, np.ndarray]) -> None:
    network.load_state_dict({name: torch.from_numpy(a) for name, a in arrays.items()})


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not np.array_equal(a[name], b[name])] == []


# ---- integers ----


def conv(x: np.ndarray, weight: np.ndarray, stride: int = 1) -> np.ndarray:
    """A convolution by NumPy's int64, ``[in, h, w]`` to ``[out, h', w']``."""
    k = weight.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), (1, 2))
    return np.einsum("ihwyx,oiyx->ohw", windows[:, ::stride, ::stride], weight)


def test_pictures_are_those_of_integers() -> None:
    network = PictureFilter()
    load(network, random_arrays(network, 40))
    w = {name: a.astype(np.int64) for name, a in network.integer_arrays().items()}
    planes = np.random.default_rng(1).integers(-512, 513, (24, 11, 13))
    x = planes.astype(np.int64)
    for i in range(3):
        x = conv(x, w[f"conv_{i}"]) + w[f"conv_{i}_bias"][:, None, None]
        x = x if i == 2 else (x >> 8).clip(0, 1023)
    for trained in (True, False):
        network.set_trained(trained)
        found = network(torch.from_numpy(planes).float()[None])[0].detach()
        assert np.array_equal(found.numpy(), x)


@pytest.mark.parametrize("g", [0, 4, 11])
def test_pixels_are_those_of_integers(g: int) -> None:
    """Recording gradients and without, at rows and at single values."""
    network = PixelNetwork()
    load(network, random_arrays(network, 30))
    w = {name: a[g].astype(np.int64) for name, a in network.integer_arrays().items()}
    rng = np.random.default_rng(1)
    windows, bands = (
        rng.integers(-512, 513, (9, 19, 27)),
        rng.integers(-300, 260, (12, 2, 3)),
    )
    sums = conv(windows, w["conv"], 2)
    blocks = np.tensordot(w["bands"], bands, 1).repeat(4, 1).repeat(4, 2)
    h = (sums[:-1] + blocks + w["conv_bias"][:, None, None] >> 8).clip(0, 1023)
    h = (np.tensordot(w["mix"], h, 1) + w["mix_bias"][:, None, None] >> 8).clip(0, 1023)
    out = np.tensordot(w["head"], h, 1) + w["head_bias"][:, None, None]
    out[0] += sums[-1]
    inputs = [torch.from_numpy(a).float()[None] for a in (windows, bands)]
    for trained in (True, False):
        network.set_trained(trained)
        found = network(inputs[0], network.block_sums(inputs[1], g), g)
        for ours, theirs in zip(found, (h, out)):
            assert np.array_equal(ours[0].detach().numpy(), theirs)
    errors = rng.integers(-512, 513, (3, 37, 21)).astype(np.int16)
    planes = rng.integers(-100, 100, (6, 37, 21)).astype(np.int16)
    bands = rng.integers(-100, 100, (12, 5, 3)).astype(np.int16)
    posterior = PixelPosterior(np.zeros((3, 37, 21), np.int32), planes, bands)
    run = network.at_rows(errors, posterior, g)
    _, (row, _) = CODING_ORDER[g]
    parts = [run(slice(0, 5)), run(slice(5, (38 - row) // 2))]
    for i, whole in enumerate(network.at_stride(errors, posterior, g, 3)):
        rows = torch.cat([part[i + 1] for part in parts], 1).flatten(1)
        assert torch.equal(rows[:, ::3], whole)


def test_a_subset_of_pixels_sees_no_later_one() -> None:
    """Weights of what is not decoded yet have no use, whatever they are."""
    network = PixelNetwork()
    load(network, random_arrays(network, 30))
    windows = torch.randint(-512, 513, (1, 9, 19, 27)).float()
    changed = windows.clone()
    changed[:, :3] += 7  # the errors, none of which is decoded before the first subset
    sums = network.block_sums(torch.zeros(1, 12, 2, 3), 0)
    with torch.no_grad():
        assert torch.equal(network(windows, sums, 0)[1], network(changed, sums, 0)[1])
        assert not torch.equal(network(windows, sums, 5)[1], network(changed, sums, 5)[1])
    assert not network.integer_arrays()["conv"][0, :, :3].any()


def test_rounding_passes_gradients() -> None:
    for function, expected in ((rounded, [0, 2, 2, -2]), (floored, [0, 1, 2, -2])):
        x = torch.tensor([0.2, 0.8, 1.25, -0.8], requires_grad=True)
        y = function(x, 2.0)
        assert y.tolist() == expected
        y.sum().backward()
        assert x.grad is not None and x.grad.tolist() == [2.0] * 4
    x = torch.tensor([-300.0, 300.0, 640.0, 1e6], requires_grad=True)
    for nearest, expected in ((False, [0, 1, 2, 1023]), (True, [0, 1, 2, 1023])):
        y = activate(x, 8, nearest)
        assert y.tolist() == expected
        with torch.no_grad():
            assert torch.equal(activate(x.clone(), 8, nearest), y)
    y.sum().backward()
    assert x.grad.tolist() == [0, 2**-8, 2**-8, 0]


# ---- bounds ----


def test_large_weights_are_refused_and_shrunk(network: IntegerNetwork) -> None:
    network.check()
    before = network.integer_arrays()
    network.keep_sums_small()
    assert_same(network.integer_arrays(), before)  # small ones stay
    for name, layer in network.integer_layers():
        if layer.weight is None:
            continue
        other = copy.deepcopy(network)
        large = dict(other.integer_layers())[name]
        with torch.no_grad():
            large.weight.mul_(1e3)
        with pytest.raises(ValueError, match="too large"):
            other.check()
        other.keep_sums_small()
        other.check()
        with torch.no_grad():
            large.weight[:] = torch.nan
        with pytest.raises(ValueError):
            other.check()


# ---- files and copies ----


def test_integers_come_back(network: IntegerNetwork) -> None:
    """From arrays of integers, and from a state dict of floats."""
    arrays = network.integer_arrays()
    assert_same(arrays, random_arrays_masked(network))
    for state in (
        {name: torch.from_numpy(a) for name, a in arrays.items()},
        network.state_dict(),
    ):
        other = copy.deepcopy(network)
        for t in (*other.parameters(), *other.buffers()):
            if t.is_floating_point():
                t.data.zero_()
        other.load_state_dict(state)
        assert_same(other.integer_arrays(), arrays)
    for name, array in arrays.items():
        assert array.dtype == (np.int32 if name.endswith("bias") else np.int16)
    with pytest.raises(RuntimeError, match="Missing"):
        network.load_state_dict({})


def random_arrays_masked(network: IntegerNetwork) -> dict[str, np.ndarray]:
    """What was loaded, less weights that are not in use."""
    found = random_arrays(network, 30)
    for name, layer in network.integer_layers():
        if layer.mask is not None:
            found[name] = found[name] * layer.mask.numpy()
    return found


COPIES: dict[str, Callable[[IntegerNetwork], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda n: pickle.loads(pickle.dumps(n)),
    "half": lambda n: n.half(),
    "bfloat16": lambda n: n.bfloat16(),
    "double": lambda n: n.double(),
    "double and back": lambda n: n.double().float(),
    "channels last": lambda n: n.to(memory_format=torch.channels_last),
    "buffers": lambda n: n.set_trained(False),
    "buffers in half": lambda n: n.set_trained(False).half(),
    "buffers and back": lambda n: n.set_trained(False).set_trained(True),
    "shared memory": lambda n: n.share_memory(),
    "evaluation": lambda n: n.eval(),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_have_the_same_integers(network: IntegerNetwork, kind: str) -> None:
    arrays, identity = network.integer_arrays(), digest(network.fingerprint())
    other = COPIES[kind](network)
    assert isinstance(other, IntegerNetwork)
    assert_same(other.integer_arrays(), arrays)
    assert digest(other.fingerprint()) == identity
    other.check()


def test_buffers_are_no_parameters(network: IntegerNetwork) -> None:
    """What the loss of a model does not train is hidden from its optimizers."""
    keys = list(network.state_dict())
    weights = network.set_trained(False)
    assert not list(weights.parameters()) and sorted(weights.state_dict()) == sorted(keys)
    assert len(list(weights.set_trained(True).parameters())) == len(keys)


def test_a_step_of_the_optimizer_counts_at_once() -> None:
    """No stale integers."""
    network = PictureFilter()
    x = torch.randint(-512, 513, (1, 24, 9, 9)).float()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    before: list[Tensor] = []
    for _ in range(3):
        out = network(x)
        assert not any(torch.equal(out, other) for other in before)
        before.append(out.detach().clone())
        optimizer.zero_grad()
        (out / 2**15 - 1).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        last = network(x)
    network.load_state_dict(copy.deepcopy(network.state_dict()))
    assert torch.equal(network(x), last)


def test_filters_of_zeros_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    network = PictureFilter()
    assert network.is_identity
    mean = np.random.default_rng(0).integers(0, 255 << 16, (3, 20, 30)).astype(np.int32)
    planes = np.zeros((6, 20, 30), np.int16)
    posterior = PixelPosterior(mean, planes, np.zeros((12, 3, 4), np.int16))
    with monkeypatch.context() as patch:
        patch.setattr(network, "forward", pytest.fail)
        assert np.array_equal(network.improve(posterior), mean)
    with torch.no_grad():
        network.conv[-1].bias[:] = 0.5
    assert not network.is_identity
    assert (network.improve(posterior) != mean).all()
