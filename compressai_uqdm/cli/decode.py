"""The commands ``uqdm decode`` and ``uqdm verify``, for one input."""

import math

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DamagedStringError
from ..files.header import Header
from ..files.rate import truncate, whole_stages
from .encode import encode_picture
from .info import _segments
from .inputs import read_file, read_header
from .network import Network
from .outputs import as_bytes, not_kept, write
from .paths import check_target
from .progress import Show
from .stage_text import parse_file, stage_range, stages_text
from .task import Report
from .terminal import STANDARD, name_of
from .timing import is_quick, tile_side, timed

if TYPE_CHECKING:
    from ..files.decoding import StreamingDecoder

__all__ = ["Decode", "Verify"]


# ---- decoding ----


@dataclass(frozen=True)
class _Decoding:
    """What tasks share that decode."""

    network: Network
    missing: dict[str, FileNotFoundError] = field(default_factory=dict)

    def decoder(self, header: Header, start: bytes, show: Any) -> "StreamingDecoder":
        """One that has seen the header. It does not seek a missing model once more."""
        network = self.network
        name = network.model or header.model
        if name in self.missing:
            raise self.missing[name]
        device = network.prepare()
        from ..files.decoding import StreamingDecoder

        limits = network.max_pixels, show, network.max_metadata
        decoder = StreamingDecoder(network.model, device, *limits)
        try:
            decoder.feed(start)
        except FileNotFoundError as error:
            self.missing[name] = error
            raise
        return decoder

    def pixels(self, source: Path) -> int:
        try:
            header, _, _ = read_header(source, self.network.max_pixels)
        except Exception:  # the work will tell
            return 0
        return math.prod(header.size) if header.storage == "stages" else 0

    def pixel_seconds(self, source: Path, is_long: Callable[[float], bool]) -> float:
        device = self.network.prepare()
        import numpy as np

        from PIL import Image

        from ..files.decoding import decode
        from ..files.model import codec_of

        header, _, _ = read_header(source)
        codec = codec_of(header, self.network.model, device)
        if is_quick(codec, is_long):
            return 0.0
        side = tile_side(codec)
        levels = np.random.default_rng(0).integers(96, 160, (side, side, 3), np.uint8)
        options: dict[str, Any] = {
            "arithmetic": header.arithmetic,
            "stages": len(header.lengths),
        }
        data = encode_picture(Image.fromarray(levels), codec, **options).data
        return timed(lambda: decode(data, model=codec), side, is_long)

    def speedup_hints(self) -> list[str]:
        return []


@dataclass(frozen=True)
class Decode(_Decoding):
    """A file to a picture.

    Args:
        stages: number of stages to decode at most.
        max_bytes: bytes to read at most.
        reconstruction: how a picture is made of what is not exact.
        progressive: folder for the pictures of all stages.
        partial: of a damaged file, keep what comes before the damage.
        force: replace pictures of stages that exist.
    """

    stages: int | None = None
    max_bytes: int | None = None
    reconstruction: Any = "denoise"
    progressive: Path | None = None
    partial: bool = False
    force: bool = False

    def __call__(self, source: Path, target: Path | None, show: Show) -> Report:
        data = read_file(source, self.max_bytes)
        if self.stages is not None:
            data = truncate(data, stages=self.stages)
        header, start = parse_file(data, self.network.max_pixels)
        pieces = list(_segments(header, data, start))
        shown = self._stage_paths(source, header, pieces)
        self.network.prepare()
        with show() as progress:
            decoder = self.decoder(header, data[:start], progress)
            known = decoder.net.reconstructions if decoder.net else ()
            if decoder.net and self.reconstruction not in known:
                raise ValueError(
                    f"{header.model} has only --reconstruction {' or '.join(known)}, not "
                    f"{self.reconstruction}: leave the option out"
                )
            try:
                for piece, path in zip(pieces, shown):
                    decoder.feed(piece)
                    if path:
                        picture = decoder.picture(self.reconstruction)
                        write(path, as_bytes(picture.image, path), self.force)
                picture = decoder.picture(self.reconstruction)
            except DamagedStringError as error:
                if not self.partial:
                    raise _with_hint(error, header, decoder.stages) from error
                picture = decoder.picture(self.reconstruction)
        notes = []
        if target:
            file = as_bytes(picture.image, target)
            write(target, file, self.force)
            if lost := not_kept(picture.image, file, picture.exact):
                notes.append(f"{target} {lost}; .png does")
        there = stages_text(header, len(data) - start)
        asked, n_stages = self.stages or len(header.lengths), len(header.lengths)
        if picture.damage:
            whole = stage_range(header, picture.stages, 0)
            notes.append(f"{picture.damage}; the picture is of {whole}")
        elif picture.stages < min(asked, n_stages):
            notes.append(there)
        elif asked > n_stages:
            notes.append(f"no stage {asked} in it: the picture is of {there}")
        return Report(notes=notes)

    def _stage_paths(
        self, source: Path, header: Header, pieces: list[bytes]
    ) -> list[Path | None]:
        if self.progressive is None:
            return [None] * len(pieces)
        self.progressive.mkdir(parents=True, exist_ok=True)
        stem = "picture" if source == STANDARD else source.stem
        paths: list[Path | None] = [None] * len(pieces)
        for i, (piece, length) in enumerate(zip(pieces, header.lengths)):
            cut = "-cut" if len(piece) < length else ""
            path = self.progressive / f"{stem}.stage{i + 1}{cut}.png"
            check_target(path, self.force)
            paths[i] = path
        return paths


@dataclass(frozen=True)
class Verify(_Decoding):
    """Decode a file, and say whether it is whole."""

    def __call__(self, source: Path, target: Path | None, show: Show) -> Report:
        data = read_file(source)
        header, start = parse_file(data, self.network.max_pixels)
        self.network.prepare()
        with show() as progress:
            decoder = self.decoder(header, data[:start], progress)
            try:
                decoder.feed(data[start:])
                if decoder.exact:
                    decoder.picture()
            except DamagedStringError as error:
                raise _with_hint(error, header, decoder.stages) from error
        n_bytes = len(data) - start
        exact = "exact, " if decoder.exact else ""
        _, share = whole_stages(header.lengths, n_bytes)
        unchecked = " that no checksum covers" if share else ""
        there = stages_text(header, n_bytes)
        if n_bytes < header.payload_bytes:
            return Report(notes=[f"{there}{unchecked}"], failed=True)
        return Report(f"{name_of(source)}: {exact}{there}{unchecked}\n")


def _with_hint(
    error: DamagedStringError, header: Header, stages: int
) -> DamagedStringError:
    if not stages:
        return error
    whole = stage_range(header, stages, 0)
    return DamagedStringError(f"{error}; uqdm decode --partial keeps {whole}")
