"""Records functions: what is a record in each format, what is rejected and how, what is written."""

import bz2
import csv
import gzip
import io
import json
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.contract.task_error import TaskError
from services.worker.child.readers import open_reader
from services.worker.child.records import apply_to_records
from services.worker.child.rejects import Rejects
from services.worker.child.writers import Writer, open_writer

MODULE = sys.modules[__name__]


def keep(record: Any, **_: Any) -> Any:
    return record


def only_late(record: dict[str, str], *, minutes: int) -> dict[str, str] | None:
    return record if int(record["delay"]) >= minutes else None


def spoil_and_raise(record: dict[str, Any]) -> None:
    record.clear()
    raise KeyError("delay")


def refuse_bad(record: Any) -> Any:
    if "bad" in str(record):
        raise ValueError
    return record


def repeat(record: dict[str, Any]) -> list[Any]:
    """As many records as its `n` says, of which a second one can't be written in any format."""
    return [
        record if number != 1 or not record.get("bad") else {**record, "n": "\ud800"} for number in range(record["n"])
    ]


def leave(record: Any) -> None:
    sys.exit(0)


def out_of_memory(record: Any) -> None:
    raise MemoryError


class Part:
    """A file to apply a function to, and what came of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def apply(
        self,
        function: str,
        content: bytes | None = None,
        *,
        name: str = "part.jsonl",
        format: str | None = None,
        output_format: str = "jsonl",
        rejects_max: int | None = None,
        columns: dict[str, Any] | None = None,
        **params: Any,
    ) -> dict[str, int]:
        if content is not None:
            (self.directory / name).write_bytes(content)
        task = {"stage": 1, "index": 7, "sources": {name: {"uri": "s3://b/whole", "byte": 1000}}}
        with Rejects(self.directory / "rejects.jsonl", rejects_max, task) as rejected:
            return apply_to_records(
                f"{__name__}:{function}",
                input=self.directory / name,
                format=format,
                options={},
                columns=columns or {},
                output=self.directory / "output",
                output_format=output_format,
                rejected=rejected,
                params=params,
            )

    @property
    def output(self) -> str:
        return (self.directory / "output").read_bytes().decode()

    def written(self, output_format: str) -> list[Any]:
        path = self.directory / "output"
        if output_format == "parquet":
            return list(pyarrow.parquet.read_table(path).to_pylist())
        reader = open_reader(path, output_format)
        return [reader.parse(raw) for raw in reader.raws()]

    @property
    def records(self) -> list[Any]:
        return [json.loads(line, parse_float=Decimal) for line in self.output.splitlines()]

    @property
    def reject_lines(self) -> list[Any]:
        return [json.loads(line) for line in (self.directory / "rejects.jsonl").read_text().splitlines()]

    @property
    def rejects(self) -> list[Any]:
        """Each with its record's position in the part."""
        return [
            {"position": line["source"]["record"], "reason": line["reason"], "record": line["record"]}
            for line in self.reject_lines
        ]


@pytest.fixture
def part(tmp_path: Path) -> Part:
    return Part(tmp_path)


def counts(
    records_in: int, records_out: int, records_rejected: int, header_bytes: int = 0, *, added: int = 0
) -> dict[str, int]:
    return {
        "records_in": records_in,
        "records_out": records_out,
        "records_rejected": records_rejected,
        "records_filtered": records_in + added - records_out - records_rejected,
        "records_added": added,
        "header_bytes": header_bytes,
    }


def test_csv_records_are_dicts_by_header(part: Part) -> None:
    content = b'carrier,note\r\nUA,"a ""quoted"", field"\r\nAA,"two\r\nlines"\r\n\r\n"DL",\n'
    assert part.apply("keep", content, name="part.csv") == counts(3, 3, 0)
    assert part.records == [
        {"carrier": "UA", "note": 'a "quoted", field'},
        {"carrier": "AA", "note": "two\r\nlines"},
        {"carrier": "DL", "note": ""},
    ]


def test_none_drops_a_record(part: Part) -> None:
    assert part.apply("only_late", b"flight,delay\n1,5\n2,90\n3,15\n", name="p.csv", minutes=15) == counts(3, 2, 0)
    assert [record["flight"] for record in part.records] == ["2", "3"]


def test_each_bad_record_is_rejected_with_place_and_reason(part: Part) -> None:
    content = b"flight,delay\n1,20\n2\n3,NA\n4,5,6\n5,\xff\n6,30"
    assert part.apply("only_late", content, name="p.csv", minutes=15) == counts(6, 2, 4)
    assert part.rejects == [
        {"position": 2, "reason": "the row has 1 fields, the header has 2", "record": ["2"]},
        {
            "position": 3,
            "reason": "ValueError: invalid literal for int() with base 10: 'NA'",
            "record": {"flight": "3", "delay": "NA"},
        },
        {"position": 4, "reason": "the row has 3 fields, the header has 2", "record": ["4", "5", "6"]},
        {
            "position": 5,
            "reason": "not UTF-8: byte 0xff at byte 2 of the record",
            "record": {"flight": "5", "delay": "\\xff"},
        },
    ]


@pytest.mark.parametrize(
    ("name", "content", "starts"),
    [
        ("p.jsonl", '\ufeff1\n{"é": \r\n\n  \n2\n}\n', [5, 20]),
        ("p.txt", "1\r\nbad\r\n\nbad", [3, 9]),
        ("p.csv", '\ufeffa,b\n"x\ny",1\n\nbad\n"bad\n\n",\n1,2\n"é",bad', [16, 20, 33]),
        ("p.csv.gz", "a\nbad\n", [None]),
    ],
)
def test_a_reject_says_where_it_came_from(part: Part, name: str, content: str, starts: list[int | None]) -> None:
    body = content.encode()
    part.apply("refuse_bad", gzip.compress(body) if name.endswith("gz") else body, name=name)
    origins = [{} if start is None else {"byte": 1000 + start} for start in starts]
    assert [line["source"] | {"record": 0} for line in part.reject_lines] == [
        {"uri": "s3://b/whole", **origin, "record": 0} for origin in origins
    ]
    assert {(line["stage"], line["index"]) for line in part.reject_lines} == {(1, 7)}


@pytest.mark.parametrize("output_format", ["jsonl", "csv", "parquet"])
def test_a_list_is_records_all_or_none(part: Part, output_format: str) -> None:
    content = b'{"n": 3, "bad": true}\n{"n": 1, "bad": false}\n{"n": 0, "bad": true}\n{"n": 3, "bad": false}\n'
    counted = part.apply("repeat", content, output_format=output_format)
    assert counted == counts(4, 4, 1, counted["header_bytes"], added=2)
    assert [reject["position"] for reject in part.rejects] == [1]
    assert [int(row["n"]) for row in part.written(output_format)] == [1, 3, 3, 3]


def test_parquet_output_has_the_types_of_the_first_batch(part: Part) -> None:
    rows: list[Any] = [{"n": None, "s": {"a": 1}}] * 9_998 + [{"n": 1, "t": None}, {"s": None, "n": 2.5}]
    odd: list[Any] = [{"n": "x"}, {"n": 7}, {"s": {"a": 2, "b": 3}}, {"u": 1}, [], {"t": "text", "s": {}}]
    content = b"\n".join(orjson.dumps(row) for row in [*rows, *odd])
    assert part.apply("keep", content, output_format="parquet") == counts(10_006, 10_002, 3)
    table = pyarrow.parquet.read_table(part.directory / "output")
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("n", "double"),
        ("s", "struct<a: int64>"),
        ("t", "string"),
    ]
    assert table.num_rows == 10_002
    assert table.slice(9_998).to_pylist() == [
        {"n": 1.0, "s": None, "t": None},
        {"n": 2.5, "s": None, "t": None},
        {"n": 7.0, "s": None, "t": None},
        {"n": None, "s": {"a": None}, "t": "text"},
    ]
    assert [(reject["position"], reject["record"]) for reject in part.rejects] == [
        (10_004, {"u": 1}),
        (10_001, {"n": "x"}),
        (10_003, {"s": {"a": 2, "b": 3}}),
    ]
    assert "column 'n' is of type double" in part.rejects[1]["reason"]


def test_a_rejected_record_is_shown_as_it_was(part: Part) -> None:
    assert part.apply("spoil_and_raise", b'{"a": 1}\n') == counts(1, 0, 1)
    assert part.rejects == [{"position": 1, "reason": "KeyError: 'delay'", "record": {"a": 1}}]
    part.apply("spoil_and_raise", b"a\n1\n", name="p.csv")
    assert part.rejects == [{"position": 1, "reason": "KeyError: 'delay'", "record": {"a": "1"}}]


def test_jsonl_records_are_any_json_values(part: Part) -> None:
    content = b'\xef\xbb\xbf{"n": 1}\r\n\n{"a": "\xc3\xa9\xe2\x80\xa8"}\n  \nnull\n"text"\n3'
    assert part.apply("keep", content) == counts(5, 4, 0)  # a null record comes back as None and is dropped
    assert part.output == '{"n":1}\n{"a":"é\u2028"}\n"text"\n3\n'


@pytest.mark.parametrize(
    ("line", "reason", "record"),
    [
        (b'{"n": 1', "not JSON: Expecting ',' delimiter at character 8", '{"n": 1'),
        (b'{"n": NaN}', "not JSON: NaN is not a JSON number", '{"n": NaN}'),
        (b"\xff\xfe", "not UTF-8: byte 0xff at byte 0 of the record", "\\xff\\xfe"),
        (b"[" * 100_000, "not JSON that can be read: nested too deeply", "[" * 100_000),
        (b'"\\ud800"', "not Unicode: an escape that is half a surrogate pair", '"\\ud800"'),
    ],
)
def test_bad_json_costs_one_record(part: Part, line: bytes, reason: str, record: str) -> None:
    assert part.apply("keep", b"1\n" + line + b"\n2\n") == counts(3, 2, 1)
    (reject,) = part.rejects
    assert reject["reason"].startswith(reason)
    assert (reject["position"], reject["record"]) == (2, record)


def test_text_records_are_lines_without_their_ends(part: Part) -> None:
    assert part.apply("keep", "one\r\n\n drei €\nlast".encode(), name="p.txt") == counts(4, 4, 0)
    assert part.records == ["one", "", " drei €", "last"]


def test_tsv_json_and_compressed_files(part: Part) -> None:
    part.apply("keep", b"a\tb\n1\t2,5\n", name="p.tsv")
    assert part.records == [{"a": "1", "b": "2,5"}]
    part.apply("keep", b'{\n "whole": ["document"]\n}', name="p.json")
    assert part.records == [{"whole": ["document"]}]
    part.apply("keep", gzip.compress(b"a\n1\n"), name="p.csv.gz")
    assert part.records == [{"a": "1"}]
    part.apply("keep", bz2.compress(b"1\n2\n"), name="p.NDJSON.bz2")
    assert part.records == [1, 2]


def test_parquet_rows_are_dicts(part: Part) -> None:
    table = pyarrow.table(
        {"n": [1, None], "at": [datetime(2013, 1, 31, 12), None], "price": [Decimal("1.50"), Decimal("2.00")]}
    )
    pyarrow.parquet.write_table(table, part.directory / "p.parquet")
    assert part.apply("keep", name="p.parquet") == counts(2, 2, 0)
    assert part.records == [
        {"n": 1, "at": "2013-01-31T12:00:00", "price": Decimal("1.50")},
        {"n": None, "at": None, "price": Decimal("2.00")},
    ]
    part.apply("spoil_and_raise", name="p.parquet")
    assert part.rejects[1]["record"] == {"n": None, "at": None, "price": 2.0}


def test_a_directory_is_read_part_by_part(part: Part) -> None:
    (part.directory / "parts").mkdir()
    (part.directory / "parts" / "00000001.csv").write_text("b\n2\n")
    (part.directory / "parts" / "00000000.csv").write_text("a\n1\n")
    (part.directory / "parts" / "00000002.json").write_text('{"c": 3}')
    assert part.apply("keep", name="parts") == counts(3, 3, 0)
    assert part.records == [{"a": "1"}, {"b": "2"}, {"c": 3}]


def test_the_format_given_wins_over_the_name(part: Part) -> None:
    assert part.apply("keep", b"a,b\n", name="p.csv", format="text") == counts(1, 1, 0)
    assert part.records == ["a,b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.bin", b"", "can't tell the record format of 'p.bin': its name must end in one of .jsonl, "),
        ("p", b"", "can't tell the record format of 'p'"),
        ("p.csv", b"a,b,a\n1,2,3\n", "the CSV header names the column 'a' twice"),
        ("p.csv", b"a,\xff\n1,2\n", "the CSV header is not UTF-8: byte 0xff"),
        ("p.jsonl.gz", gzip.compress(b"1\n" * 99999)[:-20], "the compressed input is damaged: "),
        ("p.jsonl.gz", b"plain", "the compressed input is damaged: "),
        ("p.parquet", b"no parquet", "the Parquet file can't be read: "),
    ],
)
def test_unreadable_input_is_told(part: Part, name: str, content: bytes, message: str) -> None:
    with pytest.raises(TaskError) as invalid:
        part.apply("keep", content, name=name)
    assert (invalid.value.type, invalid.value.retryable) == ("input_invalid", False)
    assert invalid.value.message.startswith(f"s3://b/whole: {message}")


@pytest.mark.parametrize(("name", "content"), [("p.csv", b""), ("p.csv", b"a,b\n"), ("p.jsonl", b""), ("p.txt", b"")])
def test_without_a_record_nothing_tells_the_output_s_columns(part: Part, name: str, content: bytes) -> None:
    assert part.apply("keep", content, name=name, output_format="csv") == counts(0, 0, 0)
    assert part.output == ""
    (part.directory / "output").unlink()
    assert part.apply("keep", content, name=name, output_format="parquet") == counts(0, 0, 0)
    assert not (part.directory / "output").exists()


def test_csv_output_has_the_keys_of_the_first_record(part: Part) -> None:
    content = b'{"a": 1, "b": "x,y"}\n{"b": "two\\nlines", "a": null}\n{"a": 1}\n{"a": 1, "b": 2, "c": 3}\n1\n'
    assert part.apply("keep", content, output_format="csv") == counts(5, 2, 3, header_bytes=4)
    assert part.output == 'a,b\n1,"x,y"\n,"two\nlines"\n'
    assert [reject["reason"] for reject in part.rejects] == [
        "the record has the keys ['a'], the first one had ['a', 'b']",
        "the record has the keys ['a', 'b', 'c'], the first one had ['a', 'b']",
        "a CSV record must be a dict, this is of type int",
    ]


def test_more_rejects_than_allowed_fail_the_task(part: Part) -> None:
    assert part.apply("keep", b"{\n1\n{\n", rejects_max=2) == counts(3, 1, 2)
    with pytest.raises(TaskError) as exceeded:
        part.apply("keep", b"{\n1\n{\n", rejects_max=1)
    assert (exceeded.value.type, exceeded.value.retryable) == ("rejects_exceeded", False)
    assert "rejects_max = 1 " in exceeded.value.message
    assert "not JSON" in exceeded.value.message
    assert len(part.rejects) == 2


def test_no_rejects_no_file(part: Part) -> None:
    part.apply("keep", b"1\n")
    assert not (part.directory / "rejects.jsonl").exists()


@pytest.mark.parametrize(("function", "error"), [("leave", SystemExit), ("out_of_memory", MemoryError)])
def test_what_concerns_the_process_is_not_a_reject(part: Part, function: str, error: type[BaseException]) -> None:
    with pytest.raises(error):
        part.apply(function, b"1\n")


def write(format: str, path: Path, records: list[Any]) -> Writer:
    writer = open_writer(format, path, lambda: None, lambda *_: None)
    writer.write_all(records)
    writer.close()
    return writer


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.lists(st.fixed_dictionaries({"a": text, 'b"': text}), min_size=1))
def test_csv_written_is_csv_read(tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, str]]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.csv"
    writer = write("csv", path, records)
    reader = open_reader(path)
    assert [reader.parse(raw) for raw in reader.raws()] == records
    assert path.read_bytes()[: writer.header_bytes] in (b'a,"b"""\n', b'"b""",a\n')


@given(st.lists(st.lists(text, min_size=2, max_size=2), min_size=2))
def test_csv_is_read_as_python_reads_it(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    rows[0] = ["a", "b"]
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows(rows)
    path = tmp_path_factory.getbasetemp() / "python.csv"
    path.write_bytes(buffer.getvalue().encode())
    reader = open_reader(path)
    assert [list(reader.parse(raw).values()) for raw in reader.raws()] == rows[1:]


@settings(max_examples=30)
@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
            lambda inner: st.lists(inner) | st.dictionaries(text, inner),
        )
    )
)
def test_jsonl_written_is_jsonl_read(tmp_path_factory: pytest.TempPathFactory, records: list[Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    write("jsonl", path, records)
    reader = open_reader(path)
    assert [reader.parse(raw) for raw in reader.raws()] == records
