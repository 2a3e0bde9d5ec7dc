"""Files through Pillow, and through what works through Pillow."""

import dataclasses
import fnmatch
import io
import os
import pickle
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

from pathlib import Path

import numpy as np
import pytest

from PIL import GifImagePlugin, Image, ImageCms, ImageFile, UnidentifiedImageError

from compressai_uqdm.files.container import pack_header, parse_header
from compressai_uqdm.files.decoding import decode
from compressai_uqdm.files.encoding import encode
from compressai_uqdm.files.header import Header
from compressai_uqdm.files.model import Codec, open_codec
from compressai_uqdm.pillow import MIME, UqdmImageFile

TESTS = Path(__file__).parents[1]
DATA = TESTS / "data"
ORIENTATION = 274
MODES = ["RGB", "L", "1", "P", "RGBA", "LA"]


@pytest.fixture(scope="module")
def codec() -> Codec:
    return open_codec("uqdm-photo")


@pytest.fixture(scope="module")
def image(photograph: Image.Image) -> Image.Image:
    return photograph.crop((100, 100, 148, 132))


@pytest.fixture(scope="module")
def data(image: Image.Image) -> bytes:
    return saved(image)


@pytest.fixture
def truncated_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)


def saved(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "UQDM", **options)
    return file.getvalue()


def opened(data: bytes) -> ImageFile.ImageFile:
    image = Image.open(io.BytesIO(data))
    assert isinstance(image, UqdmImageFile)
    return image


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """With seven colours in a palette, or an alpha channel that is half transparent."""
    image = image.quantize(7) if mode == "P" else image.convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def header_of(data: bytes) -> tuple[Header, int]:
    found = parse_header(data)
    assert found is not None
    return found


def run(code: str) -> list[str]:
    """What a program says that finds our package installed."""
    path = [str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# ---- in a program ----

OPEN = f"""
import sys
image = Image.open({str(DATA / "v2-palette.uqdm")!r})
print(image.format, image.mode, image.size, image.get_format_mimetype())
print("torch" in sys.modules)
"""


@pytest.mark.parametrize(
    "first",
    [
        "import compressai_uqdm; from PIL import Image",
        "from PIL import Image; import compressai_uqdm",
        "import compressai_uqdm; from PIL import ImageFile, Image",
        "from PIL import ImageFile, Image; import compressai_uqdm",
        "from PIL import Image; Image.init(); import compressai_uqdm",
        "import compressai_uqdm.pillow; from PIL import Image",
        "import site; site.addsitedir('.'); from PIL import Image",
    ],
)
def test_opening_reads_the_header_alone(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("uqdm.pth").write_text("import compressai_uqdm\n")  # as README has it
    expected = Image.open(DATA / "v2-palette.png")
    assert expected.mode == "P"
    assert run(first + OPEN) == [f"UQDM P {expected.size} image/x-uqdm", "False"]


def test_importing_stays_light() -> None:
    (known,) = run("import sys, compressai_uqdm; print(*sys.modules)")
    assert not {"PIL", "torch", "compressai_uqdm.pillow"} & set(known.split())
    (known,) = run("import sys, compressai_uqdm, PIL.ImageFile; print(*sys.modules)")
    assert "compressai_uqdm.pillow" in known
    assert not {"torch", "compressai_uqdm.files.container"} & set(known.split())


@pytest.mark.slow
def test_programs_that_import_pytorch(image: Image.Image, tmp_path: Path) -> None:
    image.save(tmp_path / "picture.png")
    code = f"""
import torch
from PIL import Image
image = Image.open({str(tmp_path / "picture.png")!r})
image.save({str(tmp_path / "picture.uqdm")!r})
print(Image.open({str(tmp_path / "picture.uqdm")!r}).tobytes() == image.tobytes())
"""
    assert run(code) == ["True"]


@pytest.mark.slow
def test_imageio(image: Image.Image, tmp_path: Path) -> None:
    code = f"""
import sys
import compressai_uqdm
import imageio.v3 as iio
import numpy as np
array = iio.imread({str(TESTS / "data/photograph.png")!r})[100:132, 100:148, :3]
path = {str(tmp_path / "picture.uqdm")!r}
iio.imwrite(path, array)
print(iio.improps(path).shape, np.array_equal(iio.imread(path), array))
data = iio.imwrite("<bytes>", array, plugin="pillow", extension=".uqdm", stages=1)
print(len(data), iio.imread(data).shape)
"""
    first, second = run(code)
    assert first == "(32, 48, 3) True"
    assert second == f"{len(saved(image, stages=1))} (32, 48, 3)"


# ---- there and back ----


@pytest.mark.parametrize("mode", MODES)
def test_modes(photograph: Image.Image, tmp_path: Path, mode: str) -> None:
    image = photograph.crop((200, 120, 233, 140))
    image = in_mode(image, mode)
    image.save(tmp_path / "picture.uqdm")
    with Image.open(tmp_path / "picture.uqdm") as back:
        assert (back.mode, back.size) == (mode, image.size)
        if mode == "P":
            assert back.getpalette() == image.getpalette()
        assert back.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()
        assert back.mode == mode
        assert pickle.loads(pickle.dumps(back)).tobytes() == back.tobytes()


def test_files_are_those_of_the_library(
    image: Image.Image, codec: Codec, data: bytes
) -> None:
    assert decode(data).image.tobytes() == image.tobytes()
    coarse = saved(image, model="uqdm-photo", stages=1, seed=3, quality=90)
    header, start = header_of(coarse)
    assert (header.model, header.seed, len(header.lengths)) == ("uqdm-photo", 3, 1)
    assert saved(image, model=codec, stages=1, seed=3) == coarse
    assert len(saved(image, max_bytes=200)) == 200


def test_a_file_in_place_of_itself(image: Image.Image, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "picture.uqdm"
    path.write_bytes(data)
    Image.open(path).save(path)
    assert path.read_bytes() == data


def test_what_cannot_be_saved(image: Image.Image, tmp_path: Path) -> None:
    for bad, options, message in (
        (image.convert("CMYK"), {}, "got mode CMYK. Convert it first"),
        (Image.new("I;16", (9, 9)), {}, "expected 8 bits per channel"),
        (image, {"stages": 9}, "stages must be in"),
        (image, {"max_bytes": 20}, "the file's header alone"),
    ):
        with pytest.raises(ValueError, match=message):
            bad.save(tmp_path / "picture.uqdm", **options)
    with pytest.raises(FileNotFoundError, match="no model 'nobody'"):
        image.save(tmp_path / "picture.uqdm", model="nobody")
    assert not list(tmp_path.iterdir())


def test_a_frame_of_an_animation(photograph: Image.Image) -> None:
    frames = [photograph.crop((x, 0, x + 20, 9)).quantize(5) for x in (0, 90, 180)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    animation = Image.open(file)
    assert isinstance(animation, GifImagePlugin.GifImageFile) and animation.n_frames == 3
    animation.seek(1)
    back = opened(saved(animation))
    assert back.convert("RGB").tobytes() == frames[1].convert("RGB").tobytes()
    with pytest.raises(ValueError, match="one picture"):  # as of imageio
        animation.save(io.BytesIO(), "UQDM", save_all=True)
    with pytest.raises(ValueError, match="one picture"):
        frames[0].save(io.BytesIO(), "UQDM", append_images=frames[1:])


# ---- what goes with a picture ----


def test_profile_and_orientation(image: Image.Image) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = image.copy()
    turned.getexif()[ORIENTATION] = 6
    turned.info["icc_profile"] = profile
    data = saved(turned, stages=1)
    back = opened(data)
    for _ in ("opened", "loaded"):
        assert back.info["icc_profile"] == profile
        assert back.getexif()[ORIENTATION] == 6
        back.load()
    again = opened(saved(back, stages=1))
    assert again.info["icc_profile"] == profile and again.getexif()[ORIENTATION] == 6


def test_exif(image: Image.Image) -> None:
    """Also where a program has changed it since the picture was opened."""
    maker = 271
    given, changed = image.copy(), image.copy()
    exif = Image.Exif()
    exif[maker], exif[ORIENTATION] = "Somebody", 6
    given.info["exif"] = exif.tobytes()
    changed.info["exif"] = exif.tobytes()
    changed.getexif()[maker] = "Somebody else"
    for picture, expected in ((given, "Somebody"), (changed, "Somebody else")):
        data = saved(picture, stages=1)
        assert data == encode(picture, stages=1)
        back = opened(data)
        assert dict(back.getexif()) == {maker: expected, ORIENTATION: 6}
        assert saved(back, stages=1) == encode(back, stages=1)


def test_options_for_profile_and_orientation(image: Image.Image) -> None:
    before, given = image.copy(), Image.Exif()
    before.info["icc_profile"] = b"old"
    before.getexif()[ORIENTATION] = 6
    given[ORIENTATION] = 3
    for exif in (given, given.tobytes()):
        back = opened(saved(before, stages=1, exif=exif, icc_profile=b"new"))
        assert back.info["icc_profile"] == b"new" and back.getexif()[ORIENTATION] == 3
    back = opened(saved(before, stages=1, exif=b"", icc_profile=None))
    assert "icc_profile" not in back.info and ORIENTATION not in back.getexif()
    assert before.info["icc_profile"] == b"old" and before.getexif()[ORIENTATION] == 6


# ---- how much is read, and when ----


def test_bytes_that_opening_reads(photograph: Image.Image) -> None:
    class Counted(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.count += len(data)
            return data

    described = photograph.crop((0, 0, 160, 120))
    described.info["icc_profile"] = np.random.default_rng(0).bytes(1000)
    for image in (photograph.crop((0, 0, 160, 120)), described):
        data = saved(image, stages=3)
        file = Counted(data)
        back = Image.open(file)
        assert file.count <= 2 * header_of(data)[1] + 256 < len(data)
        back.load()
        assert file.count > len(data)


def test_files_are_closed(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "picture.uqdm"
    path.write_bytes(data)
    image = Image.open(path)
    file = image.fp
    assert file is not None and not file.closed
    image.load()
    assert file.closed
    with Image.open(path) as image:
        pass
    with pytest.raises(OSError, match="has been closed"):
        image.load()
    with open(path, "rb") as stream:  # whoever opened it closes it
        Image.open(stream).load()
        assert not stream.closed


def test_pieces(image: Image.Image, data: bytes) -> None:
    parser = ImageFile.Parser()
    for at in range(0, len(data), 50):
        parser.feed(data[at : at + 50])
    assert parser.close().tobytes() == image.tobytes()


# ---- what is wrong with files ----


def cut_within_the_second_stage(data: bytes) -> bytes:
    header, start = header_of(data)
    return data[: start + header.lengths[0] + header.lengths[1] // 2]


@pytest.mark.parametrize("mode", MODES)
def test_truncated(image: Image.Image, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mode stays what it was said to be: Pillow's own functions count on it."""
    whole = in_mode(image, mode)
    data = cut_within_the_second_stage(saved(whole, stages=6))
    cut = opened(data)
    assert cut.mode == mode
    for _ in range(2):
        with pytest.raises(OSError, match="image file is truncated"):
            cut.load()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    array = np.asarray(cut)  # which asks for the mode before it loads
    assert cut.mode == mode and array.shape[:2] == (cut.height, cut.width)
    expected = decode(data).image
    if mode not in ("1", "P"):
        assert cut.mode == expected.mode and cut.tobytes() == expected.tobytes()
    elif mode == "P":
        assert cut.getpalette() == whole.getpalette() and array.max() < 7
    seen, there = (np.asarray(i.convert("RGB"), float) for i in (cut, expected))
    assert np.abs(seen.mean((0, 1)) - there.mean((0, 1))).max() < 4  # dithered


@pytest.mark.parametrize("mode", MODES)
def test_made_to_a_limit(image: Image.Image, mode: str) -> None:
    """That is no damage: it opens as it was made, and not if any of that is missing."""
    whole = in_mode(image, mode)
    size = len(saved(whole))
    _, start = header_of(saved(whole, stages=1))
    for limit in (start + 8, size // 2, size - 1):
        data = saved(whole, max_bytes=limit)
        limited = opened(data)
        limited.load()
        assert limited.mode == mode and limited.size == image.size
        if mode not in ("1", "P"):
            assert limited.tobytes() == decode(data).image.tobytes()
        header, start = header_of(data)
        cut = (data[:-1], data[:start]) if header.limited_to else ()
        before = pack_header(dataclasses.replace(header, limited_to=None)) + data[start:]
        for less in (*cut, before):  # as it was before files could say it
            with pytest.raises(OSError, match="image file is truncated"):
                opened(less).load()


@pytest.mark.parametrize("length", [6, 7, 9, 30])
def test_truncated_in_its_header(data: bytes, length: int, truncated_images: None) -> None:
    with pytest.raises(UnidentifiedImageError, match="ends inside its header"):
        Image.open(io.BytesIO(data[:length]))


def test_damaged(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    header, start = header_of(data)
    damaged = bytearray(data)
    damaged[start + header.lengths[0] + header.lengths[1] // 2] ^= 1
    image = opened(bytes(damaged))
    with pytest.raises(OSError, match="stage 2"):
        image.load()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert image.tobytes() == decode(data, stages=1).image.tobytes()


def test_damaged_header(data: bytes) -> None:
    for at, message in ((6, "update compressai-uqdm"), (12, "checksum does not match")):
        damaged = bytearray(data)
        damaged[at] ^= 1
        with pytest.raises(UnidentifiedImageError, match=message):
            Image.open(io.BytesIO(bytes(damaged)))
    as_text = data.replace(b"\n", b"\r\n")
    with pytest.raises(UnidentifiedImageError, match="transferred as text"):
        Image.open(io.BytesIO(as_text))


def test_models_that_are_not_there(data: bytes, truncated_images: None) -> None:
    header, start = header_of(data)
    for change, message in (
        ({"model": "nobody"}, "model 'nobody' that is not in the zoo.*uqdm.load"),
        ({"digest": b"others"}, "with other weights"),
    ):
        changed = pack_header(dataclasses.replace(header, **change)) + data[start:]
        image = opened(changed)
        assert image.size == header.size
        with pytest.raises(OSError, match=message):
            image.load()


def test_pictures_too_large(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # it has 1536
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(data))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(data)).load()


# ---- the desktop ----


def test_what_desktops_are_told() -> None:
    """The file of packaging/ finds our files, by name and by content, and no others."""
    space = {"": "http://www.freedesktop.org/standards/shared-mime-info"}
    root = ElementTree.parse(TESTS.parent / "packaging/compressai-uqdm.xml").getroot()
    (kind,) = root.findall("mime-type", space)
    assert kind.get("type") == MIME == Image.MIME["UQDM"]
    (glob,) = kind.findall("glob", space)
    (match,) = kind.findall("magic/match", space)
    assert (match.get("type"), match.get("offset")) == ("string", "0")
    magic = match.attrib["value"].encode().decode("unicode_escape").encode("latin-1")
    paths = sorted(path for path in DATA.iterdir() if path.is_file())
    found = [path for path in paths if path.read_bytes().startswith(magic)]
    assert found and found == [
        p for p in paths if fnmatch.fnmatch(p.name, glob.attrib["pattern"])
    ]
