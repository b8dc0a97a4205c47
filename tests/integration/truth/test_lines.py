"""What comes out of CSV, TSV and JSON lines never depends on where they were cut, nor on who reads them.

There are few examples in a usual run; PIECEWORK_EXAMPLES=1000 looks longer.
"""

import codecs
import csv
import gzip
import io
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import zstandard
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from services.contract.task_error import TaskError
from services.contract.task_input import parse_input
from services.inputs.chunk import SplitError
from services.inputs.names import named, unique_names
from services.inputs.sample import find_columns
from services.platform.aws import Aws
from services.platform.settings import Settings
from tests.integration.truth.reading import Cutting, Result

look = examples(
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    max_examples=int(os.environ.get("PIECEWORK_EXAMPLES", "5")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
PARTS = (1, 2, 7, 50)
COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}
ENDS, SUFFIXES = st.sampled_from(["\n", "\r\n"]), st.sampled_from([*COMPRESS])


class Objects:
    """Puts an object and reads it in every way: cut into 1, 2, 7 and 50 parts, by record functions and by SQL."""

    def __init__(self, aws: Aws, settings: Settings, directory: Path) -> None:
        self.s3, self.bucket, self.directory = aws.s3, settings.bucket, directory

    async def read(self, data: bytes, suffix: str, **options: Any) -> tuple[list[Result], list[Result]]:
        """By record functions, and by SQL. An error that every way must have is raised as an ExceptionGroup."""
        await self.s3.put_object(Bucket=self.bucket, Key=f"in{suffix}", Body=COMPRESS[suffix](data))
        cutting = Cutting(self.s3, self.bucket, f"s3://{self.bucket}/in{suffix}", self.directory)
        results: tuple[list[Result], list[Result]] = ([], [])
        errors = []
        for number in PARTS:
            size = (
                {"part_bytes": max(1, len(data) // number)} if suffix or options.get("multiline") else {"parts": number}
            )
            for sql, found in enumerate(results):
                try:
                    parts = await cutting.parts(type="lines", **options, **size)
                    found.append(await cutting.read(parts, sql=bool(sql)))
                except (TaskError, SplitError) as error:
                    errors.append(error)
        if errors:
            raise ExceptionGroup("not read", errors)
        return results

    async def columns(self, **options: Any) -> list[str]:
        """The fields of the records, in the order of their columns."""
        cutting = Cutting(self.s3, self.bucket, f"s3://{self.bucket}/in", self.directory)
        parts = await cutting.parts(type="lines", **options)
        return list(await find_columns(self.s3, [parse_input(part) for part in parts]) or {})


def texts(pieces: list[str], max_size: int) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces), max_size=max_size).map("".join)


TEXT = texts(['"', '""', ",", ";", "\t", " ", "\n", "\r\n", "'", "\\", "a", "7", "é", "\ufeff", "NULL", "\0", "#"], 6)
NAMES = st.lists(
    st.sampled_from(["id", "Id", "ID", "a b", 'q"', "é", "x,y", "select", "7"]), min_size=1, max_size=5, unique=True
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    """A header and rows of it; a row is not a single empty field, which is a blank line to CSV."""
    names = draw(NAMES)
    cell = TEXT if len(names) > 1 else TEXT.filter(bool)
    return names, draw(st.lists(st.lists(cell, min_size=len(names), max_size=len(names)), min_size=1, max_size=12))


@look
@given(
    tables(),
    st.sampled_from(["csv", "tsv"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([*COMPRESS]),
    st.booleans(),
)
async def test_a_table_comes_out_as_it_went_in(
    aws: Aws, settings: Settings, tmp_path: Path, table: Any, format: str, end: str, suffix: str, mark: bool
) -> None:
    names, rows = table
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter="," if format == "csv" else "\t", lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([names, *rows])
    data = ("\ufeff" if mark else "").encode() + buffer.getvalue().encode()

    by_function, by_sql = await Objects(aws, settings, tmp_path).read(data, suffix, format=format, multiline=True)

    wanted = [dict(zip(names, row, strict=True)) for row in rows]
    for result in by_function:
        assert (result.records, result.rejects) == (wanted, [])
        assert b"".join(result.copies) == data.removeprefix(codecs.BOM_UTF8)
    in_sql = [dict(zip(unique_names(names), (cell or None for cell in row), strict=True)) for row in rows]
    for result in by_sql:
        assert (result.records, result.rejects) == (in_sql, [])


MARKS = texts(['"', '"', ",", ",", ",", "\n", "\n", "\n", "a", "bc", " ", "é", '"x, y"', '""', "\r"], 60)


@look
@given(st.sampled_from(["a,b\n", "a\n", "x,,z\n", '"a","b"\r\n']), MARKS, st.booleans())
async def test_whatever_is_written_is_read_alike(
    aws: Aws, settings: Settings, tmp_path: Path, header: str, body: str, multiline: bool
) -> None:
    """The same records and rejects from any cut and by both readers, or an error of both that names the fault."""
    try:
        results = await Objects(aws, settings, tmp_path).read(
            (header + body).encode(), "", format="csv", multiline=multiline
        )
    except* (TaskError, SplitError) as group:
        assert all("s3://" in str(error) or "CSV header" in str(error) for error in group.exceptions)
    else:
        by_function, by_sql = results
        for result in by_function:
            result.records = [{name: value or None for name, value in record.items()} for record in result.records]
        assert len({result.key() for result in [*by_function, *by_sql]}) == 1


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**70), max_value=2**70)
    | st.decimals(allow_nan=False, allow_infinity=False, places=3)
    | st.floats(allow_nan=False, allow_infinity=False, width=32).map(lambda value: Decimal(repr(value)))
    | st.sampled_from(["", "x", "é", "\0", '"', "\u2028", "02142", "2026-11-29", "NaN", "\ufeff"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["n", "N", "m"]), inner, max_size=2),
    max_leaves=4,
)
RECORDS = st.dictionaries(st.sampled_from(["id", "Id", "v", "w", "é", ""]), VALUES, min_size=1, max_size=4)
LINES = st.one_of(
    RECORDS.map(lambda record: _dump(record)),
    st.sampled_from(["", " ", "{", '{"v": NaN}', '{"v": 1}{"v": 2}', '{"v": "\\ud800"}', '{"v": 1, "v": 2}']),
    st.sampled_from(['{"v": ' + "9" * 5000 + "}", '{"v": ' + "[" * 300_000 + "]" * 300_000 + "}"]),
)


def _dump(value: Any) -> str:
    """JSON with the digits of a Decimal."""
    match value:
        case Decimal():
            return str(value)
        case dict():
            return "{" + ", ".join(f"{json.dumps(name)}: {_dump(each)}" for name, each in value.items()) + "}"
        case list():
            return "[" + ",".join(map(_dump, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


@look
@given(st.lists(LINES, min_size=1, max_size=20), ENDS, SUFFIXES)
async def test_json_lines_are_read_alike(
    aws: Aws, settings: Settings, tmp_path: Path, lines: list[str], end: str, suffix: str
) -> None:
    objects = Objects(aws, settings, tmp_path)
    data = end.join(lines).encode()

    by_function, by_sql = await objects.read(data, suffix, format="jsonl")

    good = [record for line in lines if (record := _read(line)) is not None]
    for result in by_function:
        assert result.records == good
        assert b"".join(result.copies) == data
        assert len(result.rejects) == sum(not line.isspace() and line != "" for line in lines) - len(good)
    assert len({result.key() for result in by_sql}) == 1, "columns and types are those of the whole"
    assert by_sql[0].rejects == by_function[0].rejects
    await objects.s3.put_object(Bucket=objects.bucket, Key="in", Body=data)
    fields = await objects.columns(format="jsonl")
    names = dict(zip(fields, unique_names(named(fields)), strict=True))
    assert len(by_sql[0].records) == len(good)
    for record, row in zip(good, by_sql[0].records, strict=True):
        assert _same({names[name]: value for name, value in record.items()}, row), (record, row)


def _read(line: str) -> Any:
    """By Python's own reader, with exact numbers."""
    try:
        record = json.loads(line, parse_float=Decimal, parse_constant=float)
        json.dumps(record, default=str, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return record


def _same(value: Any, other: Any) -> bool:
    """Whether SQL's value is the record's: a field that is not there is null, and a text may hold a value's JSON."""
    match value, other:
        case dict(), dict():
            return all(_same(value.get(name), other.get(name)) for name in value.keys() | other.keys())
        case list(), list():
            return len(value) == len(other) and all(map(_same, value, other))
        case (str(), str()) | (None, _) | (bool(), bool()):
            return bool(value == other)
        case _, str():
            return _same(value, json.loads(other, parse_float=Decimal))
        case bool(), _:
            return False
        case (int() | Decimal(), int() | Decimal()):
            return Decimal(value) == Decimal(other)
    return False
