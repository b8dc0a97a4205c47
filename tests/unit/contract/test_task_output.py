"""Values of tasks.output: what the first release stored is read and written as it was."""

from typing import Any

import pytest

from services.contract.location import Location
from services.contract.task_output import ListedOutput, StoredObject, TaskOutput

OBJECT = {"uri": "s3://b/k.csv", "bytes": 9, "crc32": 7}
WITH_HEADER = OBJECT | {"header_bytes": 4, "header_crc32": 5}


@pytest.mark.parametrize(
    "value",
    [
        None,
        OBJECT,
        WITH_HEADER | {"records": 2},
        OBJECT | {"items": 3},
        OBJECT | {"missing_end": "", "records": 2},
        {"files": {"audit": WITH_HEADER | {"missing_end": "0d0a", "mark": "efbbbf"}}},
        {"value": {"n": 1}},
        {"files": {"audit": WITH_HEADER, "log": OBJECT}},
        OBJECT | {"rejects": "s3://b/r.jsonl", "rejects_bytes": 3, "rejects_crc32": 1, "value": {"n": 0}},
    ],
)
def test_a_value_is_written_as_it_was_read(value: dict[str, Any] | None) -> None:
    assert TaskOutput.from_json(value).to_json() == value


def test_an_output_has_its_places_in_it() -> None:
    stored = StoredObject(Location("b", "k.csv"), 9, 7, 4, 5)

    assert TaskOutput.from_json(WITH_HEADER | {"records": 2}) == TaskOutput(stored, records=2)
    assert TaskOutput.from_json({"files": {"a": WITH_HEADER}}) == TaskOutput(files={"a": stored})


def test_what_is_not_known_or_not_there_is_ignored() -> None:
    assert TaskOutput.from_json({}) == TaskOutput.from_json({"of_the_next_release": 1}) == TaskOutput()
    assert TaskOutput.from_json({"uri": "s3://b/k"}) == TaskOutput(StoredObject(Location("b", "k"), 0))


@pytest.mark.parametrize(
    "line", [{"index": 3, "attempt": 2, "uri": "s3://b/k"}, {"index": 3, "attempt": 2, "value": 0}]
)
def test_a_line_of_a_listing_is_written_as_it_was_read(line: dict[str, Any]) -> None:
    assert ListedOutput.from_json(line).to_json() == line
    assert ListedOutput.from_json(line | {"of_the_next_release": 1}) == ListedOutput.from_json(line)
