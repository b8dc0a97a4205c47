"""Inputs: options that do not go together are refused, with the fix; what is not said is found out."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from services.inputs.csv_dialect import CsvDialect
from services.inputs.grid import needs_grid
from services.inputs.spec import Input, LinesInput

INPUT: TypeAdapter[Input] = TypeAdapter(Input)


def lines(**options: Any) -> LinesInput:
    return LinesInput.model_validate({"type": "lines", "uri": "s3://b/a"} | options)


@pytest.mark.parametrize(
    ("input", "why"),
    [
        ({"part_bytes": 1, "parts": 1}, "give part_bytes or parts, not both"),
        ({"format": "fixed"}, "record_bytes belongs to format fixed"),
        ({"record_bytes": 1}, "record_bytes belongs to format fixed"),
        ({"uri": "s3://b/a.gz", "parts": 3}, "give part_bytes, not parts"),
        ({"compression": "zstd", "parts": 3}, "give part_bytes, not parts"),
        ({"multiline": True}, "multiline: true belongs to the formats csv and tsv, not to text"),
        ({"uri": "s3://b/a.jsonl.XZ"}, "bzip2 and xz can't be split"),
        ({"format": "csv", "delimiter": "ab"}, "one ASCII character"),
        ({"format": "csv", "delimiter": '"'}, "must differ from quote and escape"),
        ({"type": "objects", "prefix": "s3://b/", "objects_per_task": 2, "part_bytes": 1}, "not both"),
        ({"type": "parquet", "row_groups": 1, "parts": 2}, "only one of row_groups, part_bytes and parts"),
    ],
)
def test_options_that_do_not_go_together(input: dict[str, Any], why: str) -> None:
    source = {"type": "lines", "uri": "s3://b/a"} | input
    if source["type"] == "objects":
        del source["uri"]
    with pytest.raises(ValidationError, match=why):
        INPUT.validate_python(source)


@pytest.mark.parametrize(
    ("options", "grid"),
    [
        ({}, False),
        ({"uri": "s3://b/a.csv.gz"}, True),
        ({"uri": "s3://b/a.GZ"}, True),
        ({"uri": "s3://b/a.gz", "compression": "none"}, False),
        ({"uri": "s3://b/a.bgz"}, True),
        ({"uri": "s3://b/a.zst"}, True),
        ({"compression": "zstd"}, True),
        ({"format": "csv", "multiline": True}, True),
    ],
)
def test_what_needs_a_reader_of_every_byte_is_known_from_the_input_alone(options: dict[str, Any], grid: bool) -> None:
    assert needs_grid(lines(**options)) is grid


def test_only_what_is_unusual_about_a_csv_is_told_to_its_readers() -> None:
    for format in ("csv", "tsv"):
        for options in ({}, {"delimiter": "|", "quote": None}, {"escape": "!", "header": False}, {"escape": '"'}):
            dialect = lines(format=format, **options).csv
            assert dialect is not None
            told = dialect.as_options(format)
            assert told == {name: value for name, value in options.items() if options != {"escape": '"'}}
            assert CsvDialect.of_part(told, format) == dialect
    assert lines().csv is None
