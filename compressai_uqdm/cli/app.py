"""What can be given on the command line."""

import os
import signal
import sys
import threading
import warnings

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from click import UsageError

from .. import __version__
from ..checks import MAX_METADATA, MAX_PIXELS
from .batch import Interrupted, work_on_all
from .decode import Decode, Verify
from .demo import FOLDER, demonstrate
from .encode import Encode
from .info import Info
from .network import Network
from .paths import FILE, PICTURES, find_inputs, find_pairs
from .streams import prepare_streams
from .terminal import Failure, format_error, print_error
from .truncate import Truncate

__all__ = ["main", "run"]

EPILOG = """\b
"-" is standard input or output. Of several inputs, or of a folder (its
pictures or .uqdm files, not those of folders in it), the output is a folder.

\b
Exit codes: 0, all went well; 1, something failed, and standard error has a
line for each input that did, or one for all; 2, the command line is wrong;
130, interrupted (143 by SIGTERM).
"""
SEVERAL_EPILOG = (
    EPILOG
    + """
\b
Processes that torchrun or accelerate launch starts share the inputs:
torchrun --nproc-per-node 2 -m compressai_uqdm encode photographs coded
"""
)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``uqdm`` with these arguments, or those of the process.

    Returns:
        the exit code, 0, 1, 130 or 143.

    Raises:
        SystemExit: with the exit code 2, if the arguments are wrong.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of libraries are not for users
    # the threads of PyTorch would wait for each other in a loop: on a busy machine, that
    # took two minutes in place of five seconds
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        code: int = uqdm.main(arguments, prog_name="uqdm", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
    except UsageError as error:
        name = error.ctx.command_path if error.ctx else "uqdm"
        message = " ".join(error.format_message().split()).removesuffix(".")
        print_error(f"{message}; {name} --help tells what can be given", name)
    except BrokenPipeError:  # whoever read our output has enough
        return 1
    except (Failure, OSError) as error:
        print_error(format_error(error))
        return 1
    else:
        return code
    raise SystemExit(2)


def run() -> NoReturn:
    """The program: :func:`main` for the process, which then ends at once."""
    prepare_streams()
    try:
        code = main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(bool(error.code))
    # all of ours is flushed already: this is what a library may have printed
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            if not code:
                print_error(format_error(error))
            code = code or 1
    # to free the libraries before, object by object, takes a fifth of a second
    os._exit(code)


class Commands(click.Group):
    """Commands, whose errors become lines and exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _ended_by_sigterm():
                return super().invoke(ctx)
        except UsageError as error:
            if error.ctx is None:  # click's parser leaves out which command it is of
                command = self.commands[str(ctx.invoked_subcommand)]
                error.ctx = click.Context(command, ctx, ctx.invoked_subcommand)
            raise
        except Interrupted:
            print_error("terminated")
            return 128 + signal.SIGTERM
        except KeyboardInterrupt:
            print_error("interrupted")
            return 130  # as of a shell's commands that SIGINT ended


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends what is under way like Ctrl-C, with nothing half-written."""

    def stop(kind: int, frame: FrameType | None) -> None:
        signal.signal(kind, signal.SIG_IGN)
        raise Interrupted

    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@click.group(
    cls=Commands,
    no_args_is_help=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__)
def uqdm() -> None:
    """Pictures in progressive .uqdm files, any beginning of which decodes."""


# ---- options that commands share ----

POSITIVE = click.IntRange(min=1)
MORE_THAN_NOTHING = click.FloatRange(min=0, min_open=True)


def together(*decorators: Decorator) -> Decorator:
    """Several options, in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


class Name(click.Path):
    """The name of a file or a folder.

    One that cannot be read is found with the others, which it must not stop. An empty one,
    as of a variable of the shell that is not set, would be that of the current folder.
    """

    def __init__(self, path_type: type = Path, **options: Any):
        super().__init__(path_type=path_type, readable=False, **options)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        if not os.fspath(value):
            self.fail("expected a name, got an empty one", param, ctx)
        return super().convert(value, param, ctx)


def paths(metavar: str, path_type: type = Path) -> Decorator:
    kind = Name(path_type, allow_dash=True)
    return click.argument("paths", nargs=-1, required=True, metavar=metavar, type=kind)


in_out = paths("INPUT... OUTPUT", str)  # a slash at its end says that it is a folder
stages = click.option(
    *("--stages", "--stage", "stages"),
    type=POSITIVE,
    metavar="N",
    help="Stages at most, 1 (coarsest) and up; all of them are exact.",
)
max_bytes = click.option(
    "--max-bytes", type=POSITIVE, metavar="N", help="Bytes of a file at most."
)
bpp = click.option(
    "--bpp", type=MORE_THAN_NOTHING, metavar="BITS", help="Bits per pixel at most."
)
force = click.option("--force", is_flag=True, help="Replace existing files.")
jobs = click.option(
    "--jobs",
    type=POSITIVE,
    default=1,
    metavar="N",
    show_default=True,
    help="Work on several inputs in so many processes; files are the same.",
)


def network(model: str) -> Decorator:
    """Options of commands that run a network; they become ``network``."""
    options = together(
        click.option("--model", metavar="MODEL", help=model),
        click.option(
            "--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 ..."
        ),
        click.option(
            "--threads",
            type=click.IntRange(1, 1024),  # far more than a system allows end in a crash
            metavar="N",
            help="Threads of PyTorch in a process.",
        ),
        click.option(
            "--max-pixels",
            type=POSITIVE,
            default=MAX_PIXELS,
            show_default=True,
            metavar="N",
            help="Refuse larger pictures.",
        ),
        click.option(
            "--max-metadata",
            type=POSITIVE,
            default=MAX_METADATA,
            show_default=True,
            metavar="N",
            help="Refuse more bytes of ICC profile and EXIF.",
        ),
    )

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(
            model: str | None,
            device: str,
            threads: int | None,
            max_pixels: int,
            max_metadata: int,
            **others: Any,
        ) -> Any:
            processes = others.get("jobs", 1)
            if threads is None and processes > 1 and "OMP_NUM_THREADS" not in os.environ:
                threads = max((os.cpu_count() or 1) // processes, 1)
            network = Network(model, device, threads, max_pixels, max_metadata)
            return function(network=network, **others)

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        return options(run)

    return decorate


MODEL = (
    "A model of the zoo, the path of a checkpoint, or the name of a repository of the "
    "Hugging Face Hub"
)
model_of_files = network(f"{MODEL}: of files whose model is not in the zoo.")


# ---- commands ----


@uqdm.command(epilog=SEVERAL_EPILOG)
@in_out
@stages
@max_bytes
@bpp
@click.option(
    "--min-psnr",
    type=MORE_THAN_NOTHING,
    metavar="DB",
    help="End where the picture is that good.",
)
@click.option(
    "--arithmetic",
    type=click.Choice(["float64", "float32"]),
    help="Of the published models: float64 (default) decodes with other threads and "
    "kernels; float32 is faster, and decodes on this machine with the same settings.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, (1 << 32) - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Seed of the noise.",
)
@network(f"{MODEL}.")
@jobs
@force
def encode(
    paths: tuple[str, ...], network: Network, jobs: int, force: bool, **options: Any
) -> int:
    """Make .uqdm files of pictures."""
    return work_on_all(
        Encode(network, options, force), find_pairs(paths, PICTURES, FILE), force, jobs
    )


@uqdm.command(epilog=SEVERAL_EPILOG)
@in_out
@stages
@max_bytes
@click.option(
    "--reconstruction",
    type=click.Choice(["denoise", "ancestral", "flow_based"]),
    default="denoise",
    show_default=True,
    help="How a picture is made of what is not exact yet.",
)
@click.option(
    "--progressive",
    type=Name(file_okay=False),
    metavar="DIR",
    help="Write the picture of every stage into this folder; needs no other output.",
)
@click.option(
    "--partial", is_flag=True, help="Of a damaged file, keep the stages before the damage."
)
@model_of_files
@jobs
@force
def decode(paths: tuple[str, ...], jobs: int, force: bool, **options: Any) -> int:
    """Make pictures of .uqdm files, whole or cut short."""
    if options["progressive"] and len(paths) == 1:
        pairs = [(source, None) for source in find_inputs([Path(paths[0])], (FILE,))]
        return work_on_all(Decode(force=force, **options), pairs, force, jobs)
    pairs_of_files = find_pairs(paths, (FILE,), ".png")
    return work_on_all(Decode(force=force, **options), pairs_of_files, force, jobs)


@uqdm.command(epilog=EPILOG)
@in_out
@stages
@max_bytes
@bpp
@force
def truncate(paths: tuple[str, ...], force: bool, **limits: Any) -> int:
    """Cut .uqdm files to coarser pictures, without a network."""
    if all(limit is None for limit in limits.values()):
        raise UsageError("expected a limit: --stages, --max-bytes or --bpp")
    pairs = find_pairs(paths, (FILE,), FILE)
    return work_on_all(Truncate(force=force, **limits), pairs, force)


@uqdm.command(epilog=EPILOG)
@paths("INPUT...")
def info(paths: tuple[Path, ...]) -> int:
    """Tell what .uqdm files hold."""
    if sys.stdout is None:
        raise Failure("standard output is closed: there is nowhere to print to")
    return work_on_all(Info(), [(s, None) for s in find_inputs(paths, (FILE,))])


@uqdm.command(epilog=SEVERAL_EPILOG)
@paths("INPUT...")
@model_of_files
@jobs
def verify(paths: tuple[Path, ...], network: Network, jobs: int) -> int:
    """Decode .uqdm files and check them."""
    pairs = [(source, None) for source in find_inputs(paths, (FILE,))]
    return work_on_all(Verify(network), pairs, jobs=jobs)


@uqdm.command()
@click.argument("photo", required=False, type=Name())
@click.option(
    "--output",
    type=Name(file_okay=False),
    metavar="DIR",
    help=f"Folder for what it writes, by default {FOLDER}/NAME.",
)
@network(f"{MODEL}.")
@force
def demo(photo: Path | None, **options: Any) -> int:
    """Show with a photograph what this is.

    Codes PHOTO, or one that comes with the package; writes the picture of every stage and
    a page with a slider through its bytes, and compares its size with that of other files.
    At a terminal with a display, a browser opens the page.
    """
    return demonstrate(photo, **options)
