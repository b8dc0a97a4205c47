"""Lines, CSV and JSON as records, and the steps by which a child prepares a part of them."""

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.contract.task_error import TaskError
from services.inputs.csv_dialect import CsvDialect
from services.inputs.lines.csv_rows import CsvRows
from services.inputs.lines.records import FixedRecords, JsonDocument, JsonLines, TextLines
from services.inputs.places import Places, Source, note_block
from services.inputs.reader import Reader
from services.platform.decompress import DamagedStream, Decompressor

_READ_BYTES = 1 << 20


def open_reader(path: Path, format: str, options: Mapping[str, Any]) -> Reader:
    """`csv` says what is unusual about a CSV, `record_bytes` how long each record of the format `fixed` is."""
    match format:
        case "jsonl":
            return JsonLines(path)
        case "json":
            return JsonDocument(path)
        case "csv" | "tsv":
            return CsvRows(path, CsvDialect.of_part(options.get("csv"), format))
        case "fixed":
            return _fixed(path, options.get("record_bytes"))
    return TextLines(path)


def _fixed(path: Path, record_bytes: int | None) -> Reader:
    if record_bytes is None:
        message = f"how long the records of {path.name!r} are is not known: use an input of type lines, format fixed"
        raise TaskError("input_invalid", message, retryable=False)
    return FixedRecords(path, record_bytes)


def decompress(
    input: Path,
    *,
    source: str,
    index: str,
    start: int,
    compression: str,
    header: str,
    whole: int,
    skip: int,
    tail: int,
) -> None:
    """Write the header; the text of the `whole` compressed bytes without its first `skip` bytes; and `tail` bytes more.

    The `index` gets the start of each block, in the object (the first one is at byte `start`) and in the file. Raises
    TaskError (input_invalid).
    """
    begin, skipped, left = header.encode(), skip, whole
    with Path(source).open("rb") as compressed, input.open("wb") as target, Path(index).open("wb") as blocks:

        def note(position: int, text: int) -> None:
            note_block(blocks, position, len(begin) + text - skipped)

        target.write(begin)
        try:
            decompressor = Decompressor(compression, note, start=start)
            while left and (data := compressed.read(min(left, _READ_BYTES))):
                left -= len(data)
                for piece in decompressor.feed(data):
                    target.write(piece[skip:])
                    skip = max(0, skip - len(piece))
            decompressor.finish()
            while tail and (data := compressed.read(_READ_BYTES)):
                for piece in decompressor.feed(data):
                    target.write(piece[:tail])
                    tail = max(0, tail - len(piece))
        except DamagedStream as error:
            raise TaskError("input_invalid", f"the input can't be decompressed: {error}", retryable=False) from None
    Path(source).unlink()


def check_quotes(input: Path, *, format: str, csv: dict[str, Any] | None, source: Source) -> None:
    """Check that the part ends outside quotes, as whole records do. Raises TaskError (records_torn).

    The split cuts at line ends. The first wrong cut, inside a quoted field, ends a part that begins correctly, and this
    check finds it. So no torn record goes unnoticed, whatever reads the part.
    """
    if input.stat().st_size == 0:
        return
    dialect = CsvDialect.of_part(csv, format)
    if dialect.plain:
        return
    with input.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        opened = dialect.left_open(data)
        if opened is None:
            return
        record = data.rfind(b"\n", 0, opened) + 1
        pieces = (data[at : min(at + _READ_BYTES, record)] for at in range(0, record, _READ_BYTES))
        line = 1 + sum(piece.count(b"\n") for piece in pieces)
    uri, place = source["uri"], Places(source).find(record)
    at = "byte {byte}" if "byte" in place else "byte {block_byte} of the block at byte {block}"
    raise TaskError(
        "records_torn",
        f"{uri}: the record at {at.format(**place)} (line {line} of this part) has a quote that the part's end leaves "
        "open: if quoted fields may hold newlines, set `multiline: true` in the job's input (or the stage's resplit); "
        "otherwise a quote is missing there",
        retryable=False,
    )


STEPS = {"decompress": decompress, "check_quotes": check_quotes}
