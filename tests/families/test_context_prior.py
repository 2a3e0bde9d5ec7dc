"""The context prior: exact in integers, and worth its bits."""

import json

from pathlib import Path

import numpy as np
import pytest
import torch

from PIL import Image

from compressai_uqdm import UQDM, UQDMConfig, train_context
from compressai_uqdm.bitstream.range_coder import (
    ReencodedPrefix,
    StreamDecoder,
    StreamEncoder,
    TruncatedStageDecoder,
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
from compressai_uqdm.families.uqdm.context_network import (
    INPUT_BITS,
    INPUT_MAX,
    LatentContextNetwork,
)
from compressai_uqdm.families.uqdm.context_prior import ContextConditional
from compressai_uqdm.families.uqdm.pixel_network import PixelNetwork
from compressai_uqdm.families.uqdm.unet import UNetConfig
from compressai_uqdm.integer.arithmetic import HIDDEN_BITS, HIDDEN_MAX, WEIGHT_BITS
from compressai_uqdm.quantization.dither import dither
from compressai_uqdm.quantization.lattice import from_lattice
from compressai_uqdm.training.context import ContextLoss, collect
from compressai_uqdm.training.data import read_crops
from compressai_uqdm.zoo import RECIPES

TINY = UNetConfig(embedding_dim=8, norm_groups=2)


def random_context(seed: int, largest: int) -> LatentContextNetwork:
    generator = torch.Generator().manual_seed(seed)
    context = LatentContextNetwork()
    arrays = {}
    for name, array in context.integer_arrays().items():
        top = largest * 40 if name.endswith("bias") else largest
        arrays[name] = torch.randint(-top, top + 1, array.shape, generator=generator)
    context.load_state_dict(arrays)
    context.check()
    return context


def in_integers(
    context: LatentContextNetwork, inputs: np.ndarray, g: int
) -> tuple[np.ndarray, np.ndarray]:
    """The network again, value by value, in Python's and NumPy's integers.

    Hidden activations and outputs.
    """
    _, (row, column) = CODING_ORDER[g]
    w = {name: a[g].astype(np.int64) for name, a in context.integer_arrays().items()}
    plane = inputs.astype(np.int64)
    H, W = plane.shape[1] - 4, plane.shape[2] - 4
    out = np.zeros((2, len(range(row, H, 2)), len(range(column, W, 2))), np.int64)
    hidden = np.zeros((16, *out.shape[1:]), np.int64)
    for y in range(row, H, 2):
        for x in range(column, W, 2):
            patch = plane[:, y : y + 5, x : x + 5]
            sums = (w["conv"] * patch).sum((1, 2, 3)) + w["conv_bias"]
            h = (sums[:-1] >> (INPUT_BITS + WEIGHT_BITS - HIDDEN_BITS)).clip(0, HIDDEN_MAX)
            h = (w["mix"] @ h + w["mix_bias"] >> WEIGHT_BITS).clip(0, HIDDEN_MAX)
            hidden[:, y // 2, x // 2] = h
            o = w["head"] @ h + w["head_bias"]
            o[0] += sums[-1] << (HIDDEN_BITS - INPUT_BITS)
            out[:, y // 2, x // 2] = o
    return hidden, out


@pytest.mark.parametrize("largest", [3, 60])
def test_floats_compute_the_integers(largest: int) -> None:
    """Single precision, 1 and 2 threads, any layout: the integers themselves."""
    context = random_context(0, largest)
    rng = np.random.default_rng(0)
    inputs = np.zeros((9, 13 + 4, 18 + 4), np.float32)
    inputs[:, 2:-2, 2:-2] = rng.integers(-INPUT_MAX, INPUT_MAX + 1, (9, 13, 18))
    inputs[:, 2:8, 2:-2] = INPUT_MAX  # the largest sums
    for g in (0, 4, 8, 11):
        expected = in_integers(context, inputs, g)
        threads = torch.get_num_threads()
        for n in (1, 2):
            torch.set_num_threads(n)
            try:
                found = context.run_subset(inputs, g)
            finally:
                torch.set_num_threads(threads)
            assert (found[0] == expected[0]).all() and (found[1] == expected[1]).all()
        with torch.autocast("cpu"):
            found = context.run_subset(inputs, g)
        assert (found[0] == expected[0]).all() and (found[1] == expected[1]).all()


def test_bands_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    context = random_context(1, 60)
    rng = np.random.default_rng(0)
    inputs = rng.integers(-9, 9, (9, 41 + 4, 30 + 4)).astype(np.float32)
    whole = [context.run_subset(inputs, g) for g in range(12)]
    monkeypatch.setattr("compressai_uqdm.integer.arithmetic._CHUNK", 3)
    for g in range(12):
        assert all((a == b).all() for a, b in zip(whole[g], context.run_subset(inputs, g)))


def test_weights_whose_sums_could_round_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "context.npz"
    context = random_context(0, 3)
    save_contexts(path, Contexts([context], PixelNetwork(3)))
    assert torch.equal(read_contexts(path).latents[0].mix.weight, context.mix.weight)
    with torch.no_grad():
        context.conv.weight[3, 2] = 30000 / 256
    with pytest.raises(ValueError, match="'conv' are too large.* below 2"):
        context.check()
    save_contexts(path, Contexts([context], PixelNetwork(3)))
    with pytest.raises(ValueError, match="context.npz.*too large"):
        read_contexts(path)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (6, 1), (7, 12)])
def test_any_context_codes_exactly(size: tuple[int, int]) -> None:
    """Even one that knows nothing of images: it costs bits, never a value."""
    prior = ContextConditional()
    prior.update()
    prior.context = random_context(2, 200)
    torch.manual_seed(0)
    shape = (3, *size)
    means, scales = 3 * torch.randn(shape), torch.rand(shape) * 4 + 0.02
    inputs = means + scales * torch.randn(shape)
    u = dither(0, 0, shape)
    M, indexes = prior.locate(means, u), prior.build_indexes(scales)
    encoder = StreamEncoder()
    Z = prior.code(encoder, inputs, indexes, M, u)
    encoder.end_stage(Z.numpy())
    assert torch.equal(
        prior.code(StreamDecoder(encoder.segments()), None, indexes, M, u), Z
    )


def test_last_layers_are_refitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """To values that are elsewhere than the network says: it pays, and is decoded."""
    prior = ContextConditional()
    prior.update()
    prior.context = random_context(2, 20)
    torch.manual_seed(0)
    shape = (3, 92, 92)
    scales = prior.scale_table[[70]].expand(shape)
    means = torch.zeros(shape)
    inputs = 0.6 * scales + 0.4 * scales * torch.randn(shape)
    u = dither(0, 0, shape)
    M, indexes = prior.locate(means, u), prior.build_indexes(scales)

    def code() -> tuple[torch.Tensor, bytes, float]:
        encoder = StreamEncoder()
        Z = prior.code(encoder, inputs, indexes, M, u)
        encoder.end_stage(Z.numpy())
        outputs = from_lattice(Z, u, torch.float32)[None]
        likelihoods = prior.likelihoods(outputs, scales[None], means[None])
        return Z, encoder.segments()[0], -likelihoods.double().log2().sum().item()

    Z, segment, bits = code()
    assert torch.equal(prior.code(StreamDecoder([segment]), None, indexes, M, u), Z)
    assert 8 * len(segment) == pytest.approx(bits, rel=0.01)
    residual = np.abs((Z - M).numpy())
    for length in (0, 40, len(segment) // 2, len(segment) - 8):
        decoder = TruncatedStageDecoder([], ReencodedPrefix(), segment[:length])
        found = prior.code(decoder, None, indexes, M, u)
        there = sum(
            (subset((found == Z).numpy(), g)).all() for g in range(12)
        )  # groups come back whole, or not yet
        assert there >= 11 * length // len(segment) - 1
        assert (np.abs((found - M).numpy()) <= max(residual.max(), 256)).all()
    none = np.zeros((2, 17), np.int64)
    monkeypatch.setattr(head_adaptation, "adapt_head", lambda *_: none)
    again, without, _ = code()
    assert torch.equal(again, Z) and len(segment) < 0.95 * len(without)


def test_a_group_sees_only_what_was_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing a value changes no correction of its own or an earlier group."""
    prior = ContextConditional()
    prior.update()
    prior.context = random_context(3, 60)
    rng = np.random.default_rng(0)
    indexes = rng.integers(0, 128, (3, 8, 8)).astype(np.uint8)
    residual = rng.integers(-60, 60, (3, 8, 8)).astype(np.int32)

    def corrections(residual: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        context, found = prior.context_model(indexes), []
        for g in range(12):
            found.append(
                context.entropy_parameters(RateEstimator(), g, subset(residual, g))
            )
            context.on_decoded(g, subset(residual, g))
        return found

    # an encoder fits the last layer to the group itself, and sends it: here, the same
    steps = rng.integers(-9, 10, (2, 17))
    monkeypatch.setattr(head_adaptation, "adapt_head", lambda *_: steps)
    before = corrections(residual)
    for g in range(12):
        changed = residual.copy()
        subset(changed, g)[...] += 25
        after = corrections(changed)
        same = [all((a == b).all() for a, b in zip(before[i], after[i])) for i in range(12)]
        assert all(same[: g + 1])
        assert g == 11 or not all(same[g + 1 :])


@pytest.mark.slow
def test_same_latents_fewer_bits(shared: Path) -> None:
    """On every fourth patch: the latents of uqdm-tiny, and what the contexts save."""
    images = np.load(shared / "images/kodak_box64.npy")[::4]
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    folder = shared / "checkpoints/uqdm-tiny"
    without, with_context = (
        UQDM.from_checkpoint(folder),
        UQDM.from_checkpoint(folder, contexts=RECIPES["uqdm-tiny-ctx"].contexts),
    )
    plain, out = without.compress(x), with_context.compress(x)
    a = without.decompress(**plain, progressive=True)["x_hats"]
    b = with_context.decompress(**out, progressive=True)["x_hats"]
    assert all(torch.equal(p, q) for p, q in zip(a[:3], b[:3]))
    assert torch.equal(b[3], x)
    before, after = ([sum(map(len, s)) for s in o["strings"]] for o in (plain, out))
    assert sum(after) < 0.83 * sum(before)
    # on so few and small patches the first stage gains least
    for stage, share in enumerate((0.95, 0.8, 0.8)):
        assert after[stage] < share * before[stage]

    with torch.no_grad():
        bits = [-p.double().log2().sum() for p in with_context(x)["likelihoods"].values()]
    assert 8 * sum(after) < 1.005 * sum(bits).item()


def records(output: Path, phase: str, name: str) -> dict[int, float]:
    """Return a value of the records of a phase by step."""
    lines = output.with_suffix(".metrics.jsonl").read_text().splitlines()
    chosen = [r for r in map(json.loads, lines) if r["phase"] == phase and name in r]
    return {record["step"]: record[name] for record in chosen}


@pytest.mark.slow
def test_fitting_command(tmp_path: Path) -> None:
    """The command writes a context that codes, and rounding it costs next to nothing."""
    rng = np.random.default_rng(0)
    (tmp_path / "photographs").mkdir()
    for i in range(2):
        smooth = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
        image = Image.fromarray(smooth).resize((160, 120), Image.Resampling.BICUBIC)
        image.save(tmp_path / f"photographs/{i}.png")
    weights, output = str(RECIPES["uqdm-nano"].weights), tmp_path / "context.npz"
    options = ["--crops", "8", "--steps", "100", "--batch-size", "4", "--max-factor", "1"]
    options += ["--pixel-steps", "100", "--pixel-batch-size", "2"]
    train_context.main([weights, str(tmp_path / "photographs"), str(output), *options])

    for stage in (2, 3):
        bpp = records(output, f"stage {stage}", "test_bpp")
        assert list(bpp) == [0, 100]
        assert bpp[100] < 0.95 * bpp[0]
    # a tenth below that of a uniform distribution on the interval, of 10.9 levels
    first = records(output, "pixels", "loss")
    assert first[100] < 0.9 * 3 * np.log2(10.9)

    more = ["--initial", str(output), "--steps", "4", "--pixel-steps", "20"]
    again = tmp_path / "again.npz"
    train_context.main(
        [weights, str(tmp_path / "photographs"), str(again), *options, *more]
    )
    continued = records(again, "pixels", "loss")
    assert continued[20] < first[50]  # its first steps: it did not begin anew
    net = UQDM.from_checkpoint(weights, contexts=again)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None, :, :64, :64] / 255
    out = net.compress(x)
    assert (net.decompress(**out)["x_hat"] == x).all()
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="no images of at least 64 x 64 pixels in .*empty"):
        train_context.main([weights, str(tmp_path / "empty"), str(output)])
    with pytest.raises(SystemExit, match="uqdm-teeny is neither a checkpoint nor"):
        train_context.main(["uqdm-teeny", str(tmp_path / "photographs"), str(output)])


@pytest.mark.slow
def test_fitting_to_weights_of_ones_own(tmp_path: Path) -> None:
    """A trainer's checkpoint, with another prior and learned spans of scales."""
    torch.manual_seed(0)
    net = UQDM(UQDMConfig(network=TINY, prior_type="normal"))
    for prior in net.latent_priors:
        prior.quantiles.data += torch.tensor([0.5, 0, -0.5])
    other = UQDM(net.config)
    checkpoint = {"state_dict": net.state_dict(), "raw_state_dict": other.state_dict()}
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (70, 66, 3), np.uint8))
    (tmp_path / "photographs").mkdir()
    image.save(tmp_path / "photographs/noise.png")
    arguments = [str(tmp_path / name) for name in ("checkpoint.pt", "photographs", "c.npz")]
    options = "--crops 2 --steps 4 --batch-size 2 --pixel-steps 2 --pixel-batch-size 2"
    train_context.main([*arguments, *options.split()])

    net.update()
    net.eval()
    crops = read_crops(tmp_path / "photographs", 2, 5, seed=0)
    stages, _ = collect(net, crops, 3)
    for i, (prior, stage) in enumerate(zip(net.latent_priors, stages)):
        v = (stage.residuals / 32).double()
        low, high = ((v + u) / stage.scales for u in (-0.5, 0.5))
        # of the smaller tail, where the difference keeps its digits
        flip = torch.where(v > 0, -1.0, 1.0)
        p = (torch.special.ndtr(flip * high) - torch.special.ndtr(flip * low)).abs()
        certain = p > 1e-25
        assert certain.double().mean() > 0.5
        bits = -prior.log_likelihood(v, stage.scales.double()) / np.log(2)
        torch.testing.assert_close(bits[certain], -p[certain].log2(), rtol=1e-6, atol=1e-6)
        total = records(tmp_path / "c.npz", f"stage {i + 1}", "test_bpp")[0]
        assert total == pytest.approx(bits.sum().item() / (2 * 64 * 64), rel=1e-4)
        blank = ContextLoss(
            LatentContextNetwork(), prior
        )  # corrects nothing before it learns
        assert blank(*stage).sum().item() == pytest.approx(bits.sum().item(), rel=1e-4)

    coder = UQDM.from_checkpoint(arguments[0], contexts=tmp_path / "c.npz")
    x = crops[:1, :, :20, :20] / 255
    out = coder.compress(x)
    assert (coder.decompress(**out)["x_hat"] == x).all()
    fitted = np.load(arguments[2])["2.conv"]
    again = UQDM.from_state_dict(coder.state_dict())  # they travel with it
    for model in (coder, again):
        context = model.latent_priors[2].context
        assert np.array_equal(context.integer_arrays()["conv"], fitted)


def test_what_is_trained_is_what_codes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A trained network, saved as integers: the same loss, outputs and bits."""
    torch.manual_seed(0)
    prior = ContextConditional().eval()
    prior.update()
    scales = (torch.rand(2, 3, 32, 32) * 3 + 0.1).contiguous()
    scales = prior.scale_table[prior.build_indexes(scales).long()]
    means = torch.randn(scales.shape)
    inputs = means + scales * (0.5 + torch.randn(scales.shape))
    none = np.zeros((2, 17), np.int64)
    monkeypatch.setattr(head_adaptation, "adapt_head", lambda *_: none)
    outputs, _ = prior(inputs, scales, means, dither(0, 0, (3, 32, 32)))
    residuals = ((outputs - means) * 32).round()

    network = LatentContextNetwork()
    loss = ContextLoss(network, UniformNoiseConditional())
    optimizer = torch.optim.Adam(loss.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        losses.append(loss(residuals, scales).sum())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.97 * losses[0]
    assert all((p.grad != 0).any() for p in network.parameters())

    save_contexts(tmp_path / "c.npz", Contexts([network], PixelNetwork(3)))
    saved = read_contexts(tmp_path / "c.npz").latents[0]
    planes = torch.randint(-255, 256, (2, 9, 13, 15)).float()
    for g in (0, 5, 11):
        for ours, theirs in zip(network(planes, g), saved(planes, g)):
            assert torch.equal(ours, theirs)
    expected = loss(residuals, scales).sum().item()
    assert (
        ContextLoss(saved, UniformNoiseConditional())(residuals, scales).sum() == expected
    )
    prior.context = saved
    _, likelihoods = prior(inputs, scales, means, dither(0, 0, (3, 32, 32)))
    # tables have steps that floats have not
    assert -likelihoods.log2().sum().item() == pytest.approx(expected, rel=2e-3)


def test_too_few_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An error before photographs are coded, which takes minutes."""
    arguments = ["uqdm-nano", str(tmp_path), str(tmp_path / "context.npz")]
    for few, least in (("--steps=3", 4), ("--pixel-steps=0", 1)):
        with pytest.raises(SystemExit):
            train_context.main([*arguments, few])
        assert f"{few[:-2]} must be at least {least}" in capsys.readouterr().err
