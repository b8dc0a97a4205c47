"""Files of lines, decompressed by their names while they are read."""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from services.contract.task_error import TaskError
from services.inputs.registry import COMPRESSION_OF_SUFFIX


def open_file(path: Path) -> BinaryIO:
    """The decompressed bytes."""
    match COMPRESSION_OF_SUFFIX.get(path.suffix.lower()):
        case "gzip":
            import gzip

            return cast(BinaryIO, gzip.open(path))
        case "bzip2":
            import bz2

            return cast(BinaryIO, bz2.open(path))
        case "xz":
            import lzma

            return cast(BinaryIO, lzma.open(path))
        case "zstd":
            import io

            import zstandard

            stream: Any = zstandard.ZstdDecompressor().stream_reader(
                path.open("rb"), read_across_frames=True, closefd=True
            )
            return cast(BinaryIO, io.BufferedReader(stream, 1 << 17))
    return path.open("rb")


@contextmanager
def reading(file: BinaryIO) -> Iterator[None]:
    """Closes the file at the end. Raises TaskError (input_invalid) if the data is damaged."""
    try:
        with file:
            yield
    except _damages() as error:
        raise TaskError("input_invalid", f"the compressed input is damaged: {error}", retryable=False) from None


def _damages() -> tuple[type[Exception], ...]:
    import gzip
    import lzma
    import zlib

    return EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines with their ends; a line ends at \\n only, and a byte order mark is not part of the first."""
    with reading(file):
        for line in file:
            yield line.removeprefix(codecs.BOM_UTF8)
            break
        yield from file


def position(path: Path, file: BinaryIO, size: int) -> int | None:
    """The position in the file of the last `size` bytes read; None if it is compressed."""
    if path.suffix.lower() in COMPRESSION_OF_SUFFIX:
        return None
    return (path.stat().st_size if file.closed else file.tell()) - size  # closed as soon as all of it has been read
