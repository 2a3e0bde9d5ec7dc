"""The command line, ``uqdm``.

PyTorch takes seconds to import, so only what runs a network imports it.
"""

import argparse
import io
import itertools
import os
import sys
import warnings

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .atomic import write_atomically
from .checks import MAX_PIXELS
from .errors import DamagedStringError
from .files.container import MAGIC, ends_in_header, parse_header
from .files.header import Header
from .files.rate import truncate as truncate_data
from .progress import Progress

if TYPE_CHECKING:
    from PIL import Image

    from .files.decoding import StreamingDecoder

__all__ = ["main"]

FILE = ".uqdm"
PICTURES = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
NOT_OURS = (*PICTURES, ".avif", ".heic", ".jp2", ".jxl")
STANDARD = Path("-")  # standard input or output
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")

EPILOG = """\
"-" is standard input or output. Of several inputs, or of a folder (its pictures or .uqdm
files, not those of folders in it), the output is a folder.

exit codes: 0, all went well; 1, something failed, and standard error has a line for each
input that did, or one for all; 2, the command line is wrong; 130, interrupted.
"""


class UsageError(Exception):
    """The command line asks for what cannot be."""


class Failure(Exception):
    """Something is missing that every input needs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``uqdm`` with these arguments, or those of the process.

    Returns:
        the exit code, 0, 1 or 130.

    Raises:
        SystemExit: with the exit code 2, if the arguments are wrong.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if any(word.startswith("-") and word != "-" for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.paths += rest  # argparse takes those before the first option only
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of libraries are not for users
    try:
        return options.run(options)
    except UsageError as error:
        parser.error(str(error))
    except BrokenPipeError:  # whoever read our output has gone: nothing is left to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Failure, OSError) as error:
        _say(_told(error))
    except KeyboardInterrupt:
        _say("interrupted")
        return 130  # as of a shell's commands that SIGINT ended
    return 1


# ---- commands ----


def encode(options: argparse.Namespace) -> int:
    """Pictures to files."""
    pairs = _pairs(options.paths, PICTURES, FILE)
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # ours is the limit

    def work(source: Path, target: Path) -> None:
        data = _read(source)
        try:
            opened = Image.open(io.BytesIO(data))
        except UnidentifiedImageError as error:
            raise ValueError("no picture that Pillow can read") from error
        with opened as image:
            if image.width * image.height > options.max_pixels:
                raise ValueError(
                    f"the picture has {image.width} x {image.height} pixels, more than "
                    f"the limit of {options.max_pixels} (--max-pixels)"
                )
            _prepare_network(options)
            from .files import encoding
            from .files.model import DEFAULT_MODEL, open_codec

            try:
                codec = open_codec(options.model or DEFAULT_MODEL, options.device)
            except (OSError, ValueError) as error:
                raise Failure(_told(error)) from error
            with _notes(source, encoding.QualityWarning), _progress(source) as progress:
                data = encoding.encode(
                    image,
                    codec,
                    seed=options.seed,
                    arithmetic=options.arithmetic,
                    stages=options.stages,
                    max_bytes=options.max_bytes,
                    bpp=options.bpp,
                    min_psnr=options.min_psnr,
                    progress=progress,
                )
        _write(target, data)

    return _each(pairs, work, options.force)


def decode(options: argparse.Namespace) -> int:
    """Files to pictures."""
    pairs: list[tuple[Path, Path | None]]
    if options.progressive and len(options.paths) == 1:
        pairs = [(s, None) for s in _inputs(options.paths, (FILE,))]
    else:
        pairs = _pairs(options.paths, (FILE,), ".png")
    missing: dict[str, FileNotFoundError] = {}

    def work(source: Path, target: Path | None) -> None:
        data = _read(source, options.max_bytes or -1)
        if options.stages is not None:
            data = truncate_data(data, stages=options.stages)
        header, start = _header(data, options.max_pixels)
        pieces = list(_pieces(header, data, start))
        shown: list[Path | None] = [None] * len(pieces)
        if options.progressive:
            folder = Path(options.progressive)
            folder.mkdir(parents=True, exist_ok=True)
            for i, (piece, length) in enumerate(zip(pieces, header.lengths)):
                cut = "-cut" if len(piece) < length else ""
                path = folder / f"{_stem(source)}.stage{i + 1}{cut}.png"
                _check_target(path, options.force)
                shown[i] = path
        _prepare_network(options)
        with _progress(source) as progress:
            decoder = _decoder(options, header, data[:start], missing, progress)
            try:
                for piece, stage in zip(pieces, shown):
                    decoder.feed(piece)
                    if stage:
                        picture = decoder.picture(options.reconstruction)
                        _write(stage, _as_bytes(picture.image, stage))
                picture = decoder.picture(options.reconstruction)
            except DamagedStringError as error:
                if not options.partial:
                    raise _with_remedy(error, header, decoder.stages) from error
                picture = decoder.picture(options.reconstruction)
        there = _stages(header, picture.stages, picture.share)
        asked = options.stages or len(header.lengths)
        if picture.damage:
            whole = _stages(header, picture.stages, 0)
            _say(f"{_name(source)}: {picture.damage}; the picture is of {whole}")
        elif picture.stages < min(asked, len(header.lengths)):
            _say(f"{_name(source)}: cut short: {there}")
        elif asked > len(header.lengths):
            _say(f"{_name(source)}: no stage {asked} in it: the picture is of {there}")
        if target:
            _write(target, _as_bytes(picture.image, target))

    return _each(pairs, work, options.force)


def truncate(options: argparse.Namespace) -> int:
    """Files to shorter ones."""

    def work(source: Path, target: Path) -> None:
        limits = {name: getattr(options, name) for name in ("stages", "max_bytes", "bpp")}
        data = _read(source)
        cut = truncate_data(data, **limits)
        _write(target, cut)
        if len(cut) == len(data):
            stages = len(_header(data, 1 << 70)[0].lengths)
            _say(
                f"{_name(source)}: not shortened: it has {len(data)} bytes, of {stages} "
                "stages, which is within the limit; give a smaller one"
            )

    if options.stages is options.max_bytes is options.bpp is None:
        raise UsageError("expected a limit: --stages, --max-bytes or --bpp")
    return _each(_pairs(options.paths, (FILE,), FILE), work, options.force)


def info(options: argparse.Namespace) -> int:
    """What headers tell."""

    def work(source: Path, _: None) -> None:
        data = _read(source)
        header, start = _header(data, 1 << 70)
        width, height = header.size
        colours = {"L": "grayscale", "P": "palette", "1": "black and white"}
        print(f"{_name(source)}: version {data[len(MAGIC)]}, {len(data)} bytes")
        print(f"  picture  {width} x {height}, {colours.get(header.colour, 'RGB')}", end="")
        print(f", orientation {header.orientation}" * (header.orientation != 1), end="")
        profile = len(header.icc_profile)
        print(f", ICC profile of {profile} bytes" * (profile > 0))
        print(f"  model    {header.model}, digest {header.digest.hex()}, ", end="")
        print(f"{header.arithmetic}, seed {header.seed}")
        print(f"  header   {start} bytes")
        end = start
        for stage, length in enumerate(header.lengths, 1):
            share = min(max(len(data) - end, 0) / max(length, 1), 1)
            end += length
            there = "" if share == 1 else f", {share:.0%} of it there"
            bpp = 8 * end / (width * height)
            print(f"  stage {stage}  {length} bytes, {bpp:.3f} bpp up to here{there}")
        if len(data) > end:
            print(f"  and {len(data) - end} bytes that do not belong to it")

    return _each([(s, None) for s in _inputs(options.paths, (FILE,))], work)


def verify(options: argparse.Namespace) -> int:
    """Decode files, and say how much of them is whole."""
    inputs = _inputs(options.paths, (FILE,))
    missing: dict[str, FileNotFoundError] = {}

    def work(source: Path, _: None) -> None:
        data = _read(source)
        header, start = _header(data, options.max_pixels)
        _prepare_network(options)
        with _progress(source) as progress:
            decoder = _decoder(options, header, data[:start], missing, progress)
            assert decoder.net is not None
            try:
                decoder.feed(data[start:])
                if decoder.stages == decoder.net.n_stages:
                    decoder.picture()
            except DamagedStringError as error:
                raise _with_remedy(error, header, decoder.stages) from error
        end = start + sum(header.lengths[: decoder.stages])
        share = (len(data) - end) / header.lengths[decoder.stages] if data[end:] else 0
        exact = "exact, " if decoder.stages == decoder.net.n_stages else ""
        unchecked = " that no checksum covers" if share else ""
        there = _stages(header, decoder.stages, share)
        print(f"{_name(source)}: {exact}{there}{unchecked}", flush=True)

    return _each([(source, None) for source in inputs], work)


# ---- the network ----


def _prepare_network(options: argparse.Namespace) -> None:
    """Import PyTorch, and have it use these threads and this device.

    Raises:
        Failure: there is no such device.
    """
    import torch

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        torch.zeros(1, device=options.device).item()
    except Exception as error:  # of many kinds
        raise Failure(
            f"PyTorch cannot use the device {options.device!r} here: leave --device out to "
            "run on the CPU"
        ) from error


def _decoder(
    options: argparse.Namespace,
    header: Header,
    start: bytes,
    missing: dict[str, FileNotFoundError],
    progress: Progress,
) -> "StreamingDecoder":
    """A decoder that has seen the header. It does not seek a missing model once more."""
    from .files.decoding import StreamingDecoder

    name = options.model or header.model
    if name in missing:
        raise missing[name]
    decoder = StreamingDecoder(options.model, options.device, options.max_pixels, progress)
    try:
        decoder.feed(start)
    except FileNotFoundError as error:
        missing[name] = error
        raise
    return decoder


def _with_remedy(
    error: DamagedStringError, header: Header, stages: int
) -> DamagedStringError:
    if not stages:
        return error
    whole = _stages(header, stages, 0)
    return DamagedStringError(f"{error}; uqdm decode --partial keeps {whole}")


# ---- inputs and outputs ----


def _inputs(paths: Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """The files that are named, and those in folders that are."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = [p for p in sorted(path.iterdir()) if p.suffix.lower() in suffixes]
            if not inside:
                raise UsageError(f"no {' or '.join(suffixes)} in the folder {path}")
            found += inside
        else:
            found.append(path)
    return found


def _pairs(
    paths: Sequence[str], suffixes: Sequence[str], new: str
) -> list[tuple[Path, Path | None]]:
    """Every input with its output."""
    if len(paths) < 2:
        raise UsageError("expected an input and an output")
    inputs, output = _inputs(paths[:-1], suffixes), Path(paths[-1])
    into_folder = len(paths) > 2 or Path(paths[0]).is_dir()
    suffix = output.suffix.lower()
    if not into_folder and not output.is_dir():
        if new == FILE and suffix in NOT_OURS:
            raise UsageError(f"{output} is the name of a picture: expected one in {FILE}")
        if new != FILE:
            _picture_format(output)
        return [(inputs[0], output)]
    if STANDARD in inputs or output == STANDARD:
        raise UsageError("standard input or output goes with one file")
    if output.exists() and not output.is_dir():
        raise UsageError(f"of several inputs, the output is a folder: {output} is none")
    if not output.exists() and suffix in (FILE, *NOT_OURS):
        raise UsageError(
            f"of several inputs, the output is a folder: {output} is the name of a file"
        )
    output.mkdir(parents=True, exist_ok=True)
    return [(source, output / (source.stem + new)) for source in inputs]


def _each(
    pairs: Sequence[tuple[Path, Path | None]],
    work: Callable[..., None],
    force: bool = False,
) -> int:
    """Work on every input; an error in one does not stop the others.

    What is wrong with the names of inputs and outputs is told of all before any work.
    """
    targets: set[Path] = set()

    def check(source: Path, target: Path | None) -> None:
        if source != STANDARD:
            source.stat()
        if target in targets:
            raise ValueError(f"another input goes to {target}")
        if target is not None and target != STANDARD:
            targets.add(target)
            _check_target(target, force)

    def succeeds(step: Callable[..., None], source: Path, target: Path | None) -> bool:
        try:
            step(source, target)
        except (BrokenPipeError, Failure):
            raise
        except Exception as error:  # Pillow's and PyTorch's are of many kinds
            _say(f"{_name(source)}: {_told(error)}")
            return False
        return True

    checked = [pair for pair in pairs if succeeds(check, *pair)]
    done = [pair for pair in checked if succeeds(work, *pair)]
    return int(len(done) < len(pairs))


def _told(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        path = error.filename if error.filename is not None else ""
        return f"{error.strerror}{': ' * bool(path)}{path}"
    if isinstance(error, (ValueError, OSError, Failure)) and text:
        return text
    return f"{type(error).__name__}: {text}"


def _read(source: Path, limit: int = -1) -> bytes:
    if source == STANDARD:
        return sys.stdin.buffer.read(limit)
    with source.open("rb") as file:
        return file.read(limit)


def _check_target(target: Path, force: bool) -> None:
    if target.is_dir():
        raise ValueError(f"{target} is a folder: expected the name of a file")
    if target.exists():
        if target.is_file() and not force:
            raise ValueError(f"{target} exists: give --force to replace it")
    elif not target.parent.is_dir():
        raise ValueError(f"there is no folder {target.parent}: make it first")


def _write(target: Path, data: bytes) -> None:
    if target == STANDARD:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    with write_atomically(target) as file:
        file.write(data)


def _picture_format(target: Path) -> str:
    from PIL import Image

    suffix = ".png" if target == STANDARD else target.suffix.lower()
    Image.init()
    name = Image.registered_extensions().get(suffix, "")
    if name not in Image.SAVE:
        raise UsageError(f"no picture can be written as {target.name}: try .png")
    return name


def _as_bytes(image: "Image.Image", target: Path) -> bytes:
    """A picture file, with the ICC profile and the orientation."""
    options: dict[str, object] = {}
    if exif := image.getexif():
        options["exif"] = exif
    if profile := image.info.get("icc_profile"):
        options["icc_profile"] = profile
    file = io.BytesIO()
    image.save(file, _picture_format(target), **options)
    return file.getvalue()


def _header(data: bytes, max_pixels: int) -> tuple[Header, int]:
    found = parse_header(data, max_pixels)
    if found is None:
        raise ends_in_header(len(data))
    return found


def _pieces(header: Header, data: bytes, start: int) -> Iterator[bytes]:
    """What is there of every stage's string, and then what is there besides."""
    ends = itertools.accumulate(header.lengths, initial=start)
    for begin, end in itertools.pairwise([*ends, len(data)]):
        if data[begin:end]:
            yield data[begin:end]


def _stages(header: Header, stages: int, share: float) -> str:
    text = f"{stages} of {len(header.lengths)} stages"
    if share:
        name = ORDINALS[stages] if stages < len(ORDINALS) else f"{stages + 1}th"
        text += f" and {share:.0%} of the {name}"
    return text


def _name(path: Path) -> str:
    return "standard input" if path == STANDARD else str(path)


def _stem(path: Path) -> str:
    return "picture" if path == STANDARD else path.stem


# ---- the terminal ----


def _say(message: str) -> None:
    print(f"uqdm: {message}", file=sys.stderr, flush=True)


@contextmanager
def _notes(source: Path, category: type[Warning]) -> Iterator[None]:
    """Warnings of a category become lines."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", category)
        yield
    for warning in caught:
        _say(f"{_name(source)}: {warning.message}")


@contextmanager
def _progress(source: Path) -> Iterator[Progress]:
    """A bar on a terminal."""
    from tqdm import tqdm

    with tqdm(
        total=1,
        desc=_name(source),
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
        disable=None,
        leave=False,
    ) as bar:

        def show(share: float) -> None:
            bar.update(share - bar.n)

        yield show
        show(1)  # fewer passes may have been enough
        bar.refresh()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, got {text}")
    return int(text)


class Parser(argparse.ArgumentParser):
    """It tells of errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(
            2, f"{self.prog}: {message}; {self.prog} --help tells what can be given\n"
        )


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="uqdm",
        description="Pictures in progressive .uqdm files, any beginning of which decodes.",
        epilog=EPILOG,
        formatter_class=raw,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(run: Callable[[argparse.Namespace], int], text: str, paths: str):  # type: ignore[no-untyped-def]
        part = commands.add_parser(
            run.__name__,
            help=text,
            description=text + ".",
            epilog=EPILOG,
            formatter_class=raw,
        )
        part.add_argument("paths", nargs="+", metavar="PATH", help=paths)
        part.set_defaults(run=run)
        return part

    def add_network(part: argparse.ArgumentParser, model: str) -> None:
        part.add_argument("--model", help=model)
        part.add_argument("--device", default="cpu", help="cpu (default), cuda ...")
        part.add_argument("--threads", type=_positive, help="threads of PyTorch")
        part.add_argument(
            "--max-pixels",
            type=_positive,
            default=MAX_PIXELS,
            metavar="N",
            help=f"refuse larger pictures (default {MAX_PIXELS})",
        )

    def add_limits(part: argparse.ArgumentParser, *names: str) -> None:
        if "stages" in names:
            part.add_argument(
                "--stages",
                type=_positive,
                metavar="N",
                help="stages at most, 1 (coarsest) and up; all of them are exact",
            )
        if "max_bytes" in names:
            part.add_argument(
                "--max-bytes", type=_positive, metavar="N", help="bytes of a file at most"
            )
        if "bpp" in names:
            part.add_argument(
                "--bpp", type=float, metavar="BITS", help="bits per pixel at most"
            )

    def add_force(part: argparse.ArgumentParser) -> None:
        part.add_argument("--force", action="store_true", help="replace existing files")

    two = "inputs, files or folders, and last the output"
    checkpoint = "the checkpoint, of files of a model that is not in the zoo"
    part = command(encode, "make .uqdm files of pictures", two)
    add_limits(part, "stages", "max_bytes", "bpp")
    part.add_argument(
        "--min-psnr", type=float, metavar="DB", help="end where the picture is that good"
    )
    part.add_argument(
        "--arithmetic",
        choices=("float64", "float32"),
        help="of the published models: float64 (default) decodes with other threads and "
        "kernels; float32 is faster, and decodes on this machine with the same settings",
    )
    part.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    add_network(part, "a model of the zoo, or the path of a checkpoint")
    add_force(part)

    part = command(decode, "make pictures of .uqdm files, whole or cut short", two)
    add_limits(part, "stages", "max_bytes")
    part.add_argument(
        "--reconstruction",
        choices=("denoise", "ancestral", "flow_based"),
        default="denoise",
        help="how a picture is made of what is not exact yet",
    )
    part.add_argument(
        "--progressive",
        metavar="DIR",
        help="write the picture of every stage into this folder; needs no other output",
    )
    part.add_argument(
        "--partial",
        action="store_true",
        help="of a damaged file, keep the stages before the damage",
    )
    add_network(part, checkpoint)
    add_force(part)

    part = command(truncate, "cut .uqdm files to coarser pictures, without a network", two)
    add_limits(part, "stages", "max_bytes", "bpp")
    add_force(part)

    part = command(info, "tell what .uqdm files hold", "files or folders")
    part = command(verify, "decode .uqdm files and check them", "files or folders")
    add_network(part, checkpoint)
    return parser
