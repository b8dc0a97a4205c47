"""The schema tells a task's source as the code does."""

from typing import Any

import pytest

from services.contract.source import TaskSource
from services.platform.database import Database

URI, INTERIM = "s3://photos/cat.png", "s3://piecework/interim/0-1/x"


@pytest.mark.parametrize(
    "input",
    [
        {"type": "object", "uri": URI},
        {"type": "bytes", "uri": URI, "start": 0, "end": 9, "part": 3},
        {"type": "bytes", "uri": INTERIM, "source": {"uri": URI, "byte": 80}, "part": 2},
        {"type": "object", "uri": INTERIM, "source": {"uri": URI, "part": 1}},
        {"type": "objects", "objects": [{"uri": URI}, {"uri": INTERIM}]},
        {"type": "object", "uri": INTERIM, "source": {"uri": URI, "objects": 2}},
        {"type": "item", "value": 1, "source": {"uri": URI, "objects": 2}},
        {"type": "item", "value": {"uri": URI}},
        {"type": "array_index", "number": 7, "count": 9},
        {"type": "outputs", "uri": INTERIM},
        {"type": "object", "uri": INTERIM, "bytes": 3, "crc32": 17},
    ],
)
async def test_the_source_of_an_input(database: Database, input: dict[str, Any]) -> None:
    source = TaskSource.of(input)
    told = await database.fetchval("SELECT source_of($1)", input)
    assert told == (source and source.to_json())
    successor = await database.fetchval("SELECT successor_input($1, $2)", {"uri": INTERIM, "crc32": 3}, told)
    assert TaskSource.of(successor) == source
