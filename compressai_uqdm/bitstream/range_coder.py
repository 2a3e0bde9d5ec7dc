"""One continuous stream of range-coded symbols, cut into a segment per stage.

The range coder is constriction's: written in Rust, safe on any input, with 24-bit
models. A stream is cut at the end of every stage such that the words up to there decode
all stages before it, so a finished stream can be shortened to any stage.

A segment is the stage's 32-bit words, little-endian, and three bytes of a CRC-32 over what
they decode to and over them; it finds damage, and strings of another model.
"""

import zlib

from collections.abc import Sequence
from typing import Any, TypeAlias

import constriction
import numpy as np

from ..errors import DamagedStringError

__all__ = [
    "TruncatedStageDecoder",
    "StageDecoder",
    "StreamDecoder",
    "StreamEncoder",
    "check_strings",
]

Written: TypeAlias = constriction.stream.queue.RangeEncoder

_CRC_BYTES = 3
_WORD = np.dtype("<u4")
_AT_ONCE = 1 << 12  # symbols between two checks of the position
_categorical: Any = constriction.stream.model.Categorical(perfect=False)


def _crc_of_values(values: np.ndarray, stage: int) -> int:
    crc = stage
    for part in values:  # one by one, to bound memory
        crc = zlib.crc32(np.ascontiguousarray(part, "<i4").data, crc)
    return crc


def _checksum(words: bytes, crc_of_values: int) -> bytes:
    return zlib.crc32(words, crc_of_values).to_bytes(4, "little")[:_CRC_BYTES]


class StreamEncoder:
    """Range encoder of one picture.

    .. code-block:: python

        encoder = StreamEncoder()
        encoder.encode(symbols, weights)     # any number of times
        encoder.end_stage(decoded_values)    # once per stage
        strings = encoder.segments()         # list[bytes], one per stage
    """

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()
        self._ends: list[tuple[int, int, int]] = []
        self._crcs: list[int] = []

    def encode(self, symbols: np.ndarray, weights: np.ndarray) -> None:
        """Encode ``symbols[i]`` by the table ``weights[i]``.

        Args:
            symbols: integers in 0..n-1, ``[m]``.
            weights: tables as of :mod:`.bitstream.cdf`, ``[m, n]``.
        """
        if len(symbols):
            weights = np.ascontiguousarray(weights, np.float32)
            self._encoder.encode(symbols.astype(np.int32), _categorical, weights)

    def code_categorical(
        self, r: np.ndarray | None, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode symbols, ``[m]``: as of :class:`SymbolCoder`."""
        assert r is not None
        self.encode(r, weights)
        return r, np.ones(len(r), bool)

    def code_uniform(
        self, r: np.ndarray | None, count: int, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Likewise."""
        assert r is not None
        if count:
            model = constriction.stream.model.Uniform(size)
            self._encoder.encode(r.astype(np.int32), model)
        return r, np.ones(count, bool)

    def end_stage(self, values: np.ndarray) -> None:
        """Mark the end of a stage.

        Args:
            values: integers that the decoder will have at this point, for the checksum.
        """
        position, (lower, range_) = self._encoder.pos()
        self._ends.append((position, lower, range_))
        self._crcs.append(_crc_of_values(values, len(self._crcs)))

    def segments(self) -> list[bytes]:
        """The strings of all stages that ended, none of them empty."""
        stream = self._encoder.get_compressed()
        words = np.concatenate([stream, np.zeros(len(self._ends) + 2, np.uint32)])
        start, strings = 0, []
        for (end, lower, range_), crc in zip(self._ends, self._crcs):
            # The decoder takes missing words as zeros. One word past the position is
            # enough where the stream, so shortened, stays inside the coder's interval.
            shortened = (int(words[end]) << 32) - lower
            end += 1 if shortened % (1 << 64) < range_ else 2
            end = max(end, start + 1)
            segment = words[start:end].astype(_WORD).tobytes()
            strings.append(segment + _checksum(segment, crc))
            start = end
        return strings


class StreamDecoder:
    """Range decoder of one picture.

    Past the last word the range coder reads zeros, and zeros decode to symbols without end.
    So the decoder compares its position with the number of words every few symbols.

    Args:
        strings: the segments of the first stages, as :class:`StreamEncoder` made them.

    Attributes:
        written: the decoded symbols, encoded again; its position is the decoder's.

    Raises:
        DamagedStringError: a segment has a length that no segment has.
    """

    def __init__(self, strings: Sequence[bytes]) -> None:
        for stage, string in enumerate(strings):
            n = len(string) - _CRC_BYTES
            if n < 4 or n % 4:
                raise DamagedStringError(
                    f"string of stage {stage + 1} is damaged: no such string has "
                    f"{len(string)} bytes"
                )
        self._strings = strings
        stream = b"".join(string[:-_CRC_BYTES] for string in strings)
        words = np.frombuffer(stream, _WORD).astype(np.uint32)
        self._n_words = len(words)
        self._decoder = constriction.stream.queue.RangeDecoder(words)
        self._stage = 0
        self.written = Written()

    def decode(self, weights: np.ndarray) -> np.ndarray:
        """Decode one symbol, int32, for each table in ``weights``, ``[m, n]``."""
        return self._decode_all(_categorical, np.ascontiguousarray(weights, np.float32))

    def code_categorical(
        self, r: np.ndarray | None, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decode symbols; what is not there is 0: as of :class:`SymbolCoder`."""
        return _filled(self.decode(weights), len(weights))

    def code_uniform(
        self, r: np.ndarray | None, count: int, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Likewise."""
        model = constriction.stream.model.Uniform(size)
        return _filled(self._decode_all(model, count), count)

    def end_stage(self, values: np.ndarray) -> None:
        """Check what was decoded of a stage.

        Raises:
            DamagedStringError: it is not what was encoded.
        """
        string = self._strings[self._stage]
        crc = _crc_of_values(values, self._stage)
        if _checksum(string[:-_CRC_BYTES], crc) != string[-_CRC_BYTES:]:
            raise self._damaged()
        self._stage += 1

    def _decode_all(self, model: Any, tables: Any) -> np.ndarray:
        """Symbols by tables, or by a number of tables where all have the same."""
        found = [np.zeros(0, np.int32)]
        n = tables if isinstance(tables, int) else len(tables)
        for start in range(0, n, _AT_ONCE):
            m = min(_AT_ONCE, n - start)
            some = m if isinstance(tables, int) else tables[start : start + m]
            found.append(self._decode(model, some))
            if len(found[-1]) < m:  # the stream has ended
                break
        return np.concatenate(found)

    def _decode(self, model: Any, tables: Any) -> np.ndarray:
        try:
            symbols = self._decoder.decode(model, tables)
        except AssertionError as error:  # constriction's word for invalid data
            raise self._damaged() from error
        _write(self.written, symbols, model, tables)
        position, _ = self.written.pos()
        if position > self._n_words:  # an encoder is before the last word of its stage
            raise self._damaged()
        return symbols

    def _damaged(self) -> DamagedStringError:
        return DamagedStringError(
            f"string of stage {self._stage + 1} is damaged, or was made by another "
            "model, for another image size, with another seed or on another machine"
        )


def _filled(r: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.pad(r, (0, count - len(r))), np.arange(count) < len(r)


class StageDecoder(StreamDecoder):
    """Range decoder of one stage, of a picture whose later stages may be still to come.

    Args:
        strings: the segments of all stages up to this one.
        written: the stages before, encoded again.
    """

    def __init__(self, strings: Sequence[bytes], written: Written) -> None:
        super().__init__(strings)
        self.written = written.clone()
        self._decoder.seek(*written.pos())
        self._stage = len(strings) - 1


def _write(encoder: Written, symbols: np.ndarray, model: Any, tables: Any) -> None:
    # tables are a number of symbols where all have the same
    encoder.encode(symbols, model, *([] if isinstance(tables, int) else [tables]))


class TruncatedStageDecoder(StreamDecoder):
    """Range decoder of a stage of which only the beginning is there.

    It decodes with what is missing taken as zeros and as ones. As long as both agree, so
    would all that could be missing; at the first symbol on which they differ it ends, and
    from there on gives none.

    Args:
        strings: the segments of the stages before.
        written: as of :class:`StageDecoder`.
        cut: the beginning of the segment.

    Attributes:
        n_decoded: the number of symbols decoded.
    """

    def __init__(self, strings: Sequence[bytes], written: Written, cut: bytes) -> None:
        super().__init__(strings)
        stream = b"".join(string[:-_CRC_BYTES] for string in strings)
        # whole words: the checksum at a segment's end is none, and is left out
        stream += cut[: len(cut) // 4 * 4]
        self._pair = []
        for fill in (b"\0", b"\xff"):
            words = np.frombuffer(stream + fill * 16, _WORD).astype(np.uint32)
            self._pair.append(constriction.stream.queue.RangeDecoder(words))
        self.written = written.clone()
        self._seek()
        self._ended = False
        self.n_decoded = 0

    def end_stage(self, values: np.ndarray) -> None:
        """Nothing: the checksum is not there."""

    def _decode(self, model: Any, tables: Any) -> np.ndarray:
        if self._ended:
            return np.zeros(0, np.int32)
        try:
            least, most = (decoder.decode(model, tables) for decoder in self._pair)
        except AssertionError:  # one is where the encoder cannot have been
            self._seek()
            return np.concatenate(
                [self._decode(model, half) for half in self._halve(tables)]
            )
        differ = np.flatnonzero(least != most)
        if len(differ):
            self._ended = True
            least = least[: differ[0]]
        else:
            _write(self.written, least, model, tables)
        self.n_decoded += len(least)
        return least

    def _seek(self) -> None:
        for decoder in self._pair:
            decoder.seek(*self.written.pos())

    def _halve(self, tables: Any) -> list[Any]:
        n = tables if isinstance(tables, int) else len(tables)
        if n == 1:
            self._ended = True
        if isinstance(tables, int):
            return [n // 2, n - n // 2]
        return [tables[: n // 2], tables[n // 2 :]]


def check_strings(strings: Sequence[Sequence[bytes]], max_stages: int) -> int:
    """The batch size of ``strings[stage][image]``.

    Raises:
        ValueError: they are empty, too many, of unequal batch or not bytes.
    """
    if not isinstance(strings, (list, tuple)) or not all(
        isinstance(segment, (list, tuple)) for segment in strings
    ):
        raise ValueError("expected strings as a list per stage of a list per image")
    if not 1 <= len(strings) <= max_stages:
        raise ValueError(
            f"expected strings of 1 to {max_stages} stages, got {len(strings)}"
        )
    batch_sizes = [len(segment) for segment in strings]
    if len(set(batch_sizes)) != 1 or batch_sizes[0] == 0:
        raise ValueError(
            "expected the same number of strings, at least one, in every stage, got "
            f"{batch_sizes}"
        )
    for segment in strings:
        for string in segment:
            if not isinstance(string, bytes):
                raise ValueError(f"expected strings of bytes, got {type(string)}")
    return batch_sizes[0]
