import os
import warnings

from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the published tiny weights, golden values and photographs."""
    folder = Path(os.environ.get("COMPRESSAI_UQDM_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "checkpoints/uqdm-tiny/checkpoint.pt").is_file():
        reason = f"no weights and images in {folder}: set COMPRESSAI_UQDM_SHARED"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    return folder.resolve()


@pytest.fixture(scope="module")
def zoo(shared: Path) -> Iterator[None]:
    """The published weights where the zoo looks for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPRESSAI_UQDM_ZOO", str(shared / "checkpoints"))
        yield
