"""The rows of a manifest's file as entries, a page at a time: whole lines of CSV and JSONL, a row group of Parquet."""

import asyncio
import csv
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any, BinaryIO
from urllib.parse import unquote_plus

import orjson

from services.contract.location import Location
from services.inputs.chunk import SplitError
from services.inputs.listing import Entry
from services.inputs.parquet.footer import column_range
from services.inputs.parquet.split import read_metadata
from services.platform.decompress import DamagedStream, Decompressor
from services.platform.reads import PinnedObject

PAGE_BYTES = 4_194_304  # of text, at least one line
ROW_BYTES_MAX = 1_048_576  # of text: no manifest has longer ones, and a page must fit into memory
GROUP_BYTES_MAX = 536_870_912  # of the columns read of a row group, compressed
_WINDOW_BYTES = 4_194_304
_BATCH_ROWS = 10_000
_PLAIN_COLUMNS = ["Bucket", "Key", "ETag"]

# What S3 Inventory calls its columns in CSV, and in Parquet.
_NAMES = {
    "bucket": ("bucket", "Bucket"),
    "key": ("key", "Key"),
    "uri": ("uri",),
    "etag": ("etag", "e_tag", "ETag"),
    "size": ("size", "Size", "bytes"),
    "latest": ("is_latest", "IsLatest"),
    "deleted": ("is_delete_marker", "IsDeleteMarker"),
}


class ManifestError(SplitError):
    """The manifest can't be read; the message names the object, the row and the reason."""


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """A file of rows; `columns` are those of an inventory's CSV, which has no header and encodes its keys."""

    uri: str
    etag: str | None
    size: int
    format: str
    columns: list[str] | None = None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None} | {"etag": self.etag}


@dataclass(frozen=True, slots=True)
class RowPage:
    """Some entries of a file, and where its next page begins (None: this is the last one)."""

    entries: list[Entry]
    next: int | None


async def read_rows(s3: Any, file: ManifestFile, position: int | None) -> RowPage:
    """The page at `position` (None: the first). Raises ManifestError."""
    if file.etag is None:
        object_ = await PinnedObject.find(s3, file.uri)
    else:
        object_ = PinnedObject(s3, Location.parse(file.uri), file.etag, file.size)
    if file.format == "parquet":
        return await _read_row_group(object_, file, position or 0)
    if file.uri.endswith(".gz"):
        text, following = await _read_compressed(object_, position or 0)
    else:
        text, following = await _read_text(object_, position or 0)
    entries = await asyncio.to_thread(_parse, file, text, position or 0)
    return RowPage(entries, following)


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
    """Like `_read_text`, for decompressed bytes: everything before `position` is decompressed again and skipped."""
    page = _Page(object_, position)
    for start in range(0, object_.size, _WINDOW_BYTES):
        window = await object_.read(start, start + _WINDOW_BYTES)
        if end := await asyncio.to_thread(page.feed, window):
            return bytes(page.text[:end]), position + end
    page.finish()
    return bytes(page.text), None


def _check_row(object_: PinnedObject, text: bytes | bytearray, position: int) -> None:
    """Raises ManifestError if the text, in which no line end was found, is too long for a row."""
    if len(text) > PAGE_BYTES + ROW_BYTES_MAX and b"\n" not in text:
        message = f"{object_.location.uri}: the row after byte {position} is longer than {ROW_BYTES_MAX} bytes"
        raise ManifestError(message)


class _Page:
    """Lines from a decompressed offset. Decompresses only what they need, so a zip bomb can't fill memory."""

    def __init__(self, object_: PinnedObject, position: int) -> None:
        self.text = bytearray()
        self._object = object_
        self._position = position
        self._skip = position
        self._decompressor = Decompressor("gzip")

    def feed(self, window: bytes) -> int:
        """The end of the page's last line; 0 until it is known."""
        try:
            for piece in self._decompressor.feed(window):
                self.text += piece[self._skip :]
                self._skip = max(0, self._skip - len(piece))
                if len(self.text) > PAGE_BYTES:
                    if end := self.text.rfind(b"\n", 0, PAGE_BYTES) + 1 or self.text.find(b"\n") + 1:
                        return end
                    _check_row(self._object, self.text, self._position)
        except DamagedStream as error:
            raise ManifestError(f"{self._object.location.uri}: {error}") from None
        return 0

    def finish(self) -> None:
        try:
            self._decompressor.finish()
        except DamagedStream as error:
            raise ManifestError(f"{self._object.location.uri}: {error}") from None


def _parse(file: ManifestFile, text: bytes, position: int) -> list[Entry]:
    rows = _json_rows(text) if file.format == "jsonl" else _csv_rows(text, file.columns)
    return _entries(file, rows, f"after byte {position}", file.columns is not None)


def _json_rows(text: bytes) -> Iterator[Any]:
    return (orjson.loads(line) for line in text.splitlines() if not line.isspace())


def _csv_rows(text: bytes, columns: list[str] | None) -> Iterator[dict[str, str]]:
    for row in csv.reader(io.StringIO(text.decode("utf-8-sig"), newline="")):
        if row and [name.lower() for name in row[:2]] != ["bucket", "key"]:
            yield dict(zip(columns or _PLAIN_COLUMNS, row, strict=False))


def _entries(file: ManifestFile, rows: Iterable[Any], where: str, encoded: bool = False) -> list[Entry]:
    entries: list[Entry] = []
    read = count(1)
    try:
        for row in rows:
            entry = _entry(row, unquote_plus if encoded else str)
            if entry is not None:
                entries.append(entry)
            next(read)
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise ManifestError(f"{file.uri}: row {next(read)} {where} names no object: {error}") from None
    return entries


def _entry(row: dict[str, Any], decode: Callable[[str], str]) -> Entry | None:
    """None for an object that is gone: a delete marker, or an old version."""
    value = {
        meaning: next((row[name] for name in names if row.get(name) not in (None, "")), None)
        for meaning, names in _NAMES.items()
    }
    if str(value["latest"]).lower() == "false" or str(value["deleted"]).lower() == "true":
        return None
    bucket, key = value["bucket"] or "", decode(value["key"] or "")
    place = Location.parse(value["uri"]) if value["uri"] else Location(bucket, key)
    if not place.bucket or not place.key:
        raise ValueError(f"it has neither a uri nor a bucket and a key: {row!r:.200}")
    etag = value["etag"] and '"{}"'.format(str(value["etag"]).strip('"'))
    size = None if value["size"] is None else int(value["size"])
    return Entry(place.bucket, place.key, etag, size)


async def _read_row_group(object_: PinnedObject, file: ManifestFile, number: int) -> RowPage:
    footer = await read_metadata(object_)
    if footer.num_row_groups == 0:
        return RowPage([], None)
    wanted = {name for names in _NAMES.values() for name in names}
    group = footer.row_group(number)
    columns = [group.column(index) for index in range(group.num_columns)]
    columns = [column for column in columns if column.path_in_schema in wanted]
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
        entries = await asyncio.to_thread(_row_group_entries, file, sparse, footer, number, names)
    following = number + 1
    return RowPage(entries, following if following < footer.num_row_groups else None)


def _row_group_entries(file: ManifestFile, sparse: BinaryIO, footer: Any, number: int, names: list[str]) -> list[Entry]:
    """The rows of a file that holds only this row group."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(sparse, metadata=footer) as reader:
            batches = reader.iter_batches(_BATCH_ROWS, row_groups=[number], columns=names)
            return _entries(file, (row for batch in batches for row in batch.to_pylist()), f"of row group {number}")
    except (pyarrow.ArrowException, OSError) as error:
        raise ManifestError(f"{file.uri} can't be read: {error}") from None
