"""FID of decoded images, with a small network in place of InceptionV3."""

import json
import shutil

from pathlib import Path

import numpy as np
import other_codecs
import pytest
import realism
import torch

from images import ImageSet, InputError
from scipy import linalg
from torch import Tensor, nn


class Features(nn.Module):
    """Means and spreads of some random filters."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("filters", torch.randn(4, 3, 5, 5, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        y = nn.functional.conv2d(x.double() / 255, self.filters.double())
        return torch.cat([y.mean((2, 3)), y.std((2, 3))], 1)


@pytest.fixture(scope="session")
def once(
    squares: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ImageSet, Path]:
    folder = tmp_path_factory.mktemp("decoded")
    images = folder / "patches.npy"
    np.save(images, squares)
    output, pictures = folder / "out", folder / "pictures"
    options = ["--output", str(output), "--pictures", str(pictures)]
    other_codecs.main([*options, "--first", "30", str(images), "WebP", "PNG"])
    return ImageSet(images, 30), folder


@pytest.fixture
def decoded(once: tuple[ImageSet, Path], tmp_path: Path) -> tuple[ImageSet, Path, Path]:
    """The originals, and copies of the folders of pictures and results."""
    shutil.copytree(once[1], tmp_path, dirs_exist_ok=True)
    return once[0], tmp_path / "pictures", tmp_path / "out"


def fid(a: np.ndarray, b: np.ndarray) -> float:
    """The formula of Heusel et al. 2017, on images [n, H, W, 3]."""
    means, covariances = [], []
    for images in (a, b):
        f = Features()(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
        means.append(f.mean(0))
        covariances.append(np.cov(f, rowvar=False))
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    spread = covariances[0] + covariances[1] - 2 * root
    return float(np.square(means[0] - means[1]).sum() + np.trace(spread))


def test_fid(decoded: tuple[ImageSet, Path, Path]) -> None:
    originals, pictures, output = decoded
    files = realism.add_fid(originals, pictures, output, Features())
    assert files == [output / "webp.json"]
    result = json.loads(files[0].read_text())
    found, quality = result["results"]["fid"], result["results"]["quality"]
    assert len(found) == len(quality) == 12 and result["fid"]["images"] == 30
    assert found[0] > found[4] > found[-1] > 0
    for q in (quality[0], quality[5]):
        folder = pictures / f"webp/{q}"
        webp = [realism.read_image(folder / f"{name}.png") for name in originals.names]
        expected = fid(np.array(list(originals)), np.array(webp))
        assert found[quality.index(q)] == pytest.approx(expected, rel=1e-4)


def test_bad_input(decoded: tuple[ImageSet, Path, Path], tmp_path: Path) -> None:
    originals, pictures, output = decoded
    with pytest.raises(InputError, match="no folder in .*nowhere is of a result"):
        realism.add_fid(originals, tmp_path / "nowhere", output, Features())
    with pytest.raises(InputError, match=r"webp\.json is of other images than .*patches"):
        realism.add_fid(ImageSet(originals.path, 29), pictures, output, Features())
    with pytest.raises(InputError, match="first 10000 images .* which has 48"):
        realism.main([str(originals.path), str(pictures), "--output", str(output)])
    (pictures / "webp/50/00007.png").unlink()
    with pytest.raises(InputError, match=r"webp/50/00007\.png cannot be read"):
        realism.add_fid(originals, pictures, output, Features())
    assert "fid" not in json.loads((output / "webp.json").read_text())
