"""A record function applied to each record of a part: results to one file, rejected records to another."""

import gzip
import json
import lzma
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from services.worker.child.errors import TaskError, describe
from services.worker.child.formats import Malformed, Reader, open_reader, open_writer
from services.worker.child.functions import load_function


@dataclass(slots=True)
class Counts:
    """records_in = records_out + records_rejected + those that the function dropped by returning None."""

    records_in: int = 0
    records_out: int = 0
    records_rejected: int = 0
    header_bytes: int = 0


class _Rejects:
    """rejects.jsonl: `{"position", "reason", "record"}` a line; position counts the part's records from 1."""

    def __init__(self, path: Path, limit: int | None) -> None:
        self._path = path
        self._limit = limit
        self._files = ExitStack()

    def add(self, counts: Counts, reason: str, record: Any) -> None:
        """Raises TaskError (rejects_exceeded) when there are more than the stage allows."""
        if counts.records_rejected == 0:
            self._file = self._files.enter_context(self._path.open("w"))
        counts.records_rejected += 1
        line = {"position": counts.records_in, "reason": reason, "record": record}
        self._file.write(json.dumps(line, default=str) + "\n")
        if self._limit is not None and counts.records_rejected > self._limit:
            message = f"more than rejects_max = {self._limit} records were rejected, the last one because: {reason}"
            raise TaskError("rejects_exceeded", message, retryable=False)

    def __enter__(self) -> "_Rejects":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()


def _readers(path: Path, format: str | None) -> Iterator[Reader]:
    if path.is_dir():
        for part in sorted(path.iterdir()):
            yield open_reader(part)
    else:
        yield open_reader(path, format)


def apply_to_records(
    reference: str,
    *,
    input: Path,
    format: str | None,
    output: Path,
    output_format: str,
    rejects: Path,
    rejects_max: int | None,
    params: Mapping[str, Any],
) -> dict[str, int]:
    """Apply the function to every record of the file, or of each file of the directory; returns the Counts.

    A record is rejected when it can't be parsed, when the function raises, or when its result can't be written.
    """
    function = load_function(reference)
    writer = open_writer(output_format)
    counts = Counts()
    with output.open("wb", buffering=1 << 20) as results, _Rejects(rejects, rejects_max) as rejected:
        for reader in _readers(input, format):
            for raw in _whole(reader):
                counts.records_in += 1
                try:
                    result = function(reader.parse(raw), **params)
                    encoded = None if result is None else writer.encode(result)
                except MemoryError:
                    raise
                except Malformed as error:
                    rejected.add(counts, str(error), reader.show(raw))
                except Exception as error:
                    rejected.add(counts, describe(error), reader.show(raw))
                else:
                    if encoded is not None:
                        counts.records_out += 1
                        results.write(encoded)
    counts.header_bytes = writer.header_bytes
    return asdict(counts)


def _whole(reader: Reader) -> Iterator[Any]:
    """The reader's raw records; a damaged compressed file raises TaskError (input_invalid)."""
    try:
        yield from reader.raws()
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise TaskError("input_invalid", f"the compressed input is damaged: {error}", retryable=False) from None
