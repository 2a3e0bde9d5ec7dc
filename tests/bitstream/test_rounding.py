"""Rounding that two machines agree on, where their numbers differ."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compressai_uqdm import UQDM, DamagedStringError
from compressai_uqdm.families.uqdm import latent
from compressai_uqdm.families.uqdm.latent import Prediction
from compressai_uqdm.files.decoding import decode
from compressai_uqdm.files.encoding import encode
from compressai_uqdm.files.model import Codec, open_codec
from compressai_uqdm.quantization import rounding as guard
from compressai_uqdm.quantization.lattice import LATTICE
from compressai_uqdm.quantization.rounding import ReadGuard, WrittenGuard


@contextmanager
def margin(size: float) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "MARGIN", size)
        yield


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    size=st.sampled_from([2.0**-28, 1e-3, 0.2, 0.24]),
)
def test_numbers_apart_by_less_than_the_margin(
    seed: int, sizes: list[int], size: float
) -> None:
    """The decoder's integers are the encoder's, over several tensors of a stage."""
    rng = np.random.default_rng(seed)
    encoder = WrittenGuard()
    numbers = []
    with margin(size):
        for n in sizes:
            x = rng.integers(-100, 100, n) + rng.choice([0.5, 0.0], n)
            x += rng.choice([0, 1e-12, 0.9 * size, -0.9 * size], n)
            x = torch.from_numpy(x)
            numbers.append((x, encoder.round(x)))
        string = encoder.end() + b"rest"
    decoder = ReadGuard(string)
    assert decoder.rest == b"rest"
    for x, rounded in numbers:
        noise = torch.from_numpy(rng.uniform(-size, size, len(x)))
        assert torch.equal(decoder.round(x + noise), rounded)
    decoder.end()


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=40))
def test_any_bytes_as_a_list(data: bytes) -> None:
    try:
        decoder = ReadGuard(data)
        x = torch.linspace(-3, 3, 12)
        assert (decoder.round(x) - x).abs().max() <= 1.5
        decoder.end()
    except DamagedStringError:
        pass


@pytest.fixture(scope="module")
def codec() -> Codec:
    return open_codec("uqdm-nano-ctx")


def noisy(
    net: UQDM, predict: Callable[..., Prediction], size: float
) -> Callable[..., Prediction]:
    """Predictions that are off by up to ``size`` lattice points and table entries."""
    generator = torch.Generator().manual_seed(0)

    def noise(x: torch.Tensor) -> torch.Tensor:
        return size * (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1)

    def predict_otherwise(*arguments: torch.Tensor) -> Prediction:
        p = predict(*arguments)
        table = net.latent_priors[0].scale_table.double().log()
        entry = (table[-1] - table[0]) / (len(table) - 1)
        return p._replace(
            means=p.means + noise(p.means) / LATTICE,
            scales=p.scales * (noise(p.scales) * entry).exp(),
        )

    return predict_otherwise


def test_a_picture_on_a_machine_that_computes_otherwise(
    codec: Codec, photograph: Image.Image
) -> None:
    """It decodes because of the list, and not without it."""
    image = photograph.crop((200, 60, 224, 76))
    with margin(0.06):
        listed = encode(image, codec)
    plain = encode(image, codec)
    assert len(listed) > len(plain) + 100  # some hundred values were listed
    assert len(encode(image, codec, arithmetic="float32")) <= len(plain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent, "predict", noisy(codec.net, latent.predict, 0.05))
        assert decode(listed, model=codec).image.tobytes() == image.tobytes()
        with pytest.raises(DamagedStringError, match="stage 1"):
            decode(plain, model=codec)
