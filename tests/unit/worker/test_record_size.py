"""No record is larger than 64 MiB: a longer one is rejected, or fails its task, and is never held whole."""

import bz2
import gzip
import json
import lzma
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import cramjam
import fastavro
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from services.contract.task_error import TaskError
from services.inputs.avro.header import HEADER
from services.inputs.record_size import RECORD_BYTES_MAX
from services.worker.child.records import apply_to_records
from services.worker.child.rejects import Rejects
from services.worker.child.sql import Room, run_query
from services.worker.child.sql_views import Source
from tests.unit.worker.conftest import Run

MiB = 1 << 20
LIMIT = 100_000  # in place of 64 MiB, for what is read in this process
LONG = b"x" * (LIMIT + 1)
TOO_LONG = f"longer than {LIMIT} bytes"
KEEP = "def keep(record):\n    return len(record) if hasattr(record, 'decode') else record\n"

Answer = tuple[dict[str, Any], list[dict[str, Any]]]


class Reading:
    """Reads files as a child does; what it gets of them are the counts, and the rejects."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def records(self, name: str, data: bytes, format: str | None = None, **options: Any) -> Answer:
        path, rejected = self._put(name, data)
        with rejected:
            counts = apply_to_records(
                "keeping:keep",
                input=path,
                format=format,
                options=options,
                columns={},
                output=self._directory / "output",
                output_format="jsonl",
                rejected=rejected,
                params={},
            )
        return counts, self._rejects()

    def sql(self, name: str, data: bytes) -> Answer:
        path, rejected = self._put(name, data)
        with rejected:
            counts = run_query(
                "SELECT count(*) AS n FROM input",
                input=Source(path),
                inputs={},
                output=self._directory / "output",
                output_format="jsonl",
                params={},
                room=Room(1 << 30, 1, self._directory / "spill"),
                rejected=rejected,
                check_input=lambda: None,
            )
        return counts, self._rejects()

    def _put(self, name: str, data: bytes) -> tuple[Path, Rejects]:
        path = self._directory / name
        path.write_bytes(data)
        return path, Rejects(self._directory / "rejects", None, {"stage": 0, "index": 0, "sources": {}})

    def _rejects(self) -> list[dict[str, Any]]:
        path = self._directory / "rejects"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reading:
    limits = {"RECORD_BYTES_MAX": LIMIT, "BLOCK_BYTES_MAX": 2 * LIMIT}
    for module in [module for name, module in sys.modules.items() if name.startswith("services.inputs.")]:
        for name, limit in limits.items():
            if getattr(module, name, None) == limits[name] // LIMIT * RECORD_BYTES_MAX:
                monkeypatch.setattr(module, name, limit)
    (tmp_path / "keeping.py").write_text(KEEP)
    monkeypatch.syspath_prepend(tmp_path)
    return Reading(tmp_path)


LINES = b'{"a": 1}\n{"a": "' + LONG + b'"}\n{"a": 2}\n'


@pytest.mark.parametrize("name", ["data.jsonl", "data.txt", "data.json"])
@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress, bz2.compress, lzma.compress, bytes])
def test_a_line_that_is_too_long_is_rejected_and_the_next_one_read(
    reading: Reading, name: str, compress: Callable[[bytes], bytes]
) -> None:
    counts, (reject,) = reading.records(name, compress(LINES))
    assert (counts["records_in"], counts["records_out"], counts["records_rejected"]) == (3, 2, 1)
    assert TOO_LONG in reject["reason"] and reject["source"]["record"] == 2


def test_a_record_may_have_just_as_many_bytes(reading: Reading) -> None:
    longest = b'"' + b"x" * (LIMIT - 3) + b'"\n'
    assert len(longest) == LIMIT
    assert reading.records("data.jsonl", longest + longest.rstrip())[0]["records_out"] == 2


def test_a_document_that_is_too_long_is_rejected(reading: Reading) -> None:
    counts, (reject,) = reading.records("data.json", b'{"a": "' + LONG + b'"}')
    assert (counts["records_out"], counts["records_rejected"]) == (0, 1)
    assert TOO_LONG in reject["reason"]


def test_the_elements_of_a_longer_document_are_rows(reading: Reading, tmp_path: Path) -> None:
    _, (reject,) = reading.sql("data.json", b"[" + b'{"a": 1}, ' * LIMIT + b'{"a": "' + LONG + b'"}]')
    assert json.loads((tmp_path / "output").read_text()) == {"n": LIMIT}
    assert TOO_LONG in reject["reason"]


@pytest.mark.parametrize(
    ("how", "value"),
    [(Reading.records, LONG), (Reading.records, b'"' + b"x\n" * LIMIT + b'"'), (Reading.sql, LONG)],
)
def test_a_record_of_csv_that_is_too_long_fails_the_task(
    reading: Reading, how: Callable[[Reading, str, bytes], Answer], value: bytes
) -> None:
    """What of it is quoted is not known, so nor is where the next one begins."""
    with pytest.raises(TaskError, match=rf"the CSV record that goes on in line \d+ is {TOO_LONG}") as error:
        how(reading, "data.csv", b"a,b\n1,2\n1," + value + b"\n3,4\n")
    assert error.value.type == "input_invalid" and not error.value.retryable


def test_an_element_of_xml_that_is_too_long_is_rejected(reading: Reading) -> None:
    data = b"<all><r>1</r><r>" + LONG + b"</r><r>2</r></all>"
    counts, (reject,) = reading.records("data.xml", data, "xml", record_tag="r")
    assert (counts["records_out"], counts["records_rejected"]) == (2, 1)
    assert TOO_LONG in reject["reason"]


@pytest.mark.parametrize("compress", [gzip.compress, bytes])
def test_sql_rejects_a_line_that_is_too_long(
    reading: Reading, tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    counts, (reject,) = reading.sql("data.jsonl", compress(LINES * 2))[0], reading._rejects()[:1]
    assert json.loads((tmp_path / "output").read_text()) == {"n": 4}
    assert counts["records_rejected"] == 2
    assert TOO_LONG in reject["reason"] and reject["source"]["record"] == 2


def avro(schema: Any, codec: bytes, count: int, block: bytes) -> bytes:
    """An Avro file of one block, which says that it holds `count` records."""
    file, sync = BytesIO(), b"s" * 16
    meta = {"avro.schema": json.dumps(schema).encode(), "avro.codec": codec}
    fastavro.schemaless_writer(file, HEADER, {"magic": b"Obj\x01", "meta": meta, "sync": sync})
    fastavro.schemaless_writer(file, "long", count)
    fastavro.schemaless_writer(file, "bytes", block)
    return file.getvalue() + sync


def text(size: int) -> bytes:
    file = BytesIO()
    fastavro.schemaless_writer(file, "string", "x" * size)
    return file.getvalue()


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def test_an_avro_record_that_is_too_long_is_rejected(reading: Reading) -> None:
    block = text(3) + text(LIMIT + 1) + text(4)
    counts, (reject,) = reading.records("data.avro", avro("string", b"deflate", 3, deflate(block)))
    assert (counts["records_out"], counts["records_rejected"]) == (2, 1)
    assert TOO_LONG in reject["reason"] and reject["source"]["record"] == 2


CODECS = {
    b"null": bytes,
    b"deflate": deflate,
    b"bzip2": bz2.compress,
    b"xz": lzma.compress,
    b"zstandard": zstandard.compress,
    b"snappy": lambda data: bytes(cramjam.snappy.compress_raw(data)) + zlib.crc32(data).to_bytes(4),
}


@pytest.mark.parametrize("codec", CODECS)
def test_an_avro_block_that_is_too_long_fails_the_task(reading: Reading, codec: bytes) -> None:
    block = text(LIMIT - 10) * 3
    with pytest.raises(TaskError, match=f"a block is longer than {2 * LIMIT} bytes: write it with shorter ones"):
        reading.records("data.avro", avro("string", codec, 3, CODECS[codec](block)))


@pytest.mark.parametrize("codec", CODECS)
def test_avro_blocks_of_each_codec_are_read(reading: Reading, codec: bytes) -> None:
    counts, rejects = reading.records("data.avro", avro("string", codec, 9, CODECS[codec](text(100) * 9)))
    assert (counts["records_out"], rejects) == (9, [])


@pytest.mark.parametrize("codec", [b"null", b"deflate"])
def test_a_few_bytes_of_avro_do_not_hold_thousands_of_millions_of_records(reading: Reading, codec: bytes) -> None:
    with pytest.raises(TaskError, match=f"a block of 0 bytes says that it holds {1 << 33} records"):
        reading.records("data.avro", avro("null", codec, 1 << 33, CODECS[codec](b"")))


def test_records_of_avro_may_be_empty(reading: Reading) -> None:
    empty = avro({"type": "record", "name": "r", "fields": []}, b"null", 1000, b"")
    assert reading.records("data.avro", empty)[0]["records_in"] == 1000


def test_a_row_of_parquet_that_is_too_long_is_rejected(reading: Reading) -> None:
    file = BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"a": ["x", LONG.decode(), "y"]}), file)
    counts, (reject,) = reading.records("data.parquet", file.getvalue())
    assert (counts["records_out"], counts["records_rejected"]) == (2, 1)
    assert TOO_LONG in reject["reason"]


# Of the whole: a child's own, the beginning of the record, and that as it is put together, decompressed, decoded.
PEAK_BYTES_MAX = 60 * MiB + 5 * RECORD_BYTES_MAX
WHOLE_BYTES = 400 * MiB


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("line.jsonl", lambda: gzip.compress(b'{"a": 1}\n{"a": "' + b"x" * WHOLE_BYTES + b'"}\n{"a": 2}\n', 1)),
        ("field.csv", lambda: gzip.compress(b"a,b\n1,2\n1," + b"x" * WHOLE_BYTES + b"\n3,4\n", 1)),
        ("block.avro", lambda: avro("bytes", b"deflate", 1, deflate(b"x" * WHOLE_BYTES))),
    ],
)
async def test_what_is_compressed_a_thousandfold_takes_little_memory(
    run: Run, work: Path, user_code: Path, name: str, data: Callable[[], bytes]
) -> None:
    (user_code / "keeping.py").write_text(KEEP)
    (work / name).write_bytes(data())
    assert (work / name).stat().st_size < 4 * MiB
    answer = await run(
        "records",
        function="keeping:keep",
        input=str(work / name),
        **{"format": None, "options": {}, "declared_columns": {}, "rejects": str(work / "rejects.jsonl")},
        **{"rejects_max": None, "task": {"stage": 0, "index": 0, "sources": {}}, "output_format": "jsonl"},
    )
    assert answer.get("records_rejected") == 1 or answer["error"]["type"] == "input_invalid"
    assert answer["memory_bytes_peak"] < PEAK_BYTES_MAX
