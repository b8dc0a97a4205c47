"""What a task works on is known from its input, in every stage."""

from typing import Any

import pytest

from services.contract.source import TaskSource, number_parts, with_source

CAT, DOG = "s3://photos/2026/cat.tar.gz", "s3://photos/2026/dog.tar.gz"


def part(uri: str) -> dict[str, Any]:
    return {"type": "bytes", "uri": uri, "start": 0, "end": 9}


def whole(uri: str) -> dict[str, Any]:
    return {"type": "object", "uri": uri}


@pytest.mark.parametrize(
    ("input", "source"),
    [
        (whole(CAT), TaskSource(CAT)),
        ({"type": "object_version", "uri": CAT, "version": "v"}, TaskSource(CAT)),
        (part(CAT) | {"part": 3}, TaskSource(CAT, 3)),
        (part("s3://interim/text") | {"source": {"uri": CAT, "byte": 80}, "part": 2}, TaskSource(CAT, 2)),
        (whole("s3://interim/0-1/x") | {"source": {"uri": CAT, "part": 1}}, TaskSource(CAT, 1)),
        ({"type": "objects", "objects": [{"uri": CAT}, {"uri": DOG}]}, TaskSource(CAT, objects=2)),
        ({"type": "item", "value": 1, "source": {"uri": CAT, "objects": 2}}, TaskSource(CAT, objects=2)),
        ({"type": "split", "input": {"uri": CAT}, "slots": 1}, TaskSource(CAT)),
        ({"type": "item", "value": {"uri": CAT}}, None),
        (whole("s3://interim/0-1/x") | {"crc32": 17}, None),
        ({"type": "index", "count": 3}, None),
        ({"type": "outputs", "uri": "s3://interim/listing"}, None),
        ("damaged", None),
    ],
)
def test_a_source_is_read_from_an_input(input: Any, source: TaskSource | None) -> None:
    assert TaskSource.of(input) == source


def test_a_source_has_the_names_of_its_object() -> None:
    source = TaskSource(CAT)
    assert (source.key, source.name, source.stem) == ("2026/cat.tar.gz", "cat.tar.gz", "cat.tar")


def test_parts_of_an_object_are_numbered_across_chunks() -> None:
    numbered = number_parts([part(CAT), part(CAT), part(DOG), whole(CAT), part(CAT)], None)
    assert [input.get("part") for input in numbered] == [0, 1, 0, None, 0]
    assert [input["part"] for input in number_parts([part(CAT), part(CAT)], numbered[-1])] == [1, 2]
    assert [input["part"] for input in number_parts([part(DOG)], numbered[-1])] == [0]


def test_what_a_fan_out_makes_of_an_object_is_numbered_through() -> None:
    """Also if several of its tasks had a part of the object each."""
    made = [with_source(whole("s3://interim/1"), TaskSource(CAT, of)) for of in (0, 0, 1)]
    assert [TaskSource.of(input) for input in number_parts(made, None)] == [TaskSource(CAT, n) for n in range(3)]
