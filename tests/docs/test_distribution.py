"""The source distribution holds the repository, and the wheel the package."""

import subprocess
import sys
import tarfile
import zipfile

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""
"""What pip and build run, in this environment."""

MADE = {"PKG-INFO", "setup.cfg"}
"""Files that setuptools adds to a source distribution."""

pytestmark = pytest.mark.slow


def build(kind: str, source: Path, folder: Path) -> Path:
    """Build an ``sdist`` or a ``wheel`` of the project in ``source``."""
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """Paths of the files that Git tracks."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a clone of the repository")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # removed files stay in the index until they are committed
    return {name for name in listed.stdout.split("\0") if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def unpacked(tracked: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution of the tracked files alone."""
    folder = tmp_path_factory.mktemp("sdist")
    for name in tracked:
        copy = folder / "clone" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    with tarfile.open(build("sdist", folder / "clone", folder)) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (project,) = (folder / "unpacked").iterdir()
    return project


def test_the_source_distribution_holds_what_git_tracks(
    tracked: set[str], unpacked: Path
) -> None:
    paths = (path.relative_to(unpacked) for path in unpacked.rglob("*") if path.is_file())
    held = {path.as_posix() for path in paths if not path.parts[0].endswith(".egg-info")}
    assert held - MADE == tracked


def test_the_wheel_holds_the_package_and_its_data(
    tracked: set[str], unpacked: Path, tmp_path: Path
) -> None:
    """Built from the source distribution, as releases are."""
    with zipfile.ZipFile(build("wheel", unpacked, tmp_path)) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert "compressai_uqdm/assets/uqdm-photo/weights.npz" in held
    assert held == {name for name in tracked if name.startswith("compressai_uqdm")}
