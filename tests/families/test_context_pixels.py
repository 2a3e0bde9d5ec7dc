"""The context prior of pixels: intervals that hold, integers everywhere, exact codes."""

import functools
import itertools
import math

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from compressai.zoo import image_models
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compressai_uqdm import UQDM, UQDMConfig
from compressai_uqdm.bitstream import parameter_updates as small_steps
from compressai_uqdm.bitstream.range_coder import (
    StreamDecoder,
    StreamEncoder,
    TruncatedStageDecoder,
    Written,
)
from compressai_uqdm.bitstream.symbols import RateEstimator
from compressai_uqdm.entropy_models import head_adaptation
from compressai_uqdm.entropy_models.coding_order import CODING_ORDER, subset
from compressai_uqdm.entropy_models.uniform_noise import UniformNoiseConditional
from compressai_uqdm.families.uqdm.context_files import (
    Contexts,
    read_contexts,
    save_contexts,
)
from compressai_uqdm.families.uqdm.context_pixels import (
    ContextPixels,
    LevelInterval,
    LevelTables,
)
from compressai_uqdm.families.uqdm.context_prior import ContextPrior
from compressai_uqdm.families.uqdm.diffusion import (
    DiffusionConfig,
    NoiseSchedule,
    levels_to_x,
)
from compressai_uqdm.families.uqdm.interval_pixels import (
    IntervalPixels,
    coefficients,
    positions,
)
from compressai_uqdm.families.uqdm.latent import Latent
from compressai_uqdm.families.uqdm.pixel_network import PixelNetwork
from compressai_uqdm.families.uqdm.unet import UNetConfig
from compressai_uqdm.models.coding import Encoder
from compressai_uqdm.models.streaming import PictureDecoder
from compressai_uqdm.quantization.dither import dither, prior_sample, z_1_points
from compressai_uqdm.quantization.lattice import LatticePoints, from_lattice
from compressai_uqdm.training.pixels import FloatPixels, PixelData
from compressai_uqdm.zoo import RECIPES

WIDTH = 38384  # of uqdm-tiny's intervals
TINY = UNetConfig(embedding_dim=8, norm_groups=2)


def random_network(seed: int, largest: int, planes: int = 3) -> PixelNetwork:
    generator = torch.Generator().manual_seed(seed)
    network = PixelNetwork(planes)
    for name, buffer in network.named_buffers():
        top = largest * 60 if name.endswith("bias") else largest
        buffer.copy_(torch.randint(-top, top + 1, buffer.shape, generator=generator))
    network.check()
    return network


def random_known(seed: int, size: tuple[int, int], planes: int = 3) -> LevelInterval:
    rng = np.random.default_rng(seed)
    shape = (3, *size)
    v = rng.integers(-4 * 4096, 259 * 4096, shape)
    low = (v - rng.integers(4096, WIDTH // 2, shape)).clip(-2048, 255 * 4096)
    high = (v + rng.integers(4096, WIDTH // 2, shape)).clip(0, 255 * 4096 + 2048)
    return LevelInterval(low, high, tuple(rng.integers(-300, 300, (planes, *shape))))


# ---- in integers, once more ----


class InIntegers:
    """What docs/format.md says, value by value, in NumPy's int64."""

    def __init__(self, network: PixelNetwork, known: LevelInterval):
        self.w = {n: b.numpy().astype(np.int64) for n, b in network.named_buffers()}
        self.first = -(-known.low // 4096)
        self.last = np.maximum(known.high // 4096, self.first)
        _, H, W = known.low.shape
        self.inside = self.split(np.ones((3, H, W), np.int64))
        mid = (known.low + known.high + 256) >> 9
        base = np.zeros_like(mid)
        for c, y, x in np.ndindex(*mid.shape):
            rows, columns = np.arange(y - 2, y + 3), np.arange(x - 2, x + 3)
            square = mid[c][rows.clip(0, H - 1)][:, columns.clip(0, W - 1)]
            base[c, y, x] = (2 * square.sum() + 25) // 50
        self.mid, self.base = self.split(mid), self.split(base)
        self.q = self.split((mid - base).clip(-1023, 1023))
        planes = [self.q, *(self.split(p.clip(-1023, 1023)) for p in known.planes)]
        r = np.concatenate(planes)
        for i, shift in enumerate((7, 8, 8)):
            sums = self.conv(r, self.w[f"trunk_{i}"]) + self.bias(f"trunk_{i}_bias")
            r = (sums >> shift).clip(0, 1023)
        self.r = r
        sums = self.conv(self.q, self.w["estimate_conv"]) + self.bias("estimate_bias")
        sums += np.tensordot(self.w["estimate"], r, 1)
        change = (sums >> 9).clip(-1023, 1023) * self.inside
        self.q = (self.q + change).clip(-1023, 1023)
        self.mid = self.mid + change

    @staticmethod
    def split(plane: np.ndarray) -> np.ndarray:
        _, H, W = plane.shape
        found = np.zeros((12, (H + 1) // 2, (W + 1) // 2), np.int64)
        for c, y, x in np.ndindex(*plane.shape):
            found[4 * c + 2 * (y % 2) + x % 2, y // 2, x // 2] = plane[c, y, x]
        return found

    @staticmethod
    def conv(planes: np.ndarray, weight: np.ndarray) -> np.ndarray:
        _, h, w = planes.shape
        padded = np.pad(planes, ((0, 0), (1, 1), (1, 1)))
        found = np.zeros((len(weight), h, w), np.int64)
        for dy, dx in itertools.product(range(3), range(3)):
            seen = padded[:, dy : dy + h, dx : dx + w]
            found += np.tensordot(weight[:, :, dy, dx], seen, 1)
        return found

    def bias(self, name: str, g: int | None = None) -> np.ndarray:
        bias = self.w[name] if g is None else self.w[name][g]
        return bias[:, None, None]

    def prior(self, g: int, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Locations, and outputs for the scale, of a group, with steps of its head."""
        a = self.conv(self.q, self.w["conv"][g])
        h = a[:-1] + np.tensordot(self.w["trunk_mix"][g], self.r, 1)
        h = (h + self.bias("conv_bias", g) >> 8).clip(0, 1023)
        h = np.tensordot(self.w["mix"][g], h, 1) + self.bias("mix_bias", g)
        h = (h >> 8).clip(0, 1023)
        u = np.tensordot(self.w["head"][g] + 8 * steps[:, :-1], h, 1)
        u += self.bias("head_bias", g) + 1024 * steps[:, -1, None, None]
        mid = self.mid[self.channel(g)]
        return 2 * mid + ((u[0] + a[-1] + 128) >> 8), u[1]

    def reveal(self, g: int, levels: np.ndarray) -> None:
        h, w = levels.shape
        base = self.base[self.channel(g), :h, :w]
        self.q[self.channel(g), :h, :w] = (16 * levels - base).clip(-1023, 1023)

    @staticmethod
    def channel(g: int) -> int:
        c, (row, column) = CODING_ORDER[g]
        return 4 * c + 2 * row + column


def tables_of(
    network: PixelNetwork, known: LevelInterval, levels: np.ndarray, steps: np.ndarray
) -> list[np.ndarray]:
    """The tables of all groups, as of the format."""
    walk, tables = InIntegers(network, known), LevelTables(WIDTH)
    factor, summand = tables.to_index.tolist()
    found = []
    for g in range(12):
        x, first = subset(levels, g), subset(walk.first, g)
        last = subset(walk.last, g)
        h, w = x.shape
        location, log_scale = (out[:h, :w] for out in walk.prior(g, steps[g]))
        index = ((log_scale * factor + summand + (1 << 19)) >> 20).clip(0, 63)
        weights = np.zeros((*x.shape, tables.size), np.int64)
        for y, z in np.ndindex(*x.shape):
            p = []
            for level in range(first[y, z], first[y, z] + tables.size):
                away = abs(32 * level - int(location[y, z]))
                row = tables.rows[index[y, z]]
                p.append(int(row[min(away, len(row) - 1)]) * (level <= last[y, z]))
            edges = [0]
            for total in itertools.accumulate(p):
                edges.append(total * ((1 << 24) - tables.size) // sum(p))
            weights[y, z] = np.diff(edges)
        found.append(weights)
        walk.reveal(g, x)
    return found


@pytest.mark.parametrize("largest", [3, 20])
@pytest.mark.parametrize("size", [(7, 10), (1, 1)], ids=str)
def test_floats_compute_the_integers(
    largest: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any bands and threads, also where less than single precision is allowed."""
    network, known = random_network(0, largest), random_known(0, size)
    prior = ContextPixels(network)
    prior.build(WIDTH)
    levels = np.minimum(known.first + 1, known.last)
    # whatever an encoder sends of the last layer; nothing for some groups
    steps = np.random.default_rng(1).integers(-9, 10, (12, 2, 33))
    steps[::3] = 0
    same = functools.partial(np.allclose, rtol=1e-12, atol=0)
    places = [g for g in range(12) if subset(levels, g).size]
    given = itertools.cycle(places)
    monkeypatch.setattr(head_adaptation, "adapt_head", lambda *_: steps[next(given)])
    expected = np.empty(levels.shape)
    for g, weights in enumerate(tables_of(network, known, levels, steps)):
        column = (subset(levels, g) - subset(known.first, g))[..., None]
        p = np.take_along_axis(weights, column, 2)[..., 0] + 1
        notes = RateEstimator()
        head_adaptation.code(notes, steps[g], 32)
        share = math.exp(np.log(notes.take()).sum() / max(column.size, 1))
        subset(expected, g)[...] = p / 2**24 * share
    assert same(prior.likelihoods(levels, known), expected)
    monkeypatch.setattr("compressai_uqdm.integer.arithmetic._BAND", 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.autocast("cpu"), torch.backends.mkldnn.flags(enabled=False):
            assert same(prior.likelihoods(levels, known), expected)
    finally:
        torch.set_num_threads(threads)


def test_weights_whose_sums_could_round_are_refused(tmp_path: Path) -> None:
    contexts = Contexts([ContextPrior()], random_network(0, 3))
    save_contexts(tmp_path / "c.npz", contexts)
    again = read_contexts(tmp_path / "c.npz")
    assert len(again.latents) == 1
    assert torch.equal(again.pixels.conv, contexts.pixels.conv)
    for name in ("trunk_0", "trunk_2", "estimate_conv", "conv", "mix", "head"):
        network = random_network(0, 3)
        getattr(network, name)[:] = 2000
        expected = "estimate" if name == "estimate_conv" else name
        with pytest.raises(ValueError, match=f"'{expected}' are too large"):
            network.check()
        save_contexts(tmp_path / "c.npz", Contexts([], network))
        with pytest.raises(ValueError, match="c.npz.*too large"):
            read_contexts(tmp_path / "c.npz")
    np.savez(tmp_path / "c.npz", **{"0.conv": np.zeros(3)})
    with pytest.raises(ValueError, match="missing. Make it with"):
        read_contexts(tmp_path / "c.npz")


# ---- tables ----


@settings(max_examples=200, deadline=None)
@given(
    location=st.integers(-300, 9000) | st.integers(-(1 << 20), 1 << 20),
    index=st.integers(0, 63),
    first=st.integers(0, 255),
    length=st.integers(0, 9),
)
def test_every_level_of_an_interval_has_a_code(
    location: int, index: int, first: int, length: int
) -> None:
    tables = LevelTables(WIDTH)
    last = min(first + length, 255)
    arrays = (np.array([n]) for n in (location, index, first, last))
    (weights,) = tables.weights(*arrays)
    assert weights.sum() == 2**24 - tables.size
    assert (weights == np.rint(weights)).all() and (weights >= 0).all()
    assert (weights[last - first + 1 :] == 0).all()
    if 32 * first <= location <= 32 * last:  # near there is most of the mass
        lower, upper = location // 32 - first, -(-location // 32) - first
        assert max(weights[lower], weights[upper]) == weights.max()


def test_tables_are_those_of_a_logistic() -> None:
    tables = LevelTables(WIDTH)
    levels = np.arange(tables.size)
    for index in (10, 40):
        scale = math.exp(-3 + index * (math.log(WIDTH / 4096) + 3) / 63)
        (weights,) = tables.weights(*(np.array([n]) for n in (150, index, 0, 9)))
        x = torch.tensor((levels - 150 / 32) / scale, dtype=torch.float64)
        p = torch.sigmoid(x + 0.5 / scale) - torch.sigmoid(x - 0.5 / scale)
        expected = (p / p.sum()).numpy()
        # every level has 2^-20 of the likeliest's at least
        assert np.abs(weights / 2**24 - expected).max() < tables.size * 2.0**-20


# ---- coding ----


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (6, 1), (7, 12), (33, 20)], ids=str)
def test_any_network_codes_exactly(size: tuple[int, int]) -> None:
    """Even one that knows nothing of images, and with other planes than UQDM's."""
    for planes in (0, 2):
        known = random_known(1, size, planes)
        prior = ContextPixels(random_network(2, 25, planes))
        prior.build(WIDTH)
        rng = np.random.default_rng(0)
        levels = rng.integers(known.first, known.last + 1)
        encoder = StreamEncoder()
        prior.code_in_intervals(encoder, levels, known, pytest.fail)
        encoder.end_stage(levels)
        decoder = StreamDecoder(encoder.segments())
        found = prior.code_in_intervals(decoder, None, known, pytest.fail)
        assert (found == levels).all()
        decoder.end_stage(found)
        bits = -np.log2(prior.likelihoods(levels, known)).sum()
        assert 8 * len(encoder.segments()[0]) < bits * 1.001 + 100


# ---- the last layer, refitted ----


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.lists(st.integers(-127, 127), min_size=2 * n, max_size=2 * n)
    ),
    st.booleans(),
)
def test_steps_come_back(values: list[int], biases_alone: bool) -> None:
    """All of them, or, of a stream that ends early, the news that they are not there."""
    steps = np.array(values).reshape(2, -1)
    if biases_alone:
        steps[:, :-1] = 0
    n = steps.shape[1] - 1
    encoder = StreamEncoder()
    head_adaptation.code(encoder, steps, n)
    encoder.end_stage(steps)
    (segment,) = encoder.segments()
    decoder = StreamDecoder([segment])
    found, there = head_adaptation.code(decoder, None, n)
    assert there and (found == steps).all()
    decoder.end_stage(found)
    notes = RateEstimator()
    head_adaptation.code(notes, steps, n)
    assert 8 * len(segment) < -np.log2(notes.take()).sum() + 100
    for length in range(0, len(segment) - 4, 4):
        found, there = head_adaptation.code(
            TruncatedStageDecoder([], Written(), segment[:length]), None, n
        )
        assert not there or (found == steps).all()
        assert np.abs(found).max() <= 127


def logistic_cells(
    rng: np.random.Generator, n: int, m: int, wrong: float, log_unit: float = 1.0
) -> tuple[np.ndarray, head_adaptation.CodingTargets]:
    """Activations, and levels whose last layer is wrong by so much."""
    hidden = rng.integers(0, 300, (n, m))
    a = hidden / 128
    move = wrong * rng.normal(size=n) @ a
    log_scale = wrong * (rng.normal(size=n) @ a - 1)
    u = rng.uniform(1e-6, 1 - 1e-6, m)
    x = 120 + 3 * move + 2 * np.exp(log_scale) * np.log(u / (1 - u))
    x = x.round().clip(0, 255)
    below, above = np.where(x > 0, x - 0.5, -np.inf), np.where(x < 255, x + 0.5, np.inf)
    return hidden, head_adaptation.CodingTargets(
        below=torch.from_numpy(below),
        above=torch.from_numpy(above),
        known=None,
        locations=torch.full((m,), 120.0, dtype=torch.float64),
        units=torch.full((m,), 3.0, dtype=torch.float64),
        log_scales=torch.full((m,), math.log(2), dtype=torch.float64),
        log_unit=log_unit,
        limits=(0.0, 255.0),
    )


def bits_of(
    steps: np.ndarray, hidden: np.ndarray, cells: head_adaptation.CodingTargets
) -> float:
    """What levels and steps cost together, by SciPy's logistic and the real coder."""
    out = head_adaptation.head_delta(steps, hidden, 15) / 2**15
    locations = cells.locations.numpy() + 3 * out[0]
    scales = np.exp(cells.log_scales.numpy() + cells.log_unit * out[1])
    ends = [scipy.stats.logistic.cdf(e.numpy(), locations, scales) for e in cells[:2]]
    notes = RateEstimator()
    head_adaptation.code(notes, steps, len(hidden))
    mass = np.maximum(ends[1] - ends[0], 2.0**-24)  # no table has less
    return -np.log2(mass).sum() - np.log2(notes.take()).sum()


def test_tables_of_steps_are_not_near_the_middle_between_integers() -> None:
    """Where another library's power could be rounded otherwise."""
    x = (np.arange(-127, 127) + 0.5) / small_steps.SPREADS[:, None]
    values = scipy.stats.logistic.cdf(x) * (2**24 - 255)
    inside = (values > 1) & (values < 2**24 - 256)
    assert np.abs(values - np.floor(values) - 0.5)[inside].min() > 1e-6


def test_a_fit_pays_or_is_none() -> None:
    rng = np.random.default_rng(0)
    tried = ((32, 6000, 0.15, 1.0), (48, 90000, 0.1, 1.0), (4, 700, 0.3, 1.0))
    for n, m, wrong, log_unit in (*tried, (16, 9000, 0.15, math.log(2))):
        hidden, cells = logistic_cells(rng, n, m, wrong, log_unit)
        steps, none = (
            head_adaptation.adapt_head(hidden, cells, 1),
            np.zeros((2, n + 1), np.int64),
        )
        assert bits_of(steps, hidden, cells) < 0.97 * bits_of(none, hidden, cells)
    for n, m in ((32, 6000), (48, 12), (3, 1)):  # nothing is wrong, or too little there
        hidden, cells = logistic_cells(rng, n, m, 0.0)
        assert not head_adaptation.adapt_head(hidden, cells, 1).any()
    # whatever levels there are
    hidden, cells = logistic_cells(rng, 8, 500, 0.2)
    far = cells._replace(locations=torch.full((500,), 700.0, dtype=torch.float64))
    assert np.abs(head_adaptation.adapt_head(hidden, far, 1)).max() <= 127


def test_a_level_outside_is_an_error() -> None:
    known = random_known(0, (4, 4))
    prior = ContextPixels(PixelNetwork(3))
    with pytest.raises(ValueError, match=r"update\(\)"):
        prior.likelihoods(known.first, known)
    prior.build(WIDTH)
    levels = known.first.copy()
    levels[1, 2, 3] = known.last[1, 2, 3] + 1
    with pytest.raises(ValueError, match="outside of the interval"):
        prior.code_in_intervals(StreamEncoder(), levels, known, pytest.fail)


def test_a_group_sees_only_what_was_decoded() -> None:
    known = random_known(3, (8, 9))
    prior = ContextPixels(random_network(3, 25))
    prior.build(WIDTH)
    levels = known.first.copy()
    before = prior.likelihoods(levels, known)
    for g in range(12):
        changed = levels.copy()
        subset(changed, g)[...] = subset(known.last, g)
        after = prior.likelihoods(changed, known)
        same = [(subset(before, i) == subset(after, i)).all() for i in range(12)]
        assert all(same[:g]) and (g == 11 or not all(same[g + 1 :]))


# ---- intervals ----

SCHEDULES = (
    DiffusionConfig(),
    DiffusionConfig(gamma_min=-13.3, gamma_max=5.0),
    DiffusionConfig(n_timesteps=2, noise_schedule="fixed_linear"),
    DiffusionConfig(n_timesteps=7),
)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    config=st.sampled_from(SCHEDULES),
    stages=st.integers(1, 6),
    spread=st.sampled_from([0.0, 0.3, 30.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_level_is_always_inside_its_interval(
    seed: int, config: DiffusionConfig, stages: int, spread: float, dtype: torch.dtype
) -> None:
    """Whatever the network says, in either precision of latents."""
    stages = min(stages, config.n_timesteps - 1)
    steps = NoiseSchedule(config).steps()[:stages]
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 16, 16)
    levels = torch.randint(0, 256, shape, generator=generator)
    levels[:, :2], levels[:, 2:4] = 0, 255
    x = levels_to_x(levels, torch.float64)
    z = prior_sample(seed, shape).to(dtype)
    points = [z_1_points(z[None])]
    with torch.no_grad():
        for i, step in enumerate(steps):
            u = dither(seed, i, shape)
            y = step.mean(z.double(), x) / step.delta
            # anything that a network could have said
            said = y + spread * torch.randn(shape, generator=generator).double()
            Z = UniformNoiseConditional().quantize_universally(y, said.to(dtype), u)
            points.append(LatticePoints(Z[None], u, step.delta.item()))
            z = step.delta * from_lattice(Z, u, dtype)
        rows = coefficients(steps)
    for row, z_t, z_s in zip(rows, points, points[1:]):
        v = positions(row, z_s, z_t)
        error = np.abs(v - 4096 * levels.numpy())
        assert (error <= row[2]).all()
        # and the interval is hardly longer than it must be
        assert error.max() > 0.9 * row[2]


def test_levels_lie_in_the_intervals_of_pictures(squares: np.ndarray) -> None:
    net = image_models["uqdm-nano-ctx"](4, pretrained=True)
    prior = net.pixel_prior
    assert isinstance(prior, IntervalPixels)
    lengths = []
    for dtype in (torch.float32, torch.float16):
        net.to(dtype)
        for seed, square in enumerate(squares[:2]):
            levels = torch.from_numpy(square).permute(2, 0, 1)[None]
            with torch.no_grad():
                *_, latent = net.iter_stages(Encoder(levels, seed, net.guarded), 3)
            known = prior.intervals(latent.sent)
            x = levels[0].numpy()
            assert (known.first <= x).all() and (x <= known.last).all()
            lengths.append((known.last - known.first).max())
    assert max(lengths) < prior.tables.size


def test_configurations_that_do_not_fit() -> None:
    UQDMConfig(pixel_prior="context", latent_stages=2)
    for values in (
        {"latent_stages": 3},
        {"pixel_prior": "context"},
        {"pixel_prior": "context", "latent_stages": 4},
        {"latent_stages": 5},
    ):
        with pytest.raises(ValueError, match="needs .* latent stages of n_timesteps 4"):
            UQDMConfig(**values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="latent_stages must be a positive integer"):
        UQDMConfig(latent_stages=0)


def test_other_numbers_of_stages() -> None:
    """Two latent stages of five, with networks that learned nothing."""
    torch.manual_seed(0)
    config = UQDMConfig(network=TINY, n_timesteps=5, pixel_prior="context", latent_stages=2)
    net = UQDM(config).eval()
    net.update()
    assert net.n_stages == net.quality == 3
    x = torch.randint(0, 256, (2, 3, 9, 12)) / 255
    out = net.compress(x)
    assert len(out["strings"]) == 3
    assert torch.equal(net.decompress(**out)["x_hat"], x)
    again = UQDM.from_state_dict(net.state_dict())
    assert again.compress(x)["strings"] == out["strings"]
    assert list(net(x)["likelihoods"]) == ["stage_1", "stage_2", "pixels"]
    net.train()
    assert torch.equal(net(x)["x_hat"], x)


# ---- cut short ----


def psnr(levels: torch.Tensor, known: Latent, net: UQDM) -> float:
    error = net.reconstruct(known, "denoise", 0).double() - levels
    mse = float(error.square().mean())
    return 10 * math.log10(255**2 / mse) if mse else math.inf


def test_more_of_the_last_stage_is_never_worse(photograph: Image.Image) -> None:
    net = image_models["uqdm-nano-ctx"](4, pretrained=True)
    image = np.asarray(photograph.crop((100, 80, 164, 120)))
    levels = torch.tensor(image).permute(2, 0, 1)[None]
    strings = [s[0] for s in net.compress(levels.float() / 255)["strings"]]
    decoder = PictureDecoder(net, (40, 64), 0)
    for string in strings[:3]:
        decoder.append(string)
    qualities = [psnr(levels, decoder.latent, net)]
    last = strings[3]
    for n in range(0, len(last), len(last) // 40):
        qualities.append(psnr(levels, decoder.decode_partial(last[:n]), net))
    decoder.append(last)
    qualities.append(psnr(levels, decoder.latent, net))
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(qualities))
    assert qualities[-1] == math.inf and qualities[-6] > qualities[0] + 6


# ---- fitting ----


def test_rounding_costs_little(squares: np.ndarray) -> None:
    """The network as it is trained against its integers, in bits of the same levels."""
    torch.manual_seed(0)
    steps = NoiseSchedule(DiffusionConfig()).steps()[:1]
    rows = coefficients(steps)
    rows[0, 2] = WIDTH // 2
    floats = FloatPixels(rows)
    floats.from_integers(read_contexts(RECIPES["uqdm-tiny-ctx"].contexts).pixels)
    prior = ContextPixels(floats.to_integers())
    prior.build(WIDTH)
    levels = torch.from_numpy(squares[:2]).permute(0, 3, 1, 2).contiguous()
    noise = torch.rand(levels.shape) - 0.5
    x_hat = (levels + torch.randn(levels.shape)).mul(16).round() / 16
    data = PixelData(
        levels, torch.empty(2, 0, *levels.shape[1:]), x_hat, torch.full(levels.shape, -1.0)
    )
    bits = floats(data, noise).sum().item()
    half = WIDTH // 2
    v = (4096 * (levels + floats.width / (1 + 2 / 4096) * noise).double()).round().numpy()
    v, total = v.astype(np.int64), 0.0
    low, high = (v - half).clip(-2048, 255 * 4096), (v + half).clip(0, 255 * 4096 + 2048)
    for b in range(2):
        error = ((low[b] + high[b] + 256 >> 9) - (16 * x_hat[b].numpy()).astype(int)) >> 1
        share = np.rint((high[b] - low[b]) * 128 / (WIDTH / 2) / 2).astype(int) - 128
        planes = (error.clip(-256, 256), np.full(v[b].shape, -32), share)
        known = LevelInterval(low[b], high[b], planes)
        total -= np.log2(prior.likelihoods(levels[b].numpy(), known)).sum()
    assert total == pytest.approx(bits, rel=4e-3)
