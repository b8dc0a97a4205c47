"""Values of tasks.input: what the first release stored is read and written as it was, and a bad one fails alone."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from services.contract.location import Location
from services.contract.task_input import (
    ByteRange,
    CompressedBlocks,
    GridSplit,
    Item,
    NumberedBlocks,
    ObjectGroup,
    Split,
    UnknownInput,
    WholeObject,
    parse_input,
)
from services.worker.child.items import write_items_of_list

URI = "s3://b/dir/a.csv"
PLACE = Location("b", "dir/a.csv")

# As the release before typed values stored them.
STORED: list[dict[str, Any]] = [
    {"type": "bytes", "uri": URI, "etag": '"e"', "format": "text", "start": 0, "end": 7},
    {"type": "bytes", "uri": URI, "etag": '"e"', "format": "csv", "header": "a;b\n", "csv": {"delimiter": ";"}}
    | {"start": 4, "end": 9},
    {"type": "bytes", "uri": URI, "format": "fixed", "record_bytes": 80, "start": 0, "end": 160}
    | {"source": {"uri": "s3://b/dir/a.gz", "byte": 80}},
    {"type": "blocks", "uri": URI, "etag": '"e"', "compression": "bgzip", "format": "jsonl"}
    | {"start": [10, 2], "end": [90, 0], "read_end": 99},
    {"type": "row_groups", "uri": URI, "etag": '"e"', "first": 2, "count": 3, "bytes": 100},
    {"type": "record_batches", "uri": URI, "etag": '"e"', "first": 0, "count": 1, "bytes": 0},
    {"type": "avro_blocks", "uri": URI, "etag": '"e"', "header_end": 50, "start": 50, "end": 99},
    {"type": "object", "uri": URI},
    {"type": "object", "uri": URI, "etag": '"e"', "bytes": 0},
    {"type": "objects", "objects": [{"uri": URI, "etag": '"e"', "bytes": 3}, {"uri": "s3://b/x"}]},
    {"type": "item", "value": None},
    {"type": "item", "value": {"type": "bytes", "n": [1.5, "x"]}},
    {"type": "index", "count": 100},
    {"type": "outputs", "uri": URI},
    {"type": "split", "input": {"type": "objects", "prefix": "s3://b/dir/"}, "slots": 4},
    {"type": "split", "input": {"type": "lines", "uri": URI, "multiline": True}, "etag": '"e"', "bytes": 9}
    | {"part_bytes": 3},
]
# Of formats that came later: a worker of the release before refuses them by their type.
LATER: list[dict[str, Any]] = [
    {"type": "numbered_blocks", "format": "later", "uri": URI, "etag": '"e"', "first": 2, "count": 3, "bytes": 100},
    {"type": "byte_range", "format": "later", "uri": URI, "etag": '"e"', "start": 2, "end": 3, "header": "h"}
    | {"options": {"tag": "x"}},
    {"type": "object", "uri": URI, "etag": '"e"', "version": "v1"},  # the ETag holds a worker that reads no versions
    {"type": "object_version", "uri": URI, "version": "v1"},
    {"type": "object_versions", "objects": [{"uri": URI, "etag": '"e"'}, {"uri": "s3://b/x", "version": "v1"}]},
    {"type": "objects", "objects": [{"uri": URI, "etag": '"e"', "version": "v1"}, {"uri": "s3://b/x"}]},
    {"type": "array_index", "number": 7, "count": 3},
]


@pytest.mark.parametrize("value", STORED + LATER, ids=lambda value: str(value["type"]))
def test_a_value_is_written_as_it_was_read(value: dict[str, Any]) -> None:
    read = parse_input(value)

    assert not isinstance(read, UnknownInput)
    assert read.to_json() == value


@pytest.mark.parametrize("value", STORED + LATER, ids=lambda value: str(value["type"]))
def test_keys_of_later_releases_are_ignored(value: dict[str, Any]) -> None:
    assert parse_input(value | {"of_the_next_release": 1}) == parse_input(value)


def test_values_have_their_places_in_them() -> None:
    assert parse_input(STORED[1]) == ByteRange(PLACE, 4, 9, "csv", '"e"', "a;b\n", {"csv": {"delimiter": ";"}})
    assert parse_input(STORED[3]) == CompressedBlocks(PLACE, "bgzip", (10, 2), (90, 0), 99, "jsonl", '"e"')
    assert parse_input(STORED[4]) == NumberedBlocks("parquet", PLACE, 2, 3, '"e"', 100)
    assert parse_input(STORED[9]) == ObjectGroup((WholeObject(PLACE, '"e"', 3), WholeObject(Location("b", "x"))))
    assert parse_input(LATER[0]) == NumberedBlocks("later", PLACE, 2, 3, '"e"', 100)
    assert parse_input(LATER[1]) == ByteRange(PLACE, 2, 3, "later", '"e"', "h", {"tag": "x"})
    plain, on_grid = parse_input(STORED[14]), parse_input(STORED[15])
    assert isinstance(plain, Split) and plain.location == Location("b", "dir/")
    assert isinstance(on_grid, GridSplit) and on_grid.location == PLACE


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (STORED[1], 5),
        (STORED[4], 100),
        (STORED[6], 49),
        (STORED[8], 0),
        (STORED[9], None),
        ({"type": "objects", "objects": [{"uri": URI, "bytes": 3}, {"uri": URI, "bytes": 4}]}, 7),
        (STORED[3], None),
        (STORED[12], None),
    ],
)
def test_a_part_knows_its_size_where_it_can(value: dict[str, Any], size: int | None) -> None:
    assert parse_input(value).bytes == size


@pytest.mark.parametrize("value", [None, 7, "text", [], {}, {"type": None}, {"type": []}, {"type": "tape", "reel": 1}])
def test_what_has_no_known_type_is_unknown(value: Any) -> None:
    assert isinstance(parse_input(value), UnknownInput)


@pytest.mark.parametrize("value", STORED + LATER, ids=lambda value: str(value["type"]))
def test_what_lacks_a_key_or_has_a_bad_uri_is_unknown(value: dict[str, Any]) -> None:
    required = set(value) - {"etag", "header", "csv", "record_bytes", "source", "bytes", "slots"}
    for name in required - {"bytes": {"format"}, "object": {"version"}}.get(value["type"], set()):
        broken = parse_input({key: each for key, each in value.items() if key != name})
        assert isinstance(broken, UnknownInput)
        assert broken.reason
    if "uri" in value:
        assert isinstance(parse_input(value | {"uri": "http://b/k"}), UnknownInput)
        assert isinstance(parse_input(value | {"uri": 7}), UnknownInput)


def test_the_lines_that_children_write_are_items(tmp_path: Path) -> None:
    write_items_of_list([1, {"n": None}], tmp_path / "items.jsonl")

    lines = (tmp_path / "items.jsonl").read_bytes().splitlines()
    assert [parse_input(orjson.loads(line)) for line in lines] == [Item(1), Item({"n": None})]
