"""The reader of CSV and TSV."""

import codecs
import csv
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.contract.task_error import Malformed, TaskError
from services.inputs.csv_dialect import SEPARATOR_BYTES_MAX, SEPARATOR_LINE, CsvDialect
from services.inputs.lines.files import open_file, position, read_lines, reading
from services.inputs.names import named
from services.inputs.record_size import RECORD_BYTES_MAX, size_of


class CsvRows:
    """The first row that is not empty names the columns; each later one is a record: a dict of str.

    Without a header, a record is a list of str.
    """

    def __init__(self, path: Path, dialect: CsvDialect) -> None:
        self.path = path
        self.columns: list[str] = []
        self.dialect = dialect
        self._fault: Malformed | None = None
        self._held_bytes = 0  # of the record's lines
        self.names_delimiter = self._read_delimiter()

    def _read_delimiter(self) -> bool:
        """Whether the file's first line is Excel's, whose delimiter counts unless the input says another."""
        with reading(open_file(self.path)) as file:
            named = SEPARATOR_LINE.match(file.read(3 + SEPARATOR_BYTES_MAX).removeprefix(codecs.BOM_UTF8))
        if named and self.dialect.delimiter in (",", "\t"):
            self.dialect = replace(self.dialect, delimiter=named[1].decode())
        return named is not None

    def raws(self) -> Iterator[list[str]]:
        self._file = open_file(self.path)
        if self.names_delimiter:
            self._file.readline()
        rows = self._rows()
        if self.dialect.header:
            self._read_columns(rows)
        yield from self._records(rows)

    def record_at(self, offset: int, columns: Sequence[str]) -> list[str]:
        """The raw record at a byte of the file, which has these columns."""
        self.columns = list(columns)
        self._file = open_file(self.path)
        self._file.seek(offset)
        raws = self._records(self._rows())
        with closing(raws):
            return next(raws, [])

    def _rows(self) -> Iterator[list[str]]:
        self._held_bytes = 0
        csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is too small for real fields
        self._table = csv.reader(
            self._text_lines(),
            delimiter=self.dialect.delimiter,
            quotechar=self.dialect.quote,
            quoting=csv.QUOTE_MINIMAL if self.dialect.quote else csv.QUOTE_NONE,
            escapechar=self.dialect.escape,
            strict=True,  # an unclosed quote must not pass as a record
        )
        return self._table

    def _records(self, rows: Iterator[list[str]]) -> Generator[list[str], None, None]:
        while True:
            self._fault, self._held, self._held_bytes = None, "", 0
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                row, self._fault = [self._held.rstrip("\r\n")], Malformed(f"not CSV: {error}")
            if row:
                yield row

    def _read_columns(self, rows: Iterator[list[str]]) -> None:
        try:
            header = next(filter(None, rows), [])
        except csv.Error as error:
            raise TaskError("input_invalid", f"the CSV header can't be read: {error}", retryable=False) from None
        if self._fault is not None:
            raise TaskError("input_invalid", f"the CSV header is {self._fault}", retryable=False)
        try:
            self.columns = named(header)
        except ValueError as error:
            raise TaskError("input_invalid", f"the CSV header {error}", retryable=False) from None

    def _text_lines(self) -> Iterator[str]:
        self._held_bytes = 0
        for line in read_lines(self._file, begins=lambda: self._held_bytes == 0):
            if self._held_bytes + size_of(line) > RECORD_BYTES_MAX:
                raise self._too_long()
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                text = line.decode(errors="backslashreplace")
                at = self._held_bytes + error.start
                self._fault = Malformed(f"not UTF-8: byte {line[error.start]:#04x} at byte {at} of the record")
            self._held = text
            self._held_bytes += len(line)
            yield text

    def _too_long(self) -> TaskError:
        """What is quoted in such a record is not known, so nor is where the next one begins."""
        line = self._table.line_num + 1
        what = f"the CSV record that goes on in line {line} is longer than {RECORD_BYTES_MAX} bytes, the most that a"
        return TaskError("input_invalid", f"{what} record may have (or a quote is left open)", retryable=False)

    def parse(self, raw: list[str]) -> Any:
        if self._fault is not None:
            raise self._fault
        if not self.dialect.header:
            return raw
        if len(raw) != len(self.columns):
            raise Malformed(f"the row has {len(raw)} fields, the header has {len(self.columns)}")
        return dict(zip(self.columns, raw, strict=True))

    def show(self, raw: list[str]) -> Any:
        return dict(zip(self.columns, raw, strict=True)) if len(raw) == len(self.columns) else raw

    def offset(self, raw: list[str]) -> int | None:
        return position(self.path, self._file, self._held_bytes)
