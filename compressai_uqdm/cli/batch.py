"""Work on many inputs: in this process, in several, and on several machines."""

import multiprocessing
import os

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ..atomic import descriptor_of
from .launched import launched, wait_for_the_others
from .paths import Pair, check_source, check_target, real_path
from .progress import Bars, Show, bar, duration
from .task import Task
from .terminal import STANDARD, Failure, format_error, name_of, print_error
from .timing import TILE
from .workers import (
    Outcome,
    attempt,
    measure,
    measure_there,
    start_worker,
    starts_processes,
    work_there,
)

__all__ = ["Interrupted", "work_on_all"]

LONG = 60.0
"""Seconds of work that are told of before it begins."""

TILES = 32
"""The work is measured where it is at least so many times a tile."""

POLL = 0.2
"""Seconds between looks at what other processes have done."""


class Interrupted(KeyboardInterrupt):
    """The process is to end, by SIGTERM."""


def work_on_all(
    task: Task, pairs: Sequence[Pair], force: bool = False, jobs: int = 1
) -> int:
    """Work on every input; an error in one does not stop the others.

    What is wrong with the names of inputs and outputs is told of all before any work.
    Where this is one of several processes that a launcher has started, it takes its share
    of the inputs, and ends when all have done theirs.

    Args:
        task: what is done with an input.
        pairs: inputs and outputs.
        force: replace outputs that exist.
        jobs: number of processes to work in.

    Returns:
        the exit code, 0 or 1.

    Raises:
        Failure: something is missing that every input needs.
        OSError: standard output cannot be written.
    """
    rank, processes = launched()
    todo, failed = _check(pairs, force, rank, processes)
    sources = [source for source, _ in todo]
    pixels = [task.pixels(source) if _is_file(source) else 0 for source in sources]
    if not all(map(_is_file, sources)):
        jobs = 1  # other processes may not have the pipe
    work = _Work(task, todo, pixels, min(jobs, len(todo)), rank == 0)
    lost: OSError | None = None
    for source, outcome in work.outcomes():
        try:
            if outcome.report.text and lost is None:
                click.echo(outcome.report.text, nl=False)
        except OSError as error:
            lost = error
            if all(target is None for _, target in todo):
                break  # the text was all that was wanted
        for note in outcome.report.notes:
            print_error(f"{name_of(source)}: {note}")
        failed += outcome.failed or outcome.report.failed
    if lost:
        raise OSError(lost.errno, lost.strerror, "standard output") from lost
    code = int(failed > 0)
    return code if processes == 1 else wait_for_the_others(code)


def _is_file(source: Path) -> bool:
    return source != STANDARD and descriptor_of(source) is None and source.is_file()


def _check(
    pairs: Sequence[Pair], force: bool, rank: int, processes: int
) -> tuple[list[Pair], int]:
    """The inputs of this process that can be worked on, and how many cannot."""
    targets: set[str] = set()
    todo, failed = [], 0
    for i, (source, target) in enumerate(pairs):
        ours = i % processes == rank
        try:
            check_source(source)
            real = None if target is None else real_path(target)
            if real in targets:
                raise ValueError(
                    f"another input goes to {target} too: rename one, or work on it alone"
                )
            if target is not None and real is not None:
                targets.add(real)
                if ours:  # others may be at work on theirs
                    check_target(target, force)
        except (OSError, ValueError) as error:
            if ours:
                print_error(f"{name_of(source)}: {format_error(error, source)}")
                failed += 1
        else:
            if ours:
                todo.append((source, target))
    return todo, failed


@dataclass(frozen=True)
class _Work:
    """Work that is to be done, and how."""

    task: Task
    pairs: Sequence[Pair]
    pixels: Sequence[int]
    jobs: int
    speaks: bool

    def outcomes(self) -> Iterator[tuple[Path, Outcome]]:
        return self._in_processes() if self.jobs > 1 else self._here()

    def _here(self) -> Iterator[tuple[Path, Outcome]]:
        if self.is_measured:
            self._announce(measure(self.task, self.pairs[self._example][0], self.is_long))
        bars = Bars([max(n, 1) for n in self.pixels], self.speaks)
        for i, (source, target) in enumerate(self.pairs):
            show = _bound(bars, i, source)
            yield source, attempt(self.task, source, target, show)

    def _in_processes(self) -> Iterator[tuple[Path, Outcome]]:
        context = multiprocessing.get_context("spawn")
        shares = context.Array("d", len(self.pairs), lock=False)
        others = multiprocessing.active_children()
        pool = ProcessPoolExecutor(self.jobs, context, start_worker, (self.task, shares))
        try:
            with starts_processes():
                if self.is_measured:
                    source = self.pairs[self._example][0]
                    asked = pool.submit(measure_there, source, self._long_pixel)
                    self._announce(asked.result())
                futures = {
                    pool.submit(work_there, i, *pair): pair[0]
                    for i, pair in enumerate(self.pairs)
                }
            yield from self._as_they_come(futures, shares)
        except BrokenProcessPool as error:
            raise Failure(
                "a process ended in the middle of its work, as for want of memory: give a "
                "smaller number of --jobs"
            ) from error
        finally:
            for child in multiprocessing.active_children():
                if child not in others:
                    child.terminate()
            pool.shutdown(cancel_futures=True)

    def _as_they_come(
        self, futures: dict[Future[Outcome], Path], shares: Any
    ) -> Iterator[tuple[Path, Outcome]]:
        weights = [max(n, 1) for n in self.pixels]
        waiting: set[Future[Outcome]] = set(futures)
        with bar(f"{len(weights)} files in {self.jobs} processes") as shown:
            while waiting:
                done, waiting = wait(waiting, POLL, FIRST_COMPLETED)
                share = sum(s * w for s, w in zip(shares, weights)) / sum(weights)
                count = len(weights) - len(waiting)
                shown.set_postfix_str(f"{count} done", refresh=False)
                shown.update(share - shown.n)
                with shown.external_write_mode():
                    for future in sorted(done, key=list(futures).index):
                        yield futures[future], future.result()

    # ---- how long it takes ----

    @property
    def is_measured(self) -> bool:
        """Whether it may be long enough to measure before."""
        return self.speaks and sum(self.pixels) >= TILES * TILE**2

    @property
    def _example(self) -> int:
        return max(range(len(self.pixels)), key=self.pixels.__getitem__)

    @property
    def _long_pixel(self) -> float:
        return LONG * self.jobs / sum(self.pixels)

    def is_long(self, pixel_seconds: float) -> bool:
        """Whether all takes long if a pixel takes so many seconds."""
        return pixel_seconds >= self._long_pixel

    def _announce(self, measured: tuple[float, list[str]]) -> None:
        pixel_seconds, speedup_hints = measured
        if not self.is_long(pixel_seconds):
            return
        count, cores = len(self.pairs), os.cpu_count() or 1
        if count > 1 and self.jobs < min(cores, count) and launched()[1] == 1:
            speedup_hints = [f"--jobs {min(cores, count)}", *speedup_hints]
        seconds = pixel_seconds * sum(self.pixels) / self.jobs
        what = f"{count} pictures" if count > 1 else name_of(self.pairs[0][0])
        less = f"; less with {' or '.join(speedup_hints)}" if speedup_hints else ""
        print_error(
            f"{what}, {sum(self.pixels) / 1e6:.1f} million pixels: about "
            f"{duration(seconds)}{less}"
        )


def _bound(bars: Bars, i: int, source: Path) -> Show:
    return lambda: bars.of(i, source)
