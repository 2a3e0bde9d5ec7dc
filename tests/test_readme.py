"""The README's program, as it stands there."""

import os
import re
import subprocess
import sys

from pathlib import Path

import pytest

from PIL import Image

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.slow
def test_first_program(photograph: Image.Image, tmp_path: Path) -> None:
    (program,) = re.findall(
        r"```python\n(# photograph\.py\n.*?)```", README.read_text(), re.S
    )
    (tmp_path / "photograph.py").write_text(program)
    photograph.crop((100, 100, 190, 170)).save(tmp_path / "some.png")
    done = subprocess.run(
        [sys.executable, "photograph.py", "some.png"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},  # the weights are in the package
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    sizes = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(sizes) == 5 and sizes == sorted(sizes)
    last = Image.open(tmp_path / "stage5.png")
    assert last.tobytes() == Image.open(tmp_path / "some.png").tobytes()
