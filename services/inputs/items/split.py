"""An explicit list: every item is a task."""

from typing import Any

from services.inputs.chunk import Chunk
from services.inputs.spec import ItemsInput


async def split(s3: Any, source: ItemsInput, cursor: dict[str, Any] | None, slots: int) -> Chunk:
    return Chunk([{"type": "item", "value": value} for value in source.items], {}, done=True)
