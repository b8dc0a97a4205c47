"""JSON lines written as a table: by pyarrow, block by block, where it reads a block exactly as our own reader would.

Any block with something unusual in it goes line by line through our reader, which is several times slower: bad lines,
numbers that a float does not hold, equal keys, values that are not of their column's type.
"""

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from services.contract.task_error import Malformed
from services.inputs.columns import Type, decimal_digits
from services.inputs.json_text import DEPTH_MAX, keeps_digits
from services.inputs.lines.files import compression_of, open_file, reading, whole_line
from services.inputs.lines.records import JsonLines
from services.inputs.record_size import LongRecord, size_of
from services.inputs.table import Layout, Reject, TableWriter, arrow_type, write_records

BLOCK_BYTES = 4 << 20
_NO_NUMBER = re.compile(rb"[\[:,]\s*-?(?:NaN|Inf)")  # pyarrow takes them for numbers


def write_json_lines(writer: TableWriter, reader: JsonLines, layout: Layout, reject: Reject) -> None:
    """Raises TaskError (input_invalid) if the file is damaged."""
    blocks = BlockReader.of(layout)
    if blocks is None:
        write_records(writer, reader, None, reject)
        return
    with reading(open_file(reader.path)) as file:
        lines = _Lines(writer, reader, reject, at=0 if compression_of(file) is None else None)
        for block in _blocks(file):
            batch = None if isinstance(block, LongRecord) else blocks.read(block)
            if batch is None:
                lines.write(block)
            else:
                writer.add_batch(pyarrow_batch(batch, writer.schema))
                lines.skip(block, batch.num_rows)


def pyarrow_batch(batch: Any, schema: Any) -> Any:
    """The batch with the schema's names."""
    import pyarrow

    return pyarrow.record_batch(batch.columns, schema=schema)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Whole lines, about BLOCK_BYTES of them at a time; or a LongRecord."""
    while block := file.read(BLOCK_BYTES):
        ended = block.rfind(b"\n") + 1
        line = whole_line(file, block[ended:]) if ended < len(block) else b""
        if not isinstance(line, LongRecord):
            yield block[:ended] + line if line else block
            continue
        if ended:
            yield block[:ended]
        yield line


@dataclass(frozen=True, slots=True)
class BlockReader:
    """Reads blocks by pyarrow; `fields` are the wanted ones, `schema` all that it must know."""

    fields: list[str]
    schema: Any
    strict: bool

    @classmethod
    def of(cls, layout: Layout) -> "BlockReader | None":
        """None if there are types of which pyarrow reads more than we do, or less.

        It can't ignore fields of the records, and not those of objects in them.
        """
        import pyarrow

        strict = layout.strict or any(_has_objects(column.type) for column in layout.columns)
        columns = layout.every if strict else layout.columns
        if not all(_is_plain(column.type) for column in columns):
            return None
        schema = pyarrow.schema([(column.field, arrow_type(column.type)) for column in columns])
        return cls([column.field for column in layout.columns], schema, strict)

    def read(self, block: bytes) -> Any:
        """The wanted fields as a record batch; None if our reader must see the block."""
        import pyarrow
        import pyarrow.json

        lines = block.count(b"\n") + (not block.endswith(b"\n"))
        if not _is_usual(block, lines):
            return None
        behavior = "error" if self.strict else "ignore"
        options = pyarrow.json.ParseOptions(explicit_schema=self.schema, unexpected_field_behavior=behavior)
        whole = pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1)
        try:
            table = pyarrow.json.read_json(io.BytesIO(block), whole, options)
        except pyarrow.ArrowInvalid:
            return None
        if table.num_rows != lines:  # two objects in a line
            return None
        (batch,) = table.select(self.fields).combine_chunks().to_batches()
        return batch


def _is_plain(kind: Type) -> bool:
    match kind:
        case [element]:
            return _is_plain(element)
        case dict():
            return all(map(_is_plain, kind.values()))
    return kind in ("text", "int64", "float64", "bool") or decimal_digits(kind) is not None


def _has_objects(kind: Type) -> bool:
    return isinstance(kind, dict) or (isinstance(kind, list) and _has_objects(kind[0]))


def _is_usual(block: bytes, lines: int) -> bool:
    """Whether each line begins and ends as an object does, and holds nothing that pyarrow reads otherwise than we do.

    An object that goes over a line's end can't be among such lines.
    """
    inner = block.count(b"}\n{") + block.count(b"}\r\n{")
    if inner != lines - 1 or not block.startswith(b"{") or not block.rstrip(b"\r\n").endswith(b"}"):
        return False
    if not keeps_digits(block) or any(map(_may_be_deep, block.split(b"\n"))):
        return False
    if (b"NaN" in block or b"Inf" in block) and _NO_NUMBER.search(block):
        return False
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _may_be_deep(line: bytes) -> bool:
    return len(line) > 2 * DEPTH_MAX and line.count(b"[") + line.count(b"{") > DEPTH_MAX


class _Lines:
    """Writes blocks line by line, and knows where each line is."""

    def __init__(self, writer: TableWriter, reader: JsonLines, reject: Reject, *, at: int | None) -> None:
        self._writer = writer
        self._reader = reader
        self._reject = reject
        self._number = 0  # of the last record
        self._at = at  # the next line's byte in the file, if it is known

    def skip(self, block: bytes, records: int) -> None:
        self._number += records
        self._at = None if self._at is None else self._at + size_of(block)

    def write(self, block: bytes) -> None:
        for line in (block,) if isinstance(block, LongRecord) else io.BytesIO(block):
            text = line if isinstance(line, LongRecord) else line.removeprefix(codecs.BOM_UTF8)
            self.skip(line[: len(line) - len(text)], 0)
            self._write(text)
            self.skip(text, 0)

    def _write(self, line: bytes) -> None:
        if not line or line.isspace():
            return
        self._number += 1
        try:
            self._writer.add(self._reader.parse(line))
        except Malformed as error:
            self._reject(self._number, self._at, self._reader.show(line), str(error))
