"""Items, array jobs, and several inputs of one job."""

from typing import Any

import pytest

from services.inputs import split as splitters
from services.inputs.chunk import SplitError
from services.inputs.range import split as index_range
from services.inputs.split import split_each
from services.platform.aws import Aws
from tests.integration.inputs.conftest import INPUT, SLOTS, split_all
from tests.integration.scheduler.conftest import Bucket


async def test_every_item_is_a_task(aws: Aws) -> None:
    items = [1, "a", None, {"k": [1.5]}, [], False]

    assert await split_all(aws, type="items", items=items) == [{"type": "item", "value": item} for item in items]


async def test_a_range_may_need_several_chunks(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_range, "TASKS_PER_CHUNK", 7)

    for count in (1, 6, 7, 8, 21, 22):
        assert await split_all(aws, type="range", count=count) == [{"type": "index", "count": count}] * count


async def test_the_numbers_of_a_range_go_to_its_tasks_one_by_one(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_range, "TASKS_PER_CHUNK", 2)
    stepping = await split_all(aws, type="range", start=1, stop=11, step=4)
    assert stepping == [{"type": "array_index", "number": number, "count": 3} for number in (1, 5, 9)]
    assert [part["number"] for part in await split_all(aws, type="range", values=[9, 3, 7])] == [9, 3, 7]
    assert await split_all(aws, type="range", stop=3) == [{"type": "index", "count": 3}] * 3


async def test_several_inputs_are_split_one_after_the_other(
    aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_range, "TASKS_PER_CHUNK", 2)
    uri = await bucket.put("in", b"1\n2\n3\n")
    sources = [
        INPUT.validate_python(source)
        for source in (
            {"type": "range", "count": 3},
            {"type": "lines", "uri": uri, "part_bytes": 2},
            {"type": "items", "items": ["a"]},
        )
    ]
    inputs: list[dict[str, Any]] = []
    cursor, done = None, False
    while not done:
        chunk = await split_each(aws.s3, sources, cursor, SLOTS)
        inputs += chunk.inputs * chunk.repeat
        cursor, done = chunk.cursor, chunk.done
    assert [part["type"] for part in inputs] == ["index"] * 3 + ["bytes"] * 3 + ["item"]

    monkeypatch.setattr(splitters, "TASKS_MAX", 2)
    with pytest.raises(SplitError, match="more than 2 tasks"):
        await split_each(aws.s3, sources, {"input": 1, "at": None, "tasks": 2}, SLOTS)
