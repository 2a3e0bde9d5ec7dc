"""Rate-distortion curves of other codecs, and what they take lossless.

    python eval/other_codecs.py kodak/ --output eval/results/kodak
    python eval/other_codecs.py kodak/ JPEG WebP --output out

Codecs are those of ``compressai.utils.bench``, of Pillow and its plugins, and of
CompressAI's zoo. One JSON file is written per codec; where a program or weights are
missing, it says so in place of results. Sizes are those of whole files, with headers.
"""

import argparse
import io
import json
import shutil
import tempfile
import time

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torch.nn.functional as F

from compressai.models import CompressionModel
from compressai.ops import compute_padding
from compressai.utils.bench import codecs as bench
from compressai.zoo import image_models
from curves import MS_SSIM_SIDE, curve, distortion, table
from images import ImageSet, InputError
from PIL import Image, features
from runs import (
    check_same_run,
    finish_run,
    join_processes,
    run_images,
    run_program,
    save_picture,
    write_json,
)

__all__ = ["CODECS", "Codec", "Coded", "Missing"]


class Missing(Exception):
    """What a codec needs and this machine lacks."""


@dataclass(frozen=True)
class Coded:
    """An image after coding and decoding."""

    bits: int
    image: np.ndarray  # uint8, [H, W, 3]
    encoding_time: float  # seconds
    decoding_time: float


@dataclass(frozen=True)
class Codec:
    """How to code an image.

    Args:
        description: with versions.
        quality: its rate points.
        code: maps an RGB image and one of these to what becomes of it.
        lossless: the same without loss, if there is such a mode.
    """

    description: str
    quality: Sequence[int] = ()
    code: Callable[[Image.Image, int], Coded] | None = None
    lossless: Callable[[Image.Image], Coded] | None = None


def through_pillow(image: Image.Image, kind: str, **options: object) -> Coded:
    """Code an image with Pillow."""
    file, start = io.BytesIO(), time.perf_counter()
    image.save(file, kind, **options)
    encoded = time.perf_counter()
    with Image.open(file) as opened:
        decoded = opened.convert("RGB")
    times = encoded - start, time.perf_counter() - encoded
    return Coded(8 * file.getbuffer().nbytes, np.asarray(decoded), *times)


def through_bench(codec: bench.Codec) -> Callable[[Image.Image, int], Coded]:
    """How a codec of ``compressai.utils.bench`` codes an image."""

    def code(image: Image.Image, quality: int) -> Coded:
        with tempfile.TemporaryDirectory() as folder:
            file = f"{folder}/image.png"
            image.save(file)
            try:
                info, decoded = codec.run(file, quality, metrics=[], return_rec=True)
            except SystemExit as error:
                raise RuntimeError("the program failed, see its message above") from error
        bits = round(info["bpp"] * image.width * image.height)
        times = info["encoding_time"], info["decoding_time"]
        return Coded(bits, np.asarray(decoded.convert("RGB")), *times)

    return code


def jpeg() -> Codec:
    codec = bench.JPEG(None)
    return Codec(
        f"{codec.description}, chroma 4:2:0, through compressai.utils.bench",
        (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100),
        through_bench(codec),
    )


def jpeg_444() -> Codec:
    return Codec(
        f"JPEG. Pillow version {PIL.__version__}, chroma 4:4:4",
        (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100),
        lambda image, q: through_pillow(image, "JPEG", quality=q, subsampling="4:4:4"),
    )


def jpeg_2000() -> Codec:
    if not features.check("jpg_2000"):
        raise Missing("Pillow was built without OpenJPEG")
    # without its colour transform Pillow's files are twice as large
    options = {"mct": 1, "no_jp2": True}
    return Codec(
        f"JPEG 2000. OpenJPEG version {features.version('jpg_2000')} in Pillow "
        f"{PIL.__version__}, code stream without a container; quality is the PSNR aimed at",
        (20, 23, 26, 29, 32, 35, 38, 41, 44, 47, 50),
        lambda image, q: through_pillow(
            image,
            "JPEG2000",
            irreversible=True,
            quality_mode="dB",
            quality_layers=[q],
            **options,
        ),
        lambda image: through_pillow(image, "JPEG2000", irreversible=False, **options),
    )


def webp() -> Codec:
    codec = bench.WebP(None)
    return Codec(
        f"{codec.description}, through compressai.utils.bench; lossless with method 6",
        (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100),
        through_bench(codec),
        lambda image: through_pillow(image, "WEBP", lossless=True, quality=100, method=6),
    )


def avif() -> Codec:
    if not features.check("avif"):
        raise Missing("Pillow was built without libavif")
    return Codec(
        f"AVIF. libavif version {features.version('avif')} in Pillow {PIL.__version__}, "
        "chroma 4:4:4",
        (5, 15, 25, 35, 45, 55, 65, 75, 85, 90, 95, 100),
        lambda image, q: through_pillow(image, "AVIF", quality=q, subsampling="4:4:4"),
    )


def jpeg_xl() -> Codec:
    try:
        import pillow_jxl  # noqa: F401  (its import adds the format to Pillow)
    except ImportError as error:
        raise Missing("the package pillow-jxl-plugin") from error
    return Codec(
        f"JPEG XL. pillow-jxl-plugin version {version('pillow-jxl-plugin')}, effort 7",
        (5, 15, 25, 35, 45, 55, 65, 75, 85, 90, 95, 99),
        lambda image, q: through_pillow(image, "JXL", quality=q),
        lambda image: through_pillow(image, "JXL", lossless=True),
    )


def png() -> Codec:
    return Codec(
        f"PNG. zlib version {features.version('zlib')} in Pillow {PIL.__version__}, "
        "optimized",
        lossless=lambda image: through_pillow(image, "PNG", optimize=True),
    )


def bpg() -> Codec:
    lacking = [program for program in ("bpgenc", "bpgdec") if not shutil.which(program)]
    if lacking:
        raise Missing(f"the program {' and '.join(lacking)}")
    parser = argparse.ArgumentParser()
    bench.BPG.setup_args(parser)
    codec = bench.BPG(parser.parse_args([]))
    return Codec(
        f"{codec.description}, chroma 4:4:4, through compressai.utils.bench",
        (5, 10, 15, 20, 25, 30, 35, 40, 45, 50),
        through_bench(codec),
    )


class CompressAIModel:
    """A model of CompressAI's zoo, at the qualities that are asked for.

    Args:
        load: gives the network of a quality, 1..8.
    """

    def __init__(self, load: Callable[[int], CompressionModel]):
        self._load = load
        self._nets: dict[int, CompressionModel] = {}

    def net(self, quality: int) -> CompressionModel:
        if quality not in self._nets:
            self._nets[quality] = self._load(quality).eval()
        return self._nets[quality]

    @torch.no_grad()
    def __call__(self, image: Image.Image, quality: int) -> Coded:
        net = self.net(quality)
        x = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None].float() / 255
        pad, unpad = compute_padding(image.height, image.width, min_div=64)
        start = time.perf_counter()
        coded = net.compress(F.pad(x, pad))
        encoded = time.perf_counter()
        x_hat = F.pad(net.decompress(coded["strings"], coded["shape"])["x_hat"], unpad)
        levels = (x_hat[0] * 255).round().clamp(0, 255).to(torch.uint8)
        times = encoded - start, time.perf_counter() - encoded
        bits = 8 * sum(len(strings[0]) for strings in coded["strings"])
        return Coded(bits, levels.permute(1, 2, 0).numpy(), *times)


def compressai_model(name: str) -> Callable[[], Codec]:
    def make() -> Codec:
        model = CompressAIModel(lambda q: image_models[name](q, pretrained=True))
        try:
            model.net(1)
        except OSError as error:  # all that a failing download raises
            raise Missing(
                f"its weights, which could not be downloaded ({error})"
            ) from error
        description = f"{name} of CompressAI {version('compressai')}, trained for MSE"
        return Codec(f"{description}, images padded to multiples of 64", range(1, 9), model)

    return make


CODECS: dict[str, Callable[[], Codec]] = {
    "JPEG": jpeg,
    "JPEG 4:4:4": jpeg_444,
    "JPEG 2000": jpeg_2000,
    "WebP": webp,
    "AVIF": avif,
    "JPEG XL": jpeg_xl,
    "PNG": png,
    "BPG": bpg,
    "bmshj2018-hyperprior": compressai_model("bmshj2018-hyperprior"),
    "mbt2018-mean": compressai_model("mbt2018-mean"),
}
"""Each raises :class:`Missing` where the machine lacks something."""


def result_file(folder: Path, name: str) -> Path:
    return folder / f"{name.lower().replace(' ', '_').replace(':', '')}.json"


def evaluate_image(
    codec: Codec,
    image: np.ndarray,
    with_ms_ssim: bool,
    save: Callable[[np.ndarray, int], None],
) -> dict[str, Any]:
    """What a codec makes of one image, uint8, ``[H, W, 3]``."""
    picture = Image.fromarray(image)
    points = []
    for quality in codec.quality:
        assert codec.code is not None
        coded = codec.code(picture, quality)
        save(coded.image, quality)
        times = {"times": [coded.encoding_time, coded.decoding_time]}
        compared = distortion(image, coded.image, with_ms_ssim)
        points.append({"bits": coded.bits, "distortion": compared, **times})
    out: dict[str, Any] = {"pixels": image.shape[0] * image.shape[1], "points": points}
    if codec.lossless:
        coded = codec.lossless(picture)
        if not np.array_equal(coded.image, image):
            raise RuntimeError("its lossless mode lost something")
        times = {"times": [coded.encoding_time, coded.decoding_time]}
        out["lossless"] = {"bits": coded.bits, **times}
    return out


def summarize(
    codec: Codec, images: ImageSet, records: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The curve of a codec from what is known of each image."""
    points = [record["points"] for record in records]
    bits = np.array([[p["bits"] for p in row] for row in points], dtype=np.float64)
    lossless = [record["lossless"] for record in records if "lossless" in record]
    out = curve(
        images.names,
        [record["pixels"] for record in records],
        codec.quality,
        bits,
        [[p["distortion"] for p in row] for row in points],
        np.array([p["bits"] for p in lossless], dtype=np.float64) if lossless else None,
    )
    times = np.array([[p["times"] for p in row] for row in points]).reshape(*bits.shape, 2)
    for i, side in enumerate(("encoding_time", "decoding_time")):
        out["results"][side] = times[:, :, i].mean(0).tolist()
        if lossless:
            out[f"lossless_{side}"] = float(np.mean([p["times"][i] for p in lossless]))
    return out


def stand_in(file: Path) -> dict[str, Any]:
    """What a result file says of figures measured elsewhere, in CompressAI's format.

    Raises:
        InputError: they are not in that format.
    """
    try:
        found = json.loads(file.read_text())
        results = {key: list(values) for key, values in found["results"].items()}
        name, description = str(found["name"]), str(found["description"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is not a result in CompressAI's format: {error!r}"
        ) from error
    return {
        "name": f"{name} (measured elsewhere)",
        "description": f"{description}; the figures of {file.name}, measured on these "
        "images by compressai.utils.bench, in place of a run",
        "stand-in": file.name,
        "bits": "real",
        "results": results,
    }


def found_before(file: Path) -> dict[str, Any]:
    """What a result file holds, of any run; nothing if there is none.

    Raises:
        InputError: it is no result file.
    """
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text())
        _ = found["run"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is not a result file of this program: {error!r}. Choose another "
            "--output, or move the file"
        ) from error
    return found


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("images", type=Path, help="folder, or .npy or .npz of images")
    parser.add_argument("codecs", nargs="*", choices=[[], *CODECS], metavar="codec")
    parser.add_argument("--output", type=Path, required=True, help="folder of result files")
    parser.add_argument("--first", type=int, help="take only that many images")
    parser.add_argument("--pictures", type=Path, help="folder for the decoded images")
    parser.add_argument(
        "--bpg",
        type=Path,
        help="BPG's figures as JSON, to stand in where bpgenc is missing",
    )
    args = parser.parse_args(argv)
    if args.bpg and args.first:
        parser.error("--bpg has figures of all images: leave --first out")

    state = join_processes()
    images = ImageSet(args.images, args.first)
    figures = stand_in(args.bpg) if args.bpg else None
    with_ms_ssim = images.smallest_side >= MS_SSIM_SIDE
    for name in args.codecs or CODECS:
        file = result_file(args.output, name)
        about: dict[str, Any] = {"name": name, "images": images.describe()}
        run: dict[str, Any] = {"codec": name, "images": images.digest}
        before = found_before(file)
        try:
            codec = CODECS[name]()
        except Missing as missing:
            if "results" in before and not (name == "BPG" and figures):
                if before.get("images") != images.describe():
                    raise InputError(
                        f"{file} is of other images than {images.path}. Choose another "
                        "--output, or delete the file"
                    ) from missing
                state.print(f"{name}: missing: {missing}; {file} stays as it is")
                continue
            run["missing"] = str(missing)
            about |= {"missing": str(missing)}
            if name == "BPG" and figures:
                about = {"images": about["images"], **figures}
            about["run"] = run
            if state.is_main_process:
                write_json(file, about)
                print(table(about), flush=True)
            continue
        run |= {"description": codec.description, "quality": list(codec.quality)}
        run["pictures"] = args.pictures is not None
        measured = "missing" not in before and "stand-in" not in before
        if measured and check_same_run(file, run):
            state.print(f"{name}: the result of this run is in {args.output}")
            continue

        def evaluate(i: int, name: str = name, codec: Codec = codec) -> dict[str, Any]:
            def save(picture: np.ndarray, quality: int) -> None:
                if args.pictures:
                    folder = args.pictures / result_file(args.output, name).stem
                    save_picture(picture, folder / str(quality), images.names[i])

            try:
                return evaluate_image(codec, images[i], with_ms_ssim, save)
            except (RuntimeError, ValueError, OSError) as error:
                raise RuntimeError(f"{images.names[i]}, {name}: {error}") from error

        waiting = args.output / "unfinished" / file.stem
        records = run_images(images, waiting, run, evaluate, state)
        if records is None:
            continue
        about |= {"description": codec.description, "run": run}
        result = {**about, **summarize(codec, images, records)}
        result["times"] = {"processes": state.num_processes}
        write_json(file, result)
        print(table(result), flush=True)
        finish_run(waiting)


if __name__ == "__main__":
    run_program(main)
