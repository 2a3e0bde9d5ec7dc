"""The command ``uqdm truncate``, for one input."""

from dataclasses import dataclass
from pathlib import Path

from ..files.rate import truncate
from .inputs import read_file
from .outputs import write
from .paths import NO_LIMIT
from .progress import Show
from .stage_text import parse_file
from .task import Report, WithoutNetwork

__all__ = ["Truncate"]


# ---- without a network ----


@dataclass(frozen=True)
class Truncate(WithoutNetwork):
    """A file to a shorter one; the limits are those of :func:`..files.rate.truncate`."""

    stages: int | None
    max_bytes: int | None
    bpp: float | None
    force: bool = False

    def __call__(self, source: Path, target: Path | None, show: Show) -> Report:
        assert target is not None
        data = read_file(source)
        limits = {"stages": self.stages, "max_bytes": self.max_bytes, "bpp": self.bpp}
        cut = truncate(data, **limits)  # type: ignore[arg-type]
        write(target, cut, self.force)
        if len(cut) < len(data):
            return Report()
        stages = len(parse_file(data, NO_LIMIT)[0].lengths)
        note = (
            f"not shortened: it has {len(data)} bytes, of {stages} stages, which is within "
            "the limit; give a smaller one"
        )
        return Report(notes=[note])
