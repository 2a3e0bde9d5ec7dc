"""The command line at a terminal: bars, messages among them, Ctrl-C."""

import os
import re
import signal
import sys
import warnings

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pexpect
import pytest
import torch

from PIL import Image

from compressai_uqdm import StreamingDecoder, decode, encode
from compressai_uqdm.families.uqdm.unet import UNet
from compressai_uqdm.files.encoding import QualityWarning
from compressai_uqdm.files.model import Codec, open_codec

SHELL = """
import shlex
from compressai_uqdm.cli import main
while True:
    try:
        print("[exit %s]" % main(shlex.split(input())))
    except SystemExit as error:
        print("[exit %s]" % error.code)
"""
FRAME = r": +(\d+)%\|"


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Smooth, with an edge and some noise; two windows."""
    rows, columns = np.mgrid[:20, :70]
    levels = np.stack([2 * columns, 9 * rows, 255 * (columns > 30)], -1)
    levels = levels + np.random.default_rng(0).normal(0, 3, levels.shape)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def codec() -> Codec:
    return open_codec("uqdm-nano-ctx")


class Terminal:
    """Many command lines in one process, which imports PyTorch once, at a terminal."""

    def __init__(self, folder: Path):
        self.child = pexpect.spawn(
            sys.executable,
            ["-c", SHELL],
            cwd=str(folder),
            env={**os.environ, "COLUMNS": "100"},
            echo=False,
            encoding="utf-8",
            dimensions=(40, 100),
            timeout=300,
        )

    def uqdm(self, line: str, code: int = 0) -> str:
        """What the terminal is sent, after checking the bars in it."""
        self.child.sendline(line)
        self.child.expect(r"\[exit (\d+)\]\r\n")
        sent: str = self.child.before
        assert int(self.child.match[1]) == code, sent
        assert "Traceback" not in sent and "Error" not in sent
        return sent


def check_bars(sent: str, bars: int = 1) -> None:
    """Each grows to its total, no further, and goes."""
    frames = [int(percent) for percent in re.findall(FRAME, sent)]
    assert all(percent <= 100 for percent in frames), frames
    assert sum(percent == 0 for percent in frames) >= bars
    pieces = [piece for piece in re.split(r"\r {50,}\r", sent)[:-1] if "|" in piece]
    assert len(pieces) == bars, sent
    for piece in pieces:
        assert re.findall(FRAME, piece)[-1] == "100", sent


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory, picture: Image.Image) -> Terminal:
    folder = tmp_path_factory.mktemp("terminal")
    picture.save(folder / "a.png")
    picture.rotate(180).save(folder / "b.png")
    terminal = Terminal(folder)
    check_bars(terminal.uqdm("encode a.png a.uqdm"))
    terminal.uqdm("truncate a.uqdm cut.uqdm --max-bytes 900")
    terminal.uqdm("truncate a.uqdm two.uqdm --stage 2")
    check_bars(terminal.uqdm("encode a.png nano.uqdm --model uqdm-nano-ctx"))
    terminal.uqdm("truncate nano.uqdm nano-cut.uqdm --max-bytes 900")
    data = bytearray((folder / "a.uqdm").read_bytes())
    data[-300] ^= 1
    (folder / "bad.uqdm").write_bytes(data)
    return terminal


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "encode a.png out --force",
        "encode a.png out --force --stage 2",
        "encode a.png out --force --max-bytes 300",
        "encode a.png out --force --min-psnr 22",
        "encode a.png out --force --min-psnr 60",
        "encode a.png out --force --model uqdm-nano-ctx --arithmetic float32",
        "decode a.uqdm out.png --force",
        "decode cut.uqdm out.png --force",
        "decode two.uqdm out.png --force",
        "decode a.uqdm out.png --force --stage 1",
        "decode a.uqdm out.png --force --max-bytes 250",
        "decode nano-cut.uqdm out.png --force --reconstruction ancestral",
        "decode a.uqdm --progressive stages --force",
        "decode nano.uqdm --progressive stages --force --reconstruction flow_based",
        "decode cut.uqdm out.png --progressive stages --force",
        "decode bad.uqdm out.png --partial --force",
        "verify a.uqdm",
        "verify cut.uqdm",
        "verify two.uqdm",
    ],
)
def test_bars_end_at_their_total(terminal: Terminal, line: str) -> None:
    is_cut = line in ("verify cut.uqdm", "verify two.uqdm")
    check_bars(terminal.uqdm(line, code=int(is_cut)))


@pytest.mark.slow
def test_a_bar_for_each_of_several(terminal: Terminal) -> None:
    sent = terminal.uqdm("encode a.png b.png several --stage 1")
    check_bars(sent, bars=2)
    for text in (r"a\.png \(1 of 2\): ", r"b\.png \(2 of 2\): ", r"all: \d+ s left"):
        assert re.search(text, sent), sent
    check_bars(terminal.uqdm("decode several back"), bars=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("encode a.png out --force --min-psnr 50 --max-bytes 300", 0, "of the 50 wanted"),
        ("decode cut.uqdm out.png --force", 0, "cut.uqdm: cut short: "),
        ("decode bad.uqdm out.png --force", 1, "bad.uqdm: string of stage"),
        ("verify bad.uqdm", 1, "bad.uqdm: string of stage"),
        ("verify a.uqdm", 0, "a.uqdm: exact, 6 of 6 stages"),
    ],
)
def test_messages_stand_alone(
    terminal: Terminal, line: str, code: int, message: str
) -> None:
    """On a line of their own, when the bar has gone; encode has one of its own."""
    sent = terminal.uqdm(line, code)
    assert "|" in sent
    after = re.split(r"\r {50,}\r", sent)[-1]
    assert message in after and "|" not in after
    assert after.count("\n") == 1 + line.startswith("encode")


# ---- Ctrl-C ----


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "moment"),
    [
        ("encode big.png big.uqdm", r"torch\.\w"),  # in the middle of imports
        ("encode big.png a.png out --model uqdm-nano-ctx", r" [1-9]\d*%"),
        ("encode big.png big.uqdm --min-psnr 30 --model uqdm-nano-ctx", r" [1-9]\d*%"),
        ("decode big.uqdm big2.png", r" [1-9]\d*%"),
        ("decode big.uqdm --progressive out", r" [1-9]\d*%"),
        ("verify big.uqdm", r" [1-9]\d*%"),
    ],
)
def test_interrupted(
    tmp_path: Path, codec: Codec, picture: Image.Image, line: str, moment: str
) -> None:
    """A line and no more, and only whole files stay."""
    picture.save(tmp_path / "a.png")
    picture.resize((200, 200)).save(tmp_path / "big.png")
    if "big.uqdm" in line.split()[1]:
        big = Image.open(tmp_path / "big.png")
        data = encode(big, codec, stages=1, arithmetic="float32")
        (tmp_path / "big.uqdm").write_bytes(data)
    before = sorted(os.listdir(tmp_path))
    verbose = ["-X", "importtime"] if "torch" in moment else []
    child = pexpect.spawn(
        sys.executable,
        [*verbose, "-m", "compressai_uqdm", *line.split()],
        cwd=str(tmp_path),
        encoding="utf-8",
        dimensions=(40, 100),
        timeout=120,
        # what runs in the background of a shell may have inherited that it is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    child.expect(moment)
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.before.rstrip().endswith("uqdm: interrupted"), child.before
    assert "Traceback" not in child.before
    # Python may end itself by the signal; a shell has 130 for both
    status = child.exitstatus if child.signalstatus is None else 128 + child.signalstatus
    assert status == 130
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.name for path in left) == before


# ---- what bars are told ----


class Told:
    """Shares that were told, and passes of the network at the time."""

    def __init__(self) -> None:
        self.calls: list[float] = []
        self.passes = 0

    def __call__(self, share: float) -> None:
        assert share >= max(self.calls, default=0)
        self.calls.append(share)


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()

    def look(module: torch.nn.Module, *_: object) -> None:
        told.passes += isinstance(module, UNet)

    hook = torch.nn.modules.module.register_module_forward_hook(look)
    yield told
    hook.remove()


@pytest.mark.parametrize(
    "limits",
    [{}, {"stages": 1}, {"max_bytes": 150}, {"min_psnr": 15}, {"min_psnr": 25}]
    + [{"min_psnr": 70}, {"min_psnr": 25, "max_bytes": 200}],
    ids=str,
)
def test_progress_of_encoding(
    codec: Codec, picture: Image.Image, told: Told, limits: dict[str, int]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QualityWarning)
        encode(picture, codec, arithmetic="float32", progress=told, **limits)  # type: ignore[arg-type]
    assert told.calls[-1] == 1 and len(told.calls) == told.passes + 1
    if set(limits) <= {"stages"}:  # the number of passes is known
        assert told.calls[:-1] == [(i + 1) / told.passes for i in range(told.passes)]


def test_progress_of_decoding(codec: Codec, picture: Image.Image, told: Told) -> None:
    data = encode(picture, codec, arithmetic="float32")
    told.passes = 0
    decoder = StreamingDecoder(codec, progress=told)
    for at in range(0, len(data), 100):
        decoder.feed(data[at : at + 100])
    decoder.picture()
    assert told.calls == [1 / 3, 2 / 3, 1.0] and told.passes == 3


# ---- a quality that is missed ----


def test_a_missed_quality_is_told_as_it_decodes(codec: Codec, picture: Image.Image) -> None:
    def psnr(data: bytes) -> float:
        decoded = decode(data, model=codec).image
        error = np.array(decoded, float) - np.array(picture, float)
        return float(10 * np.log10(255**2 / np.square(error).mean()))

    for limits in ({"max_bytes": n} for n in (90, 150, 260, 600, 1500)):
        with pytest.warns(QualityWarning) as caught:
            data = encode(picture, codec, arithmetic="float32", min_psnr=60, **limits)
        assert len(data) == limits["max_bytes"]
        (warning,) = caught
        assert str(warning.message).startswith(f"{psnr(data):.2f} dB of the 60 wanted")
        assert warning.filename == __file__
    with pytest.warns(QualityWarning) as caught:
        data = encode(picture, codec, arithmetic="float32", min_psnr=60, stages=2)
    assert str(caught[0].message).startswith(f"{psnr(data):.2f} dB of the 60 wanted")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = encode(picture, codec, arithmetic="float32", min_psnr=20, max_bytes=10**6)
    assert psnr(data) >= 20
