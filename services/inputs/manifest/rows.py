"""The rows of a manifest's file as entries, a page at a time: whole lines of CSV and JSONL, a row group, a stripe."""

import asyncio
import csv
import io
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain, count
from typing import Any, BinaryIO

import orjson

from services.contract.location import Location
from services.inputs.chunk import SplitError
from services.inputs.listing import Entry
from services.inputs.manifest.columns import (
    Row,
    by_name,
    by_place,
    by_value,
    decode_key,
    entry_of,
    meaning_of,
    meanings_of_header,
)
from services.inputs.manifest.keys import Keys, tell_keys
from services.inputs.orc.split import read_tail
from services.inputs.orc.tail import MAGIC, make_tail
from services.inputs.parquet.footer import column_range
from services.inputs.parquet.split import read_metadata
from services.inputs.spec import ManifestInput
from services.platform.decompress import DamagedStream, Decompressor
from services.platform.reads import PinnedObject

PAGE_BYTES = 4_194_304  # of text, at least one line
ROW_BYTES_MAX = 1_048_576  # of text: no manifest has longer ones, and a page must fit into memory
GROUP_BYTES_MAX = 536_870_912  # of the columns read of a row group, or of a stripe, compressed
_WINDOW_BYTES = 4_194_304
_BATCH_ROWS = 10_000
_TEXTS_MAX = 4  # compressed files that are kept open between two pages


class ManifestError(SplitError):
    """The manifest can't be read; the message names the object, the row and the reason."""


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """A file of rows. `columns` are those of an inventory's CSV, which has no header line and encodes its keys.

    Its first pages may tell more: `header` is what a header line names, `keys` how keys were found to be written.
    """

    uri: str
    etag: str | None
    size: int
    format: str
    columns: list[str] | None = None
    header: list[str | None] | None = None
    keys: Keys | None = None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None} | {"etag": self.etag}


@dataclass(frozen=True, slots=True)
class RowPage:
    """Some entries of a file, where its next page begins (None: this is the last one), and the file as known by now."""

    entries: list[Entry]
    next: int | None
    file: ManifestFile


async def read_rows(s3: Any, source: ManifestInput, file: ManifestFile, position: int | None) -> RowPage:
    """The page at `position` (None: the first). Raises ManifestError."""
    if file.etag is None:
        object_ = await PinnedObject.find(s3, file.uri)
    else:
        object_ = PinnedObject(s3, Location.parse(file.uri), file.etag, file.size)
    if file.format == "parquet":
        return await _read_row_group(object_, source, file, position or 0)
    if file.format == "orc":
        return await _read_stripe(object_, source, file, position or 0)
    if file.uri.endswith(".gz"):
        text, following = await _read_compressed(object_, position or 0)
    else:
        text, following = await _read_text(object_, position or 0)
    file, entries = await asyncio.to_thread(_parse, source, file, text, position or 0)
    if file.format == "csv" and file.columns is None and source.keys is None and file.keys is None:
        return await _tell_keys(s3, file, entries, following)
    return RowPage(entries, following, file)


async def _tell_keys(s3: Any, file: ManifestFile, entries: list[Entry], following: int | None) -> RowPage:
    """The page of a CSV of which nothing says how its keys are written."""
    try:
        keys = await tell_keys(s3, entries)
    except SplitError as error:
        raise ManifestError(f"{file.uri}: {error}") from None
    if keys == "url_encoded":
        entries = [one if one.version else replace(one, key=decode_key(one.key)) for one in entries]
    return RowPage(entries, following, file if keys is None else replace(file, keys=keys))


async def _read_text(object_: PinnedObject, position: int) -> tuple[bytes, int | None]:
    """Whole lines from `position` on, and the position of the next page."""
    text = b""
    while position + len(text) < object_.size:
        start = position + len(text)
        text += await object_.read(start, start + PAGE_BYTES)
        if (end := text.rfind(b"\n") + 1) and position + len(text) < object_.size:
            return text[:end], position + end
        _check_row(object_, text, position)
    return text, None


async def _read_compressed(object_: PinnedObject, position: int) -> tuple[bytes, int | None]:
    """Like `_read_text`, for decompressed bytes. A page that follows one of the last read goes on where that ended."""
    text = next((each for each in _texts if each.may_read(object_, position)), None)
    if text is None:
        text = _Text(object_)
    else:
        _texts.remove(text)
    page = await text.read(object_, position)
    _texts.append(text)
    del _texts[:-_TEXTS_MAX]
    return page


def _check_row(object_: PinnedObject, text: bytes | bytearray, position: int) -> None:
    """Raises ManifestError if the text, in which no line end was found, is too long for a row."""
    if len(text) > PAGE_BYTES + ROW_BYTES_MAX and b"\n" not in text:
        message = f"{object_.location.uri}: the row after byte {position} is longer than {ROW_BYTES_MAX} bytes"
        raise ManifestError(message)


class _Text:
    """The text of a compressed file, read forwards, a page of whole lines at a time.

    Decompresses only what a page needs, so a zip bomb can't fill memory.
    """

    def __init__(self, object_: PinnedObject) -> None:
        self._object = (object_.location, object_.etag)
        self._last: tuple[int, tuple[bytes, int | None]] | None = None  # page, by its position
        self._begin = 0  # of what is held, in the text
        self._held = bytearray()
        self._read = 0  # compressed bytes
        self._decompressor = Decompressor("gzip")
        self._pieces: Iterator[bytes] = iter(())

    def may_read(self, object_: PinnedObject, position: int) -> bool:
        """Whether this is the next page, or the last one again."""
        known = (self._begin, self._last[0]) if self._last else ()
        return self._object == (object_.location, object_.etag) and position in known

    async def read(self, object_: PinnedObject, position: int) -> tuple[bytes, int | None]:
        """The page at a position, and the position of the next. Raises ManifestError."""
        if self._last is not None and self._last[0] == position:
            return self._last[1]
        try:
            while not (end := await asyncio.to_thread(self._fill, object_, position)) and self._read < object_.size:
                window = await object_.read(self._read, self._read + _WINDOW_BYTES)
                self._read += len(window)
                self._pieces = self._decompressor.feed(window)
            if not end:
                self._decompressor.finish()
        except DamagedStream as error:
            raise ManifestError(f"{object_.location.uri}: {error}") from None
        page = bytes(self._held[:end] if end else self._held)
        del self._held[: len(page)]
        self._begin = position + len(page)
        self._last = (position, (page, self._begin if end else None))
        return self._last[1]

    def _fill(self, object_: PinnedObject, position: int) -> int:
        """Hold the text from the position on; returns the end of the page's last line, 0 until it is known."""
        while True:
            if len(self._held) > PAGE_BYTES:
                if end := self._held.rfind(b"\n", 0, PAGE_BYTES) + 1 or self._held.find(b"\n") + 1:
                    return end
                _check_row(object_, self._held, position)
            if (piece := next(self._pieces, None)) is None:
                return 0
            self._held += piece
            passed = min(len(self._held), position - self._begin)
            del self._held[:passed]
            self._begin += passed


_texts: list[_Text] = []  # the last ones read, the latest at the end


def _parse(source: ManifestInput, file: ManifestFile, text: bytes, position: int) -> tuple[ManifestFile, list[Entry]]:
    """The entries of a page of text, and the file with what its header line names."""
    where = f"after byte {position}"
    if file.format == "jsonl":
        return file, _entries(source, file, _json_rows(text), where)
    try:
        table = csv.reader(io.StringIO(text.decode("utf-8-sig"), newline=""))
        first = next(filter(None, table), [])
    except (ValueError, csv.Error) as error:
        raise ManifestError(f"{file.uri}: row 1 {where} names no object: {error}") from None
    header = meanings_of_header(first) if position == 0 and file.columns is None else None
    if header is not None and header != ["bucket", "key"]:
        file = replace(file, header=header)
    rows = chain([first] if header is None else [], table)
    return file, _entries(source, file, _csv_rows(source, file, rows), where)


def _json_rows(text: bytes) -> Iterator[Row]:
    return (by_name(orjson.loads(line)) for line in text.splitlines() if not line.isspace())


def _csv_rows(source: ManifestInput, file: ManifestFile, table: Iterable[list[str]]) -> Iterator[Row]:
    """Rows by the job's `fields`, an inventory's columns, the header line, or their values; without further headers."""
    named = [meaning_of(name) for name in source.fields or file.columns or ()] or file.header
    for row in table:
        if row and [name.lower() for name in row[:2]] != ["bucket", "key"]:
            yield by_place(row, named) if named else by_value(row)


def _entries(source: ManifestInput, file: ManifestFile, rows: Iterable[Row], where: str) -> list[Entry]:
    keys = source.keys or file.keys or ("url_encoded" if file.columns is not None else None)
    of_batch_operations = keys is None and file.format == "csv"  # which encodes keys, and names the version

    def is_encoded(row: Row) -> bool:
        return keys == "url_encoded" or (of_batch_operations and "version_id" in row)

    entries: list[Entry] = []
    read = count(1)
    try:
        for row in rows:
            entry = entry_of(row, source, is_encoded)
            if entry is not None:
                entries.append(entry)
            next(read)
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise ManifestError(f"{file.uri}: row {next(read)} {where} names no object: {error}") from None
    return entries


async def _read_row_group(object_: PinnedObject, source: ManifestInput, file: ManifestFile, number: int) -> RowPage:
    footer = await read_metadata(object_)
    if footer.num_row_groups == 0:
        return RowPage([], None, file)
    group = footer.row_group(number)
    columns = [group.column(index) for index in range(group.num_columns)]
    columns = [column for column in columns if meaning_of(column.path_in_schema)]
    size = sum(column.total_compressed_size for column in columns)
    if size > GROUP_BYTES_MAX:
        raise ManifestError(f"{file.uri}: row group {number} has {size} bytes of names; at most {GROUP_BYTES_MAX} do")
    with tempfile.TemporaryFile() as sparse:
        for column in columns:
            start, end = column_range(column)
            data = await object_.read(start, end)
            sparse.seek(start)
            sparse.write(data)
        names = [column.path_in_schema for column in columns]
        entries = await asyncio.to_thread(_row_group_entries, source, file, sparse, footer, number, names)
    following = number + 1
    return RowPage(entries, following if following < footer.num_row_groups else None, file)


def _row_group_entries(
    source: ManifestInput, file: ManifestFile, sparse: BinaryIO, footer: Any, number: int, names: list[str]
) -> list[Entry]:
    """The rows of a file that holds only this row group."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(sparse, metadata=footer) as reader:
            batches = reader.iter_batches(_BATCH_ROWS, row_groups=[number], columns=names)
            rows = (by_name(row) for batch in batches for row in batch.to_pylist())
            return _entries(source, file, rows, f"of row group {number}")
    except (pyarrow.ArrowException, OSError) as error:
        raise ManifestError(f"{file.uri} can't be read: {error}") from None


async def _read_stripe(object_: PinnedObject, source: ManifestInput, file: ManifestFile, number: int) -> RowPage:
    tail = await read_tail(object_)
    if tail is None or not tail.stripes:
        return RowPage([], None, file)
    stripe = tail.stripes[number]
    if stripe.bytes > GROUP_BYTES_MAX:
        raise ManifestError(f"{file.uri}: stripe {number} has {stripe.bytes} bytes; at most {GROUP_BYTES_MAX} are read")
    data = await object_.read(stripe.start, stripe.end)
    alone = MAGIC + data + make_tail(tail, [stripe], len(MAGIC) - stripe.start)
    entries = await asyncio.to_thread(_stripe_entries, source, file, alone, number)
    following = number + 1
    return RowPage(entries, following if following < len(tail.stripes) else None, file)


def _stripe_entries(source: ManifestInput, file: ManifestFile, data: bytes, number: int) -> list[Entry]:
    """The rows of a file that has only this stripe."""
    import pyarrow
    import pyarrow.orc

    try:
        reader = pyarrow.orc.ORCFile(io.BytesIO(data))
        table = reader.read(columns=[name for name in reader.schema.names if meaning_of(name)])
        rows = (by_name(row) for batch in table.to_batches(_BATCH_ROWS) for row in batch.to_pylist())
        return _entries(source, file, rows, f"of stripe {number}")
    except (pyarrow.ArrowException, OSError) as error:
        raise ManifestError(f"{file.uri} can't be read: {error}") from None
