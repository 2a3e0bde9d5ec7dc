"""What all tests share, and word of those that were left out."""

import os
import subprocess
import sys

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from PIL import Image

TESTS = Path(__file__).parent
SHARED = Path(os.environ.get("COMPRESSAI_UQDM_SHARED", TESTS.parent.parent / "shared"))
WEIGHTS = "the published weights of uqdm-tiny"
GOLDEN = "golden values and figures of the published implementation"

HOW_TO_GET = {
    WEIGHTS: (
        "They are on the Hugging Face Hub:\n"
        "    hf download justuswill/UQDM --include 'checkpoints/uqdm-tiny/*' "
        f"--local-dir {SHARED}"
    ),
    GOLDEN: (
        f"They were made with the published code, and belong in {SHARED}:\n"
        "    golden/, reference/, images/kodak_box64.npy and checkpoints/. The maintainers "
        "have them."
    ),
}


# ---- pictures, which are packaged ----


@pytest.fixture(scope="session")
def photograph() -> Image.Image:
    """RGB, 320x240."""
    return Image.open(TESTS / "data/photograph.png").convert("RGB")


@pytest.fixture(scope="session")
def squares(photograph: Image.Image) -> np.ndarray:
    """48 squares of it, uint8 ``[48, 64, 64, 3]``; neighbours overlap."""
    places = [(x, y) for y in range(0, 177, 32) for x in range(0, 257, 32)]
    order = np.random.default_rng(0).permutation(len(places))[:48]
    cut = [photograph.crop((x, y, x + 64, y + 64)) for x, y in (places[i] for i in order)]
    return np.stack([np.asarray(image) for image in cut])


@pytest.fixture
def folder(
    tmp_path: Path, photograph: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The current folder, empty but for ``a.png``, RGB, 24x16."""
    monkeypatch.chdir(tmp_path)
    photograph.crop((100, 100, 124, 116)).save("a.png")
    return tmp_path


# ---- processes ----


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Python as ``sys.executable``, whose processes have PyTorch already."""
    folder, forkserver = tmp_path_factory.mktemp("python"), TESTS / "helpers/forkserver.py"
    program = folder / "python"
    # as light as Python can be: it passes on what it is asked for
    ask = f'exec "{sys.executable}" -S -E "{forkserver}" "{folder}/socket" "$@"'
    program.write_text(f"#!/bin/sh\n{ask}\n")
    program.chmod(0o755)
    path = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    server = subprocess.Popen(
        [sys.executable, str(forkserver), "serve", f"{folder}/socket"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is not for it
    )
    assert server.stdout and server.stdout.readline() == b"ready\n"
    yield str(program)
    server.kill()
    server.wait()


# ---- weights and values, which are not ----


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder with the published weights of uqdm-tiny and their configuration."""
    folder = SHARED / "checkpoints/uqdm-tiny"
    if not (folder / "checkpoint.pt").is_file():
        pytest.skip(f"needs {WEIGHTS}")
    return folder.resolve()


@pytest.fixture(scope="session")
def shared(published: Path) -> Path:
    """The folder with golden values, reference figures and Kodak's patches too."""
    for needed in ("golden/uqdm_tiny.npz", "reference", "images/kodak_box64.npy"):
        if not (SHARED / needed).exists():
            pytest.skip(f"needs {GOLDEN}")
    return SHARED.resolve()


@pytest.fixture(scope="module")
def zoo(published: Path) -> Iterator[None]:
    """The published weights where the zoo looks for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPRESSAI_UQDM_ZOO", str(published.parent))
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests did not run for want of files, and where those are."""
    stats = terminalreporter.stats
    reasons = [str(r.longrepr) for r in stats.get("skipped", ())]
    left_out = Counter({n: sum(n in r for r in reasons) for n in HOW_TO_GET})
    if not left_out.total():
        return
    ran = sum(len(stats.get(kind, ())) for kind in ("passed", "failed"))
    terminalreporter.section("tests left out", yellow=True, bold=True)
    for need, count in left_out.items():
        if count:
            what = f"{count} of {ran + len(reasons)} tests need {need}, which are not here."
            terminalreporter.write_line(what, yellow=True, bold=True)
            terminalreporter.write_line(HOW_TO_GET[need])
