"""One continuous stream of range-coded symbols, split into a segment per stage.

The range coder is constriction's: written in Rust, safe on any input, with 24-bit
probabilities. The stream is split such that the words up to the end of a stage suffice to
decode that stage, so a finished stream can be truncated to any number of stages.

A segment is the stage's 32-bit words, little-endian, followed by three bytes of a CRC-32
over the decoded values and the words. The checksum detects damage and strings of another
model.
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

ReencodedPrefix: TypeAlias = constriction.stream.queue.RangeEncoder
"""The symbols decoded so far, encoded again. Its position is the decoder's, which
constriction's decoder does not provide."""

_CRC_BYTES = 3
_WORD = np.dtype("<u4")
_CHUNK = 1 << 12  # symbols between two checks of the position
_categorical: Any = constriction.stream.model.Categorical(perfect=False)


def _crc_of_values(values: np.ndarray, stage: int) -> int:
    crc = stage
    for channel in values:  # one by one, to bound memory
        crc = zlib.crc32(np.ascontiguousarray(channel, "<i4").data, crc)
    return crc


def _checksum(words: bytes, crc_of_values: int) -> bytes:
    return zlib.crc32(words, crc_of_values).to_bytes(4, "little")[:_CRC_BYTES]


class StreamEncoder:
    """Range encoder of one picture, a :class:`SymbolCoder`.

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
        """Encode ``symbols[i]`` with the table ``weights[i]``.

        Args:
            symbols: integers 0..n-1, ``[m]``.
            weights: tables as defined in :mod:`.bitstream.cdf`, ``[m, n]``.
        """
        if len(symbols):
            weights = np.ascontiguousarray(weights, np.float32)
            self._encoder.encode(symbols.astype(np.int32), _categorical, weights)

    def code_categorical(
        self, r: np.ndarray | None, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode symbols, see :meth:`SymbolCoder.code_categorical`."""
        assert r is not None
        self.encode(r, weights)
        return r, np.ones(len(r), bool)

    def code_uniform(
        self, r: np.ndarray | None, count: int, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode symbols, see :meth:`SymbolCoder.code_uniform`."""
        assert r is not None
        if count:
            model = constriction.stream.model.Uniform(size)
            self._encoder.encode(r.astype(np.int32), model)
        return r, np.ones(count, bool)

    def end_stage(self, values: np.ndarray) -> None:
        """Mark the end of a stage.

        Args:
            values: the integers that the decoder has decoded by then, for the checksum.
        """
        position, (lower, range_) = self._encoder.pos()
        self._ends.append((position, lower, range_))
        self._crcs.append(_crc_of_values(values, len(self._crcs)))

    def segments(self) -> list[bytes]:
        """Return the segments of all stages that ended; each has a word at least."""
        stream = self._encoder.get_compressed()
        words = np.concatenate([stream, np.zeros(len(self._ends) + 2, np.uint32)])
        start, strings = 0, []
        for (end, lower, range_), crc in zip(self._ends, self._crcs):
            # The decoder reads zeros past the last word. One word past the position is
            # enough if the stream truncated there stays inside the coder's interval.
            truncated = (int(words[end]) << 32) - lower
            end += 1 if truncated % (1 << 64) < range_ else 2
            end = max(end, start + 1)
            segment = words[start:end].astype(_WORD).tobytes()
            strings.append(segment + _checksum(segment, crc))
            start = end
        return strings


class StreamDecoder:
    """Range decoder of one picture, a :class:`SymbolCoder`.

    Past the last word the range coder reads zeros, which decode to any number of symbols.
    So the decoder compares its position with the number of words every few symbols.

    Args:
        strings: segments of the first stages, from :meth:`StreamEncoder.segments`.

    Attributes:
        reencoded: the decoded symbols, encoded again to obtain the decoder's position.

    Raises:
        DamagedStringError: a segment has a length that no segment can have.
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
        self.reencoded = ReencodedPrefix()

    def decode(self, weights: np.ndarray) -> np.ndarray:
        """Decode one symbol, int32, with each table in ``weights``, ``[m, n]``."""
        return self._decode_all(_categorical, np.ascontiguousarray(weights, np.float32))

    def code_categorical(
        self, r: np.ndarray | None, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decode symbols, see :meth:`SymbolCoder.code_categorical`."""
        return _filled(self.decode(weights), len(weights))

    def code_uniform(
        self, r: np.ndarray | None, count: int, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decode symbols, see :meth:`SymbolCoder.code_uniform`."""
        model = constriction.stream.model.Uniform(size)
        return _filled(self._decode_all(model, count), count)

    def end_stage(self, values: np.ndarray) -> None:
        """Verify the checksum of a stage.

        Args:
            values: the decoded integers, as passed to :meth:`StreamEncoder.end_stage`.

        Raises:
            DamagedStringError: the checksum differs.
        """
        string = self._strings[self._stage]
        crc = _crc_of_values(values, self._stage)
        if _checksum(string[:-_CRC_BYTES], crc) != string[-_CRC_BYTES:]:
            raise self._damaged()
        self._stage += 1

    def _decode_all(self, model: Any, tables: Any) -> np.ndarray:
        """Return the decoded symbols, fewer than asked for where the stream ends early.

        Args:
            model: constriction's entropy model.
            tables: the tables, ``[m, n]``, or m where the model has no tables.
        """
        decoded = [np.zeros(0, np.int32)]
        n = tables if isinstance(tables, int) else len(tables)
        for start in range(0, n, _CHUNK):
            m = min(_CHUNK, n - start)
            chunk = m if isinstance(tables, int) else tables[start : start + m]
            decoded.append(self._decode(model, chunk))
            if len(decoded[-1]) < m:  # the stream has ended
                break
        return np.concatenate(decoded)

    def _decode(self, model: Any, tables: Any) -> np.ndarray:
        try:
            symbols = self._decoder.decode(model, tables)
        except AssertionError as error:  # constriction raises this for invalid data
            raise self._damaged() from error
        _write(self.reencoded, symbols, model, tables)
        position, _ = self.reencoded.pos()
        if position > self._n_words:  # an encoder never is past the last word of its stage
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
    """Range decoder of one stage; later stages may not have arrived yet.

    Args:
        strings: the segments of all stages up to this one.
        reencoded: the symbols of the earlier stages, encoded again.
    """

    def __init__(self, strings: Sequence[bytes], reencoded: ReencodedPrefix) -> None:
        super().__init__(strings)
        self.reencoded = reencoded.clone()
        self._decoder.seek(*reencoded.pos())
        self._stage = len(strings) - 1


def _write(encoder: ReencodedPrefix, symbols: np.ndarray, model: Any, tables: Any) -> None:
    # tables are a number of symbols where the model has no tables
    encoder.encode(symbols, model, *([] if isinstance(tables, int) else [tables]))


class TruncatedStageDecoder(StreamDecoder):
    """Range decoder of a truncated stage.

    It decodes twice: with the missing bits taken as zeros, and as ones. While both agree,
    every continuation decodes to the same symbols. At the first symbol that differs the
    decoder ends, and returns no more symbols.

    Args:
        strings: the segments of the earlier stages.
        reencoded: the symbols of the earlier stages, encoded again.
        cut: a prefix of the segment.

    Attributes:
        n_decoded: number of symbols decoded.
    """

    def __init__(
        self, strings: Sequence[bytes], reencoded: ReencodedPrefix, cut: bytes
    ) -> None:
        super().__init__(strings)
        stream = b"".join(string[:-_CRC_BYTES] for string in strings)
        # whole words only: the checksum at a segment's end is not a word, so it drops out
        stream += cut[: len(cut) // 4 * 4]
        self._pair = []
        for fill in (b"\0", b"\xff"):
            words = np.frombuffer(stream + fill * 16, _WORD).astype(np.uint32)
            self._pair.append(constriction.stream.queue.RangeDecoder(words))
        self.reencoded = reencoded.clone()
        self._seek()
        self._ended = False
        self.n_decoded = 0

    def end_stage(self, values: np.ndarray) -> None:
        """Do nothing: a truncated segment has no checksum."""

    def _decode(self, model: Any, tables: Any) -> np.ndarray:
        if self._ended:
            return np.zeros(0, np.int32)
        try:
            low, high = (decoder.decode(model, tables) for decoder in self._pair)
        except AssertionError:  # one of them is in a state that no encoder reaches
            self._seek()
            return np.concatenate(
                [self._decode(model, half) for half in self._halve(tables)]
            )
        differ = np.flatnonzero(low != high)
        if len(differ):
            self._ended = True
            low = low[: differ[0]]
        else:
            _write(self.reencoded, low, model, tables)
        self.n_decoded += len(low)
        return low

    def _seek(self) -> None:
        for decoder in self._pair:
            decoder.seek(*self.reencoded.pos())

    def _halve(self, tables: Any) -> list[Any]:
        n = tables if isinstance(tables, int) else len(tables)
        if n == 1:
            self._ended = True
        if isinstance(tables, int):
            return [n // 2, n - n // 2]
        return [tables[: n // 2], tables[n // 2 :]]


def check_strings(strings: Sequence[Sequence[bytes]], max_stages: int) -> int:
    """Return the batch size of ``strings[stage][image]``.

    Raises:
        ValueError: there are no strings, too many stages, stages with unequal numbers of
            strings, or strings that are not bytes.
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
