"""Avro object container files, read by fastavro; only tasks with such input import it."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from services.contract.task_error import Malformed, TaskError
from services.inputs.avro.codecs import BLOCK_BYTES_MAX, BlockTooLong, own_name
from services.inputs.avro.header import HEADER
from services.inputs.avro.logical import Unreadable, holds_itself, take_mark, with_own_names
from services.inputs.reader import Reader
from services.inputs.record_size import check_size

EMPTY_DATA_MAX = 1_000_000  # of a block


def open_reader(path: Path, format: str, options: Mapping[str, Any]) -> Reader:
    return AvroRecords(path)


class AvroRecords:
    """Each datum is a record, as fastavro gives it: a dict, if the schema is a record's.

    A raw record is a datum, and why it can't be read, if so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> Any:
        """The file's schema. Raises TaskError (input_invalid)."""
        with self._reading() as file:
            return _blocks(file).writer_schema

    def raws(self) -> Iterator[tuple[Any, str | None]]:
        if self.path.stat().st_size == 0:
            return
        with self._reading() as file:
            for block in _blocks(file):
                _check_block(block)
                yield from _data(block)

    @contextmanager
    def _reading(self) -> Iterator[BinaryIO]:
        """The open file; turns fastavro's errors into TaskError (input_invalid)."""
        try:
            with self.path.open("rb") as file:
                yield file
        except (GeneratorExit, OSError, MemoryError, TaskError):
            raise
        except Exception as error:  # fastavro has no exception class of its own
            message = f"the Avro file can't be read: {type(error).__name__}: {error}"
            raise TaskError("input_invalid", message, retryable=False) from None

    def parse(self, raw: tuple[Any, str | None]) -> Any:
        record, reason = raw
        if reason is not None:
            raise Malformed(reason)
        return copy.copy(record)  # keeps a rejected record as it was

    def show(self, raw: tuple[Any, str | None]) -> Any:
        return raw[0]

    def offset(self, raw: tuple[Any, str | None]) -> int | None:
        return None


def _blocks(file: BinaryIO) -> Any:
    """fastavro's reader of the file's blocks.

    Its fast one crashes on a value nested thousands deep. Only a type within itself allows that: the slow one reads
    such files, and says so.
    """
    import fastavro
    import fastavro._read_py

    header: Any = fastavro.schemaless_reader(file, HEADER, None)
    schema = json.loads(header["meta"]["avro.schema"])
    module = fastavro._read_py if holds_itself(schema) else fastavro
    return module.block_reader(_Renamed(file, header, with_own_names(schema)))


def _check_block(block: Any) -> None:
    """Raises BlockTooLong, and TaskError (input_invalid) for a block that says to hold many more data than bytes.

    A datum may take no bytes at all, such as null: so a block of a few bytes could name any number of them.
    """
    size = block.bytes_.getbuffer().nbytes
    if size > BLOCK_BYTES_MAX:  # it is not compressed
        raise BlockTooLong
    if block.num_records > size + EMPTY_DATA_MAX:
        message = (
            f"the Avro file can't be read: a block of {size} bytes says that it holds {block.num_records} records; "
            f"at most {EMPTY_DATA_MAX} may take no bytes"
        )
        raise TaskError("input_invalid", message, retryable=False)


class _Renamed:
    """The file behind its header, and a header with our names for its codec and for logical types in its schema."""

    def __init__(self, file: BinaryIO, header: dict[str, Any], schema: Any) -> None:
        import fastavro

        meta = header["meta"]
        meta["avro.schema"] = json.dumps(schema).encode()
        meta["avro.codec"] = own_name(meta.get("avro.codec", b"null").decode()).encode()
        self._header = BytesIO()
        fastavro.schemaless_writer(self._header, HEADER, header)
        self._header.seek(0)
        self._file = file

    def read(self, size: int) -> bytes:
        data = self._header.read(size)
        return data + self._file.read(size - len(data)) if len(data) < size else data

    def tell(self) -> int:
        return self._file.tell()


def _data(block: Any) -> Iterator[tuple[Any, str | None]]:
    """The data of a block. From the first text on that is not UTF-8, every text is looked at."""
    number = 0
    take_mark()
    try:
        for datum, size in _sized(block):
            yield datum, _too_long(size) or _reason(datum, take_mark())
            number += 1
    except UnicodeDecodeError:
        block.bytes_.seek(0)
        block.options = {**block.options, "handle_unicode_errors": "surrogateescape"}
        for position, (datum, size) in enumerate(_sized(block)):
            mark = take_mark() or ("the text is not UTF-8" if position >= number and _is_bad(datum) else None)
            if position >= number:
                yield datum, _too_long(size) or _reason(datum, mark)


def _sized(block: Any) -> Iterator[tuple[Any, int]]:
    """The data of a block, and the bytes that each takes."""
    begin = block.bytes_.tell()
    for datum in block:
        end = block.bytes_.tell()
        yield datum, end - begin
        begin = end


def _too_long(size: int) -> str | None:
    try:
        check_size(size)
    except Malformed as error:
        return str(error)
    return None


def _reason(datum: Any, mark: str | None) -> str | None:
    """The mark, with the name of the field."""
    if mark is None or not isinstance(datum, dict):
        return mark
    return f"column {next((name for name, value in datum.items() if _is_bad(value)), '')!r}: {mark}"


def _is_bad(value: Any) -> bool:
    """Whether an unreadable value, or text that was not UTF-8, is in it."""
    match value:
        case Unreadable():
            return True
        case str():
            return not value.isascii() and any("\udc80" <= character <= "\udcff" for character in value)
        case dict():
            return any(_is_bad(item) for pair in value.items() for item in pair)
        case list() | tuple():
            return any(map(_is_bad, value))
    return False


STEPS: dict[str, Callable[..., None]] = {}
