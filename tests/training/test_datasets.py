"""Images to train on: npz files of ImageNet's layout, folders of photographs."""

import io
import logging
import os
import pickle
import zipfile

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressai.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import ToTensor

from compressai_uqdm.datasets import ImageNet64, Photographs

# ---- ImageNet 64x64 ----


def write_npz(path: Path, images: np.ndarray, compressed: bool = False) -> None:
    """As published: channel-major rows, with labels and the mean beside them."""
    save = np.savez_compressed if compressed else np.savez
    rows = images.reshape(len(images), -1)
    labels = np.ones(len(images), np.int64)
    save(path, data=rows, labels=labels, mean=rows.astype(np.float64).mean(0))


@pytest.fixture
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (11, 3, 64, 64)).astype(np.uint8)


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "compressed"])
def test_imagenet(images: np.ndarray, tmp_path: Path, compressed: bool) -> None:
    for i, part in enumerate((images[:4], images[4:5], images[5:])):
        write_npz(tmp_path / f"train_data_batch_{i + 1}.npz", part, compressed)
    write_npz(tmp_path / "val_data.npz", images[::-1], compressed)
    for split, expected in (("train", images), ("val", images[::-1])):
        data = ImageNet64(tmp_path, split=split)
        assert len(data) == 11
        order = [7, 0, 4, 10, 4, 3]
        assert (data.batch(order).numpy() == expected[order]).all()
        assert data.batch([2]).dtype == torch.uint8
        # whatever the size of a file, nothing of it is in memory before it is needed
        assert all(isinstance(array, np.memmap) for array in data.arrays)
        assert len(pickle.dumps(data)) < images[0].size / 4
        again = pickle.loads(pickle.dumps(data))
        assert (again.batch(order).numpy() == expected[order]).all()
    with pytest.raises(ValueError, match='split must be "train", "val" or "test"'):
        ImageNet64(tmp_path, split="valid")


def test_imagenet_as_compressai_uses_datasets(images: np.ndarray, tmp_path: Path) -> None:
    write_npz(tmp_path / "train.npz", images)
    cls: Any = DATASETS["ImageNet64"]
    loader = DataLoader(cls(tmp_path, transform=ToTensor(), split="train"), batch_size=11)
    (batch,) = loader
    assert (batch * 255 == torch.from_numpy(images)).all()


def test_imagenet_unpacks_once(images: np.ndarray, tmp_path: Path) -> None:
    write_npz(tmp_path / "train.npz", images, compressed=True)
    ImageNet64(tmp_path)
    (unpacked,) = tmp_path.glob("*.npy")
    written = unpacked.stat().st_mtime_ns
    ImageNet64(tmp_path)
    assert unpacked.stat().st_mtime_ns == written
    # not what is left of one that was broken off, nor of another file of that name
    unpacked.write_bytes(b"some")
    assert (ImageNet64(tmp_path).batch(range(11)).numpy() == images).all()
    write_npz(tmp_path / "train.npz", 255 - images, compressed=True)
    os.utime(tmp_path / "train.npz", ns=(written + 10**10, written + 10**10))
    assert (ImageNet64(tmp_path).batch(range(11)).numpy() == 255 - images).all()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["train.data.npy", "train.npz"]


def test_removed_duplicates(images: np.ndarray, tmp_path: Path) -> None:
    """They are counted over all validation files, and only there."""
    write_npz(tmp_path / "train.npz", images)
    write_npz(tmp_path / "val_1.npz", images[:4])
    write_npz(tmp_path / "val_2.npz", images[4:])
    np.save(tmp_path / "removed.npy", np.array([9, 0, 4]))
    assert len(ImageNet64(tmp_path)) == 11
    data, left = ImageNet64(tmp_path, split="test"), [1, 2, 3, 5, 6, 7, 8, 10]
    assert len(data) == 8
    assert (data.batch(range(8)).numpy() == images[left]).all()

    for bad, message in (
        (np.array([3, 11]), r"removed\.npy: expected indexes in 0\.\.10, .* to 11"),
        (np.array([-1]), r"removed\.npy: expected indexes in 0\.\.10, .* from -1"),
        (np.array([0.5]), r"removed\.npy: expected indexes of images, got float64"),
        (np.array([1, "a"], object), r"removed\.npy cannot be read"),
    ):
        np.save(tmp_path / "removed.npy", bad)
        with pytest.raises(ValueError, match=message):
            ImageNet64(tmp_path, split="val")
    (tmp_path / "removed.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"removed\.npy cannot be read"):
        ImageNet64(tmp_path, split="val")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": np.zeros((2, 64, 64, 3), np.uint8)}, r"\(n, 12288\).*\(2, 64, 64, 3\)"),
        ({"data": np.zeros((2, 3072), np.uint8)}, r"\(n, 12288\).*\(2, 3072\)"),
        ({"data": np.zeros((2, 12288), np.float32)}, r"uint8.*float32"),
        ({"data": np.zeros((12288, 2), np.uint8).T}, r"Fortran"),
        ({"data": np.zeros((0, 12288), np.uint8)}, r"\(0, 12288\)"),
        ({"data": np.array([None])}, r"got \(1,\), object"),
        ({"images": np.zeros((2, 12288), np.uint8)}, r"expected an array data.*images"),
    ],
    ids=["images", "32x32", "floats", "order", "none", "objects", "name"],
)
@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "compressed"])
def test_npz_of_another_layout(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str, compressed: bool
) -> None:
    save: Any = np.savez_compressed if compressed else np.savez
    save(tmp_path / "train.npz", **arrays)
    with pytest.raises(ValueError, match=rf"(?s)train\.npz: .*{message}"):
        ImageNet64(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["train.npz"]


def test_damaged_npz(images: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "train.npz"
    with pytest.raises(ValueError, match=r"no \*train\*\.npz in"):
        ImageNet64(tmp_path)
    write_npz(file, images, compressed=True)
    whole = file.read_bytes()
    middle = len(whole) // 2
    damaged = whole[: middle - 50] + bytes(100) + whole[middle + 50 :]
    no_array = io.BytesIO()
    with zipfile.ZipFile(no_array, "w") as archive:
        archive.writestr("data.npy", b"text")
    for content in (b"", b"text" * 99, whole[:middle], damaged, no_array.getvalue()):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"train\.npz"):
            ImageNet64(tmp_path)
        assert [f.name for f in tmp_path.iterdir()] == ["train.npz"]


# ---- photographs ----


def save(path: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_flat_and_image_folder_layouts(tmp_path: Path) -> None:
    save(tmp_path / "flat/a.png", 70, 80)
    save(tmp_path / "flat/deeper/b.JPG", 70, 80)
    (tmp_path / "flat/notes.txt").write_text("no photograph")
    assert len(Photographs(tmp_path / "flat")) == 2
    assert len(Photographs(tmp_path / "flat", split="test")) == 2

    save(tmp_path / "split/train/a.png", 70, 80)
    with pytest.raises(ValueError, match="has a folder train, but no folder test"):
        Photographs(tmp_path / "split", split="test")
    save(tmp_path / "split/test/b.png", 70, 80)
    for split, name in (("train", "a.png"), ("test", "b.png")):
        data = Photographs(tmp_path / "split", split=split)
        assert [file.name for file in data.files] == [name]

    cls: Any = DATASETS["Photographs"]
    data = cls(tmp_path / "split", transform=ToTensor(), split="train", max_factor=1)
    (batch,) = DataLoader(data, batch_size=4)
    assert batch.shape == (1, 3, 64, 64) and batch.dtype == torch.float32


def test_crops_are_boxes_of_the_photograph(tmp_path: Path) -> None:
    """Each is the box average of some place, by some factor, mirrored or not."""
    pixels = save(tmp_path / "a.png", 27, 34)
    data, side = Photographs(tmp_path, size=8, max_factor=4), 8
    places: dict[bytes, tuple[int, int, int, bool]] = {}
    for factor in (1, 2, 3):  # 4 would not leave 8 x 8
        n = side * factor
        for y in range(27 - n + 1):
            for x in range(34 - n + 1):
                box = pixels[y : y + n, x : x + n].astype(np.float64)
                for flip in (False, True):
                    average = np.array(
                        [
                            [
                                box[i : i + factor, j : j + factor].mean((0, 1))
                                for j in range(0, n, factor)
                            ]
                            for i in range(0, n, factor)
                        ]
                    )
                    levels = np.rint(average.astype(np.float32)).astype(np.uint8)
                    levels = levels[:, ::-1] if flip else levels
                    where = (factor, y, x, flip)
                    places[levels.transpose(2, 0, 1).tobytes()] = where
    found = {places[data.crop(0, key).tobytes()] for key in range(300)}
    assert {factor for factor, *_ in found} == {1, 2, 3}
    assert {flip for *_, flip in found} == {False, True}
    for factor in (1, 2, 3):
        ys = {y for f, y, _, _ in found if f == factor}
        xs = {x for f, _, x, _ in found if f == factor}
        assert min(ys) <= 1 and max(ys) >= 27 - side * factor - 1
        assert min(xs) <= 1 and max(xs) >= 34 - side * factor - 1


def test_crops_are_functions_of_their_keys(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"{i}.png", 90, 70 + 30 * i, seed=i)
    for vary_colours in (False, True):
        data = Photographs(tmp_path, size=32, vary_colours=vary_colours)
        indexes, keys = [2, 0, 2, 1, 2], [5, 5, 2**62 + 1, 7, 5]
        batch = data.batch(indexes, keys)
        assert batch.shape == (5, 3, 32, 32) and batch.dtype == torch.uint8
        assert torch.equal(batch[0], batch[4])
        assert not torch.equal(batch[0], batch[2])
        torch.rand(3), np.random.rand(3)  # nothing else has a say
        other = Photographs(tmp_path, size=32, vary_colours=vary_colours)
        for i, key, crop in list(zip(indexes, keys, batch))[::-1]:
            assert (other.crop(i, key) == crop.numpy()).all()


def test_varied_colours_vary(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 64, 64)
    plain, varied = (Photographs(tmp_path, vary_colours=v) for v in (False, True))
    keys = range(60)
    means = varied.batch([0] * 60, keys).float().mean((2, 3))
    same = (means - plain.batch([0] * 60, keys).float().mean((2, 3))).abs().amax(1) < 1
    assert 15 < same.sum() < 45
    assert means[~same].std(0).min() > 20


def test_damaged_photographs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are named, and another takes their place: always the same one."""
    for name in ("a", "b", "c"):
        save(tmp_path / f"{name}.png", 80, 80, seed=ord(name))
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "d.png").write_bytes(b"text")
    (tmp_path / "e.png").write_bytes(b"")
    save(tmp_path / "small.png", 63, 100)
    Image.fromarray(np.zeros((80, 80), np.uint16)).save(tmp_path / "deep.png")
    with caplog.at_level(logging.WARNING):
        data = Photographs(tmp_path)
    for name in ("d", "e", "small", "deep"):
        assert f"{name}.png" in caplog.text
    assert [file.name for file in data.files] == ["a.png", "b.png", "c.png"]

    caplog.clear()
    with caplog.at_level(logging.WARNING):
        crop = data.crop(1, 0)
        assert (data.crop(1, 0) == crop).all()
    assert caplog.text.count("b.png: it is damaged") == 1
    assert (crop == data.crop(2, 0)).all()

    for name in ("a", "c"):
        (tmp_path / f"{name}.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="none of the 3 images can be read"):
        Photographs(tmp_path).crop(0, 0)


def test_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no photograph")
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ValueError, match=f"no images of at least 64 x 64.*{folder}"):
            Photographs(folder)
    save(tmp_path / "a.png", 40, 400)
    with pytest.raises(ValueError, match="no images of at least 64 x 64"):
        Photographs(tmp_path)
    assert len(Photographs(tmp_path, size=40)) == 1
