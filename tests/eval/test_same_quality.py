"""Bits of other codecs at a model's quality: no more than real files take."""

import json

from pathlib import Path

import numpy as np
import pytest
import same_quality

from images import ImageSet, InputError
from PIL import Image


@pytest.mark.slow
def test_rates_lie_between_neighbouring_files(
    photograph: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(same_quality, "NAMES", ("JPEG", "JPEG 2000"))
    (tmp_path / "images").mkdir()
    for i in range(2):
        photograph.crop((100 * i, 50, 100 * i + 96, 130)).save(tmp_path / f"images/{i}.png")
    results = {"bpp": [0.01, 2.0], "psnr-of-mean-mse": [5.0, 35.0]}
    images = {"digest": ImageSet(tmp_path / "images").digest}
    model = tmp_path / "model.json"
    model.write_text(json.dumps({"name": "m", "images": images, "results": results}))
    same_quality.main([str(tmp_path / "images"), str(model), str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())["codecs"]
    for name, widest in (("JPEG", 1), ("JPEG 2000", 0.05)):
        none, row = found[name]["stages"]
        assert none is None  # no file is as bad
        assert 0 < row["settings"][1] - row["settings"][0] <= widest
        assert row["psnr"][0] < 35 <= row["psnr"][1]
        assert row["bpp"][0] <= row["at"] <= row["bpp"][1]

    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "images/2.png")
    with pytest.raises(InputError, match="is of other images than"):
        same_quality.main([str(tmp_path / "images"), str(model), str(tmp_path / "o.json")])
