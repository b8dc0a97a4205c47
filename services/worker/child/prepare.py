"""What is done to a task's input before its processor may see it: made of what was fetched, and checked."""

import mmap
from pathlib import Path
from typing import Any

from services.contract.task_error import TaskError
from services.inputs.arrow.read import extract_record_batches
from services.inputs.csv_dialect import CsvDialect
from services.inputs.parquet.read import extract_row_groups
from services.platform.decompress import DamagedStream, Decompressor
from services.worker.child.places import Places, note_block

_READ_BYTES = 1 << 20


def prepare(steps: list[dict[str, Any]], input: Path) -> None:
    """Raises TaskError (input_invalid, records_torn)."""
    for step in steps:
        match step["step"]:
            case "row_groups":
                extract_row_groups(Path(step["source"]), step["row_groups"], input)
            case "record_batches":
                extract_record_batches(Path(step["source"]), step["batches"], input)
            case "decompress":
                _decompress(step, input)
            case "check_quotes":
                _check_quotes(step, input)


def _decompress(step: dict[str, Any], input: Path) -> None:
    """Write the header, what is in the `whole` compressed bytes but `skip` of it, and the first `tail` of the rest.

    To the `index` goes where each block begins, in the object (the first one at byte `start`) and in the file.
    """
    source, header = Path(step["source"]), step["header"].encode()
    with source.open("rb") as compressed, input.open("wb") as target, Path(step["index"]).open("wb") as index:

        def note(position: int, text: int) -> None:
            note_block(index, step["start"] + position, len(header) + text - step["skip"])

        target.write(header)
        try:
            skip, left = step["skip"], step["whole"]
            decompressor = Decompressor(step["compression"], note)
            while left and (data := compressed.read(min(left, _READ_BYTES))):
                left -= len(data)
                for piece in decompressor.feed(data):
                    target.write(piece[skip:])
                    skip = max(0, skip - len(piece))
            decompressor.finish()
            tail = step["tail"]
            while tail and (data := compressed.read(_READ_BYTES)):
                for piece in decompressor.feed(data):
                    target.write(piece[:tail])
                    tail = max(0, tail - len(piece))
        except DamagedStream as error:
            raise TaskError("input_invalid", f"the input can't be decompressed: {error}", retryable=False) from None
    source.unlink()


def _check_quotes(step: dict[str, Any], input: Path) -> None:
    """A part of whole records ends outside quotes.

    The split cuts at line ends. The first cut that fell into a quoted field ends a part that begins right, and that
    part is found here; so no torn record goes unnoticed, whatever reads the part.
    """
    if input.stat().st_size == 0:
        return
    dialect = CsvDialect.of_part(step["csv"], step["format"])
    if dialect.plain:
        return
    with input.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        opened = dialect.left_open(data)
        if opened is None:
            return
        record = data.rfind(b"\n", 0, opened) + 1
        pieces = (data[at : min(at + _READ_BYTES, record)] for at in range(0, record, _READ_BYTES))
        line = 1 + sum(piece.count(b"\n") for piece in pieces)
    uri, place = step["source"]["uri"], Places(step["source"]).find(record)
    at = "byte {byte}" if "byte" in place else "byte {block_byte} of the block at byte {block}"
    raise TaskError(
        "records_torn",
        f"{uri}: the record at {at.format(**place)} (line {line} of this part) has a quote that the part's end leaves "
        "open: if quoted fields may hold newlines, set `multiline: true` in the job's input (or the stage's resplit); "
        "otherwise a quote is missing there",
        retryable=False,
    )
