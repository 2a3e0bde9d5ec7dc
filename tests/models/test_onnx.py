"""The networks of integers as ONNX graphs: another runtime gives the same integers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn as nn

from compressai.zoo import image_models
from torch import Tensor
from torch.export import Dim

from compressai_uqdm import CosineUQDM
from compressai_uqdm.families.dct.context_network import SubbandContextLayer
from compressai_uqdm.families.dct.picture_filter import PictureFilter
from compressai_uqdm.families.dct.pixel_network import PixelNetwork

pytestmark = pytest.mark.slow


class Step(nn.Module):
    """A step of a stage of coefficients: what it reads off states, and adds to them."""

    def __init__(self, group: SubbandContextLayer):
        super().__init__()
        self.group = group

    def forward(self, state: Tensor, features: Tensor, own: Tensor, cross: Tensor) -> Any:
        features = torch.cat([features, features.new_zeros(1, features.shape[1])])
        added = (("same_parity", own), ("opposite_parity", cross))
        sums = (
            self.group.propagate_context(name, features, around) for name, around in added
        )
        return self.group.entropy_parameters(state), *sums


class Picture(nn.Module):
    """What improves the picture of a stage."""

    def __init__(self, network: PictureFilter):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.layers(x)


class Pixels(nn.Module):
    """A group of the exact end."""

    def __init__(self, network: PixelNetwork, g: int):
        super().__init__()
        self.network, self.g = network, g

    def forward(self, window: Tensor, of_blocks: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.layers(window, of_blocks, self.g)


def integers(low: int, high: int, *shape: int) -> Tensor:
    """Random ones of low..high."""
    return torch.randint(low, high + 1, shape).float()


@torch.no_grad()
def check(
    network: nn.Module, inputs: Sequence[Tensor], free: Sequence[Any], folder: Path
) -> None:
    """Export with the sides ``free`` of inputs left open; run with other numbers."""
    path = folder / "network.onnx"
    program = torch.onnx.export(
        network.eval(),
        tuple(inputs),
        dynamic_shapes=tuple(free),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(path)
    expected = network(*inputs)
    if isinstance(expected, Tensor):
        expected = (expected,)
    for threads in (1, 2):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options)
        names = [node.name for node in session.get_inputs()]
        found = session.run(None, {n: x.numpy() for n, x in zip(names, inputs)})
        assert len(found) == len(expected)
        for ours, theirs in zip(expected, found):
            assert (ours == ours.round()).all() and ours.unique().numel() > 10
            assert np.array_equal(ours.numpy(), theirs)


@pytest.fixture(scope="module")
def net() -> CosineUQDM:
    torch.manual_seed(0)
    return image_models["uqdm-photo"](quality=1, pretrained=True).eval()


@pytest.mark.parametrize("step", [0, 25, 47])
def test_steps(net: CosineUQDM, step: int, tmp_path: Path) -> None:
    N, blocks = 60, {0: Dim.AUTO}
    _, channels, group = net.latent_priors[-1].steps()[step]
    n = channels.stop - channels.start
    state = integers(-(1 << 14), 1 << 14, N, net.config.hidden).double()
    around = [torch.randint(0, N + 1, (N, taps)) for taps in (5, 4)]
    inputs = [state, integers(-127, 127, N, 3 * n), *around]
    check(Step(group), inputs, [blocks] * 4, tmp_path)


def test_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = PictureFilter()
    for _, weight in network.named_buffers():  # those of a model may all be zero
        weight.copy_(integers(-40, 40, *weight.shape))
    network.check()
    sides = {1: Dim.AUTO, 2: Dim.AUTO}
    check(Picture(network), [integers(-512, 512, 24, 21, 30)], [sides], tmp_path)


@pytest.mark.parametrize("g", [0, 11])
def test_pixels(net: CosineUQDM, g: int, tmp_path: Path) -> None:
    window = integers(-512, 512, 9, 2 * 13 + 3, 2 * 17 + 3)
    network = net.pixel_prior.network
    of_blocks = integers(-(1 << 15), 1 << 15, network.conv_bias.shape[1], 13, 17)
    sides = {1: Dim.AUTO, 2: Dim.AUTO}
    check(Pixels(network, g), [window, of_blocks], [sides] * 2, tmp_path)
