"""Readers of the formats that need to be told something, or that are not text."""

import io
from pathlib import Path
from typing import Any

import fastavro
import pyarrow
import pyarrow.ipc
import pyarrow.orc
import pytest
import zstandard

from services.contract.task_error import Malformed, TaskError
from services.worker.child.prepare import prepare
from services.worker.child.readers import open_reader


def read(path: Path, data: bytes, format: str | None = None, **options: Any) -> list[Any]:
    """Each record, or why it is rejected."""
    path.write_bytes(data)
    reader = open_reader(path, format, **options)
    found: list[Any] = []
    for raw in reader.raws():
        try:
            found.append(reader.parse(raw))
        except Malformed as error:
            found.append(str(error))
    return found


def test_csv_as_its_options_say(tmp_path: Path) -> None:
    data = b"\n\na|b\r\n'x\ny|'''|1\n!|z|2\n\n"
    options = {"delimiter": "|", "quote": "'", "escape": "!"}
    assert read(tmp_path / "in", data, "csv", csv=options) == [{"a": "x\ny|'", "b": "1"}, {"a": "|z", "b": "2"}]
    assert read(tmp_path / "in", b'1\t"2\n', "tsv", csv={"quote": None, "header": False}) == [["1", '"2']]
    assert read(tmp_path / "in", b"a,b\n1,\xe9\n", "csv") == ["not UTF-8: byte 0xe9 at byte 2 of the record"]


def test_csv_is_the_same_each_time_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"\xef\xbb\xbfa,b\n1,2\n\xef\xbb\xbf3,4\n")
    reader = open_reader(tmp_path / "in.csv")
    next(iter(reader.raws()))
    assert [reader.parse(raw) for raw in reader.raws()] == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


@pytest.mark.parametrize(
    ("name", "data"), [("in.json", b"null"), ("in.json", b""), ("in.parquet", b""), ("in.orc", b"")]
)
def test_what_a_task_without_records_leaves_holds_none(tmp_path: Path, name: str, data: bytes) -> None:
    assert read(tmp_path / name, data) == []


def test_records_of_one_length(tmp_path: Path) -> None:
    assert read(tmp_path / "in", b"ab\ncd\nef", "fixed", record_bytes=3) == [
        b"ab\n",
        b"cd\n",
        "the record has 2 bytes, record_bytes is 3",
    ]


def test_zstd_of_several_frames(tmp_path: Path) -> None:
    data = zstandard.compress(b'{"n": 1}\n') + zstandard.compress(b'{"n": 2}\n')
    assert read(tmp_path / "in.jsonl.zst", data) == [{"n": 1}, {"n": 2}]


def test_arrow_and_what_is_extracted_of_it(tmp_path: Path) -> None:
    words = pyarrow.array(["a", "b"] * 10).dictionary_encode()
    table = pyarrow.table({"n": range(20), "word": words})
    sink = io.BytesIO()
    with pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)

    assert read(tmp_path / "in.arrow", sink.getvalue()) == table.to_pylist()
    arguments = {"source": str(tmp_path / "in.arrow"), "numbers": [1, 2]}
    prepare([{"format": "arrow", "step": "extract", "arguments": arguments}], tmp_path / "some.feather")
    assert read(tmp_path / "two.arrow", (tmp_path / "some.feather").read_bytes()) == table.to_pylist()[5:15]
    with pytest.raises(TaskError, match="the Arrow file can't be read"):
        read(tmp_path / "bad.arrow", sink.getvalue()[:-9])


def test_avro(tmp_path: Path) -> None:
    schema = {"type": "record", "name": "r", "fields": [{"name": "n", "type": ["null", "int"]}]}
    records = [{"n": 1}, {"n": None}]
    sink = io.BytesIO()
    fastavro.writer(sink, schema, records)

    assert read(tmp_path / "in.avro", sink.getvalue()) == records
    with pytest.raises(TaskError, match="the Avro file can't be read"):
        read(tmp_path / "in.avro", sink.getvalue()[:-20])


def test_orc(tmp_path: Path) -> None:
    table = pyarrow.table({"n": range(3000), "words": [[str(n), "x"] for n in range(3000)]})
    sink = io.BytesIO()
    pyarrow.orc.write_table(table, sink, stripe_size=1024, batch_size=100)

    assert read(tmp_path / "in.orc", sink.getvalue()) == table.to_pylist()
    with pytest.raises(TaskError, match="the ORC file can't be read"):
        read(tmp_path / "bad.orc", sink.getvalue()[:-9])
