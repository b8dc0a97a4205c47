"""An explicit list: every item is a task."""

from typing import Any

from services.common.aws import Aws
from services.common.spec import ItemsInput
from services.scheduler.splitters.chunk import Chunk


async def split(aws: Aws, source: ItemsInput, cursor: dict[str, Any] | None) -> Chunk:
    return Chunk([{"type": "item", "value": value} for value in source.items], {}, done=True)
