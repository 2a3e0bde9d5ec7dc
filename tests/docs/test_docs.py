"""The documentation's programs, as they stand there, and its notebook."""

import os
import re
import subprocess

from pathlib import Path

import nbformat
import pytest

from nbclient import NotebookClient
from PIL import Image
from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

UQDM = 'uqdm() { python -m compressai_uqdm "$@"; }'
"""The command of the package that is tested, whichever is installed."""


def run_console(example: Example) -> None:
    """Run the commands of a block after their prompts, and compare what they print.

    Trainings are cut to two steps. Where a block shows no output, any will do; how many
    seconds something took is not compared.
    """
    commands = re.findall(r"^\$ ((?:.*\\\n)*.*)", example.parsed, re.M)
    shown = re.sub(r"^\$ (?:.*\\\n)*.*\n?", "", example.parsed, flags=re.M).splitlines()
    script = "\n".join(["set -e", UQDM, *commands])
    script = re.sub(r"--steps \d{3,}", "--steps 2", script)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, f"{script}\n{done.stderr}"
    if shown:
        printed = [re.sub(r"[\d.]+ s$", "... s", line) for line in done.stdout.splitlines()]
        assert printed == [re.sub(r"[\d.]+ s$", "... s", line) for line in shown]


PROGRAMS = Sybil(
    [PythonCodeBlockParser(), CodeBlockParser("console", run_console), SkipParser()],
    pattern="*.md",
    path=str(DOCS),
)
PAGES = {page: page.read_text() for page in sorted(DOCS.rglob("*.md"))}


@pytest.fixture
def folder(
    photograph: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str
) -> Path:
    """What a reader has: the sources, and photographs of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(python).parent), prepend=os.pathsep)
    for name in ("eval", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    photograph.crop((200, 100, 264, 148)).save("photo.png")
    for name, left in (("photographs", 0), ("held-out", 96)):
        (tmp_path / name).mkdir()
        for i in range(2):
            place = (left + 16 * i, 20 * i, left + 16 * i + 176, 20 * i + 176)
            photograph.crop(place).save(tmp_path / name / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * ("```console" in text), id=page.stem)
        for page, text in PAGES.items()
        if "```console" in text or "```python" in text
    ],
)
def test_programs(page: Path, folder: Path) -> None:
    for example in PROGRAMS.parse(page).examples():
        example.evaluate()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["docs", "root", "elsewhere"])
def test_notebook(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs wherever it is opened, and needs no file but the package's own."""
    folder = {"docs": DOCS, "root": ROOT, "elsewhere": tmp_path}[place]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    notebook = nbformat.read(DOCS / "notebook.ipynb", as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    cells = NotebookClient(notebook, resources=resources).execute().cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert "FutureWarning" not in str([output.get("text") for output in outputs])
