"""Files of lines, decompressed while they are read: by what they are, or else by their names."""

import codecs
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePath
from typing import BinaryIO

from services.contract.task_error import TaskError
from services.inputs.magic import HEAD_BYTES, recognise
from services.inputs.record_size import RECORD_BYTES_MAX, LongRecord
from services.inputs.registry import COMPRESSION_OF_SUFFIX
from services.platform.decompress import DamagedStream, Decompressor

_READ_BYTES = 1 << 17


def open_file(path: Path) -> BinaryIO:
    """The decompressed bytes. An empty file has none, whatever its name."""
    return decompressed(path.open("rb"), path)


def decompressed(file: io.BufferedReader, name: PurePath) -> BinaryIO:
    """The decompressed bytes of a file that is open, at its beginning."""
    compression = _compression(file.peek(HEAD_BYTES)[:HEAD_BYTES], name)
    return io.BufferedReader(_Decompressed(file, compression), _READ_BYTES) if compression else file


def compression_of(file: BinaryIO) -> str | None:
    """As what the file, from `open_file`, is decompressed while it is read."""
    raw = file.raw if isinstance(file, io.BufferedReader) else None
    return raw.compression if isinstance(raw, _Decompressed) else None


def _compression(head: bytes, name: PurePath) -> str | None:
    content = recognise(head)
    if content is not None and content.compression:
        return content.compression
    return COMPRESSION_OF_SUFFIX.get(name.suffix.lower()) if head else None


class _Decompressed(io.RawIOBase):
    """The text of a compressed file. Reading raises DamagedStream, also for a file that breaks off."""

    def __init__(self, file: BinaryIO, compression: str) -> None:
        self.compression = compression
        self._file = file
        self._pieces = self._decompress(Decompressor(compression))
        self._piece = memoryview(b"")

    def _decompress(self, decompressor: Decompressor) -> Iterator[bytes]:
        while data := self._file.read(_READ_BYTES):
            yield from decompressor.feed(data)
        decompressor.finish()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
        size = min(len(buffer), len(self._piece))
        buffer[:size] = self._piece[:size]
        self._piece = self._piece[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def reading(file: BinaryIO) -> Iterator[BinaryIO]:
    """Closes the file at the end. Raises TaskError (input_invalid) if the data is damaged."""
    try:
        with file:
            yield file
    except DamagedStream as error:
        raise TaskError("input_invalid", f"the compressed input is damaged: {error}", retryable=False) from None


def read_lines(file: BinaryIO, begins: Callable[[], bool] = lambda: True) -> Iterator[bytes]:
    """Lines with their ends; a line ends at \\n only. `begins` tells whether the next one begins a record.

    A byte order mark is part of no record: it begins the file, or one that `cat` has put behind it.
    """
    with reading(file):
        for begin in iter(partial(file.readline, RECORD_BYTES_MAX + 1), b""):
            line = whole_line(file, begin) if len(begin) > RECORD_BYTES_MAX else begin
            yield line[3:] if line.startswith(codecs.BOM_UTF8) and begins() and line is begin else line


def whole_line(file: BinaryIO, begin: bytes) -> bytes:
    """The line of which `begin` is read; if it is longer than a record may be, a LongRecord."""
    line = begin if begin.endswith(b"\n") else begin + file.readline(RECORD_BYTES_MAX + 1 - len(begin))
    size = len(line)
    if size <= RECORD_BYTES_MAX:
        return line
    piece = line
    while piece and not piece.endswith(b"\n"):
        piece = file.readline(_READ_BYTES)
        size += len(piece)
    return LongRecord.beginning(line, size)


def position(path: Path, file: BinaryIO, size: int) -> int | None:
    """The position in the file of the last `size` bytes read; None if it is compressed."""
    if compression_of(file) is not None:
        return None
    return (path.stat().st_size if file.closed else file.tell()) - size  # closed as soon as all of it has been read
