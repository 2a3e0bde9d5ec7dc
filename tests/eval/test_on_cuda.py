"""The script for a GPU, where there is none: blind, it has one try there."""

import json

from pathlib import Path
from typing import Any

import on_cuda
import pytest

from fake_cuda import fake_cuda

pytestmark = pytest.mark.slow


def run(output: Path, *arguments: str) -> dict[str, Any]:
    on_cuda.main([str(output), "--device", "cpu", "--tiny", *arguments])
    return json.loads(output.read_text())["parts"]


@pytest.mark.parametrize("part", ["devices", "bits", "rates", "models", "picture"])
def test_parts_on_another_device(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {"uqdm-nano": "float64"}
    if part == "devices":
        models["uqdm-photo"] = "integer"
    monkeypatch.setattr(on_cuda, "PACKAGED", [*models])
    monkeypatch.setattr(on_cuda, "arithmetics", models.items)
    measurements = {name: work for name, (work, _) in on_cuda.MEASUREMENTS.items()}
    with fake_cuda() as device:
        bench = on_cuda.Bench(tmp_path / "found.json", device, tiny=True)
        {**on_cuda.CHECKS, **measurements}[part](bench)
    found = json.loads(bench.file.read_text())
    assert found == bench.notes and len(found) >= len(models)
    assert not [name for name, value in found.items() if "error" in str(value)]


def test_what_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    bench = on_cuda.Bench(tmp_path / "found.json", on_cuda.torch.device("cpu"), tiny=True)
    assert bench.note("a", lambda: 1) == 1
    assert bench.note("no number", lambda: float("nan")) != 1
    assert bench.note("b", lambda: 1 / 0) is None
    assert bench.note("c", lambda: 3) == 3
    found = json.loads(bench.file.read_text())
    assert found["a"] == 1 and found["c"] == 3
    assert found["b"] == {"error": "ZeroDivisionError: division by zero"}


def test_parts_in_processes(tmp_path: Path) -> None:
    found = run(tmp_path / "found.json", "--budget", "900", "--parts", "rates")
    assert "error" not in found["rates"] and len(found["rates"]["found"]) > 8

    found = run(tmp_path / "found.json", "--budget", "0", "--parts", "tests", "rates")
    assert [*found] == ["tests", "rates"]
    assert all(part["error"].startswith("the time was up") for part in found.values())
