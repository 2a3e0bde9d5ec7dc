"""The integer world: tables, dither, streams, priors."""

import hashlib
import math

import numpy as np
import pytest
import torch

from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from compressai_uqdm import DamagedStringError
from compressai_uqdm.bitstream.cdf import exp, logistic_cdf, normal_cdf, quantize_cdf
from compressai_uqdm.bitstream.range_coder import StreamDecoder, StreamEncoder
from compressai_uqdm.entropy_models.coding_order import CODING_ORDER, subset
from compressai_uqdm.entropy_models.tables import chunks
from compressai_uqdm.entropy_models.uniform_noise import UniformNoiseConditional
from compressai_uqdm.families.uqdm.diffusion import Step
from compressai_uqdm.families.uqdm.softmax_pixels import PixelConditional, sample_levels
from compressai_uqdm.quantization.dither import dither, prior_sample, uniform
from compressai_uqdm.quantization.lattice import split_dither
from compressai_uqdm.settings import exact_floats


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("allowed", ["high", "medium", "tf32"])
def test_networks_of_integers_allow_no_rounding(allowed: str) -> None:
    """Not where the caller allows it, the older way or the newer one."""
    products = torch.backends.cuda.matmul
    is_newer = allowed == "tf32"
    if is_newer and not hasattr(products, "fp32_precision"):
        pytest.skip("this PyTorch has the older way alone")
    before = products.fp32_precision if is_newer else torch.get_float32_matmul_precision()
    try:
        if is_newer:
            products.fp32_precision = allowed
        else:
            torch.set_float32_matmul_precision(allowed)
        with exact_floats():
            # what cuBLAS asks; an error where the two ways do not agree
            assert not products.allow_tf32
            assert torch.get_float32_matmul_precision() == "highest"
        if is_newer:
            assert products.fp32_precision == allowed
        else:
            assert torch.get_float32_matmul_precision() == allowed and products.allow_tf32
    finally:
        if is_newer:
            products.fp32_precision = before
        else:
            torch.set_float32_matmul_precision(before)


def test_functions_of_tables() -> None:
    x = np.linspace(-40, 40, 100001)
    np.testing.assert_allclose(exp(-np.abs(x)), np.exp(-np.abs(x)), rtol=1e-11)
    np.testing.assert_allclose(logistic_cdf(x), stats.logistic.cdf(x), rtol=1e-11)
    np.testing.assert_allclose(normal_cdf(x), stats.norm.cdf(x), rtol=0, atol=1e-12)


def test_tables_are_the_same_everywhere() -> None:
    """Digests of everything that encoder and decoder must have alike.

    A change of one of these makes every existing stream unreadable.
    """
    logistic, normal = UniformNoiseConditional(), UniformNoiseConditional("normal")
    pixel = PixelConditional()
    assert logistic.update() and normal.update() and pixel.update([last_step(6.7)])
    assert not logistic.update()
    found = {
        "logistic": digest(logistic.quantized_cdf.numpy()),
        "normal": digest(normal.quantized_cdf.numpy()),
        "scales": digest(logistic.scale_table.numpy()),
        "pixel": digest(pixel.quantized_cdf.numpy()),
        "dither": digest(dither(3, 2, (3, 50, 70)).numpy()),
        "z_1": digest(prior_sample(3, (3, 50, 70)).numpy()),
        "pieces": [piece.stop for piece in chunks(0, 400_000, 27)],
    }
    assert found == {
        "logistic": "a21aefc8ee4a23dd",
        "normal": "21c4a6e25b855857",
        "scales": "521627b03e75ec3d",
        "pixel": "3c40cfcc5d4339c6",
        "dither": "c8d0f184c984185d",
        "z_1": "6f296d33f5cae2b8",
        "pieces": [155344, 310688, 400000],
    }


def test_dither_and_first_latent_are_what_they_should_be() -> None:
    words = dither(0, 0, (3, 300, 300))
    j, f = split_dither(words)
    assert set(j.unique().tolist()) == set(range(-16, 16))
    assert torch.equal((j + f) * 2048, words.float())
    assert stats.kstest((j + f).flatten().numpy() / 32, "uniform", (-0.5, 1)).pvalue > 1e-3
    z_1 = prior_sample(0, (3, 300, 300)).flatten().numpy()
    assert stats.kstest(z_1, "norm").statistic < 0.005
    assert not torch.equal(words, dither(1, 0, (3, 300, 300)))
    assert not torch.equal(words, dither(0, 1, (3, 300, 300)))


def test_samples_stay_inside_their_range_in_single_precision() -> None:
    """One in 2^25 was rounded to 1, and made ancestral pictures of Kodak infinite."""
    u = uniform(2, 4, (3, 512, 768))
    assert (u.float().double() == u).all()
    assert u.float().logit().isfinite().all()
    assert stats.kstest(u.flatten()[:100_000].numpy(), "uniform").pvalue > 1e-3


def test_groups_hold_every_value_once() -> None:
    for shape in ((3, 1, 1), (3, 5, 8), (3, 64, 64)):
        seen = np.zeros(shape, int)
        for g in range(len(CODING_ORDER)):
            subset(seen, g)[...] += 1
        assert (seen == 1).all()


def random_tables(rng: np.random.Generator, count: int, sharp: float) -> np.ndarray:
    n = int(rng.integers(2, 40))
    p = rng.random((count, n)) ** sharp
    cdf = quantize_cdf(np.cumsum(p, 1) / p.sum(1, keepdims=True), n)
    cdf[:, -1] = (1 << 24) - n
    return np.diff(cdf, prepend=0).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    sharp=st.sampled_from([1.0, 8.0, 60.0]),
)
def test_any_stage_of_a_stream_can_be_its_last(
    seed: int, counts: list[int], sharp: float
) -> None:
    """A prefix of segments decodes its stages exactly, wherever the coder stood."""
    rng = np.random.default_rng(seed)
    encoder = StreamEncoder()
    stages = []
    for count in counts:
        weights = random_tables(rng, count, sharp)
        symbols = rng.integers(0, weights.shape[1], count)
        if rng.random() < 0.5:
            symbols = weights.argmax(1)  # nearly no bits: cuts fall within a word
        bypass = rng.integers(0, 1 << 16, int(rng.integers(0, 3)))
        encoder.encode(symbols, weights)
        encoder.code_uniform(bypass, len(bypass), 1 << 16)
        encoder.end_stage(symbols)
        stages.append((symbols, weights, bypass))
    segments = encoder.segments()
    assert len(segments) == len(counts) and all(segments)
    for q in range(1, len(counts) + 1):
        decoder = StreamDecoder(segments[:q])
        for symbols, weights, bypass in stages[:q]:
            assert (decoder.decode(weights) == symbols).all()
            found, there = decoder.code_uniform(None, len(bypass), 1 << 16)
            assert (found == bypass).all() and there.all()
            decoder.end_stage(symbols)


def test_cuts_at_delayed_carries() -> None:
    """Ends of stages while the coder's interval straddles a word: many short stages."""
    rng = np.random.default_rng(0)
    half = np.full((1, 2), ((1 << 24) - 2) / 2, np.float32)
    for _ in range(300):
        encoder = StreamEncoder()
        # near the middle of the interval the carry stays open for long
        symbols = np.concatenate([[0], np.ones(int(rng.integers(20, 120)), int)])
        ends = set(rng.integers(1, len(symbols), 4).tolist()) | {len(symbols)}
        for i, symbol in enumerate(symbols):
            encoder.encode(np.array([symbol]), half)
            if i + 1 in ends:
                encoder.end_stage(np.array([i]))
        segments = encoder.segments()
        for q in range(1, len(segments) + 1):
            decoder, last = StreamDecoder(segments[:q]), sorted(ends)[q - 1]
            decoded = decoder.decode(np.repeat(half, last, 0))
            assert (decoded == symbols[:last]).all()


def test_stream_overhead() -> None:
    rng = np.random.default_rng(0)
    weights = np.repeat(random_tables(rng, 1, 3.0), 50000, 0)
    p = (weights[0] + 1) / 2**24
    symbols = rng.choice(len(p), 50000, p=p / p.sum())
    encoder = StreamEncoder()
    encoder.encode(symbols, weights)
    encoder.end_stage(symbols)
    ideal = -np.log2(p[symbols]).sum()
    assert 8 * len(encoder.segments()[0]) < ideal * 1.0005 + 88


@pytest.mark.parametrize("prior_type", ["logistic", "normal"])
def test_tables_are_the_likelihoods(prior_type: str) -> None:
    """P(k | j, i) of the integer tables against the density, for all dithers."""
    prior = UniformNoiseConditional(prior_type)
    prior.update()
    for i in (0, 20, 64, 100, 127):
        R = -int(prior.offset[i])
        weights = prior.table.weights(R)
        rows = torch.nonzero(prior.offset == -R).flatten()
        p = (weights[i - int(rows[0])] + 1) / 2**24  # [j, k]
        k = torch.arange(-R, R + 1)
        j = torch.arange(-16, 16)[:, None]
        scale = prior.scale_table[i].double()
        expected = prior.likelihood(k - j / 32.0, scale, torch.zeros(1)).numpy()
        np.testing.assert_allclose(p[:, 1:-1], expected, atol=5e-7)
        assert p.sum(1) == pytest.approx(1)
        assert p[:, [0, -1]].max() < 2e-4  # what is left to escapes


@pytest.mark.parametrize("prior_type", ["logistic", "normal"])
def test_prior_on_its_own(prior_type: str) -> None:
    """compress and decompress, as CompressAI's entropy models have them."""
    torch.manual_seed(0)
    prior = UniformNoiseConditional(prior_type)
    prior.update()
    means = 5 * torch.randn(2, 3, 40, 33)
    scales = torch.rand(2, 3, 40, 33) * 3 + 0.02
    inputs = means + scales * torch.randn_like(means)
    inputs[0, 0, 0, :4] = torch.tensor([1e4, -1e4, 300.0, -300.0])  # escapes
    indexes = prior.build_indexes(scales)
    strings = prior.compress(inputs, indexes, means)
    outputs = prior.decompress(strings, indexes, means)
    assert (outputs - inputs).abs().max() <= 0.5 + 1e-3
    prior.eval()
    expected, likelihoods = prior(inputs, scales, means, dither(0, 0, (3, 40, 33)))
    assert torch.equal(outputs, expected)
    bits = -likelihoods[1].log2().sum().item()
    assert 8 * len(strings[1]) == pytest.approx(bits, rel=2e-3, abs=100)

    for bad in (strings[:1], [strings[1], strings[0]], [strings[0], strings[1][:-4]]):
        with pytest.raises(ValueError):
            prior.decompress(bad, indexes, means)
    with pytest.raises(DamagedStringError):
        prior.decompress(strings, indexes, means, seed=1)


def test_noise_is_uniform_and_independent() -> None:
    prior = UniformNoiseConditional().eval()
    inputs = torch.linspace(-20, 20, 3 * 200 * 200, dtype=torch.float64).reshape(
        3, 200, 200
    )
    scales = torch.ones_like(inputs)
    outputs, _ = prior(
        inputs, scales, torch.zeros_like(inputs), dither(0, 0, (3, 200, 200))
    )
    noise = (outputs - inputs).flatten().numpy()
    assert stats.kstest(noise, "uniform", (-0.5, 1)).pvalue > 1e-3
    assert abs(np.corrcoef(noise, inputs.flatten().numpy())[0, 1]) < 0.01


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 0.1, 1.0, 50.0])
@pytest.mark.parametrize("prior_type", ["logistic", "normal"])
def test_likelihood_is_stable(prior_type: str, scale: float) -> None:
    prior = UniformNoiseConditional(prior_type)
    v = torch.cat([torch.linspace(-1000, 1000, 2001), torch.zeros(1)]).requires_grad_()
    s = torch.full_like(v, scale).requires_grad_()
    bits = -prior.likelihood(v, s, torch.zeros_like(v)).log2()
    bits.sum().backward()
    assert bits.isfinite().all() and (bits >= 0).all()
    assert v.grad is not None and v.grad.isfinite().all()
    assert s.grad is not None and s.grad.isfinite().all()


def last_step(kappa: float) -> Step:
    """A step after which pixels are as sharp as that."""
    gamma_0 = -torch.tensor(kappa * 2 * 128**2, dtype=torch.float64).log()
    return Step(gamma_0 + 4, gamma_0)


@pytest.mark.parametrize("kappa", [1e-6, 0.01, 0.5, 6.7, 300.0])
def test_pixels(kappa: float) -> None:
    prior = PixelConditional()
    prior.update([last_step(kappa)])
    rng = np.random.default_rng(0)
    u = np.concatenate([rng.uniform(-3, 258, 4000), [-1e3, 1e3, 0.5, 254.5]])
    positions = torch.from_numpy(u)
    levels = torch.arange(256)
    logits = -kappa * (positions[:, None] - levels) ** 2
    expected = torch.log_softmax(logits, -1)
    x = torch.from_numpy(rng.integers(0, 256, len(u)))
    random = torch.from_numpy(rng.random(len(u)))
    sample = sample_levels(positions, torch.tensor(kappa), random)
    for v in (x, sample, positions.round().clamp(0, 255)):
        p = prior.likelihood(v, positions, torch.tensor(kappa, dtype=torch.float64))
        at = expected.gather(-1, v.long()[:, None])[:, 0]
        torch.testing.assert_close(
            p.log(), at.clamp(min=math.log(1e-30)), rtol=1e-9, atol=1e-9
        )

    fixed = np.rint(u * 2**16).astype(np.int64)
    for v in (x, sample):
        values = v.numpy().astype(np.uint8)
        encoder = StreamEncoder()
        prior.code_at(encoder, values, fixed)
        encoder.end_stage(values)
        (segment,) = encoder.segments()
        decoder = StreamDecoder([segment])
        assert (prior.code_at(decoder, None, fixed) == values).all()
    bits = -expected.gather(-1, sample.long()[:, None]).sum().item() / math.log(2)
    assert 8 * len(segment) < bits * 1.05 + 120
