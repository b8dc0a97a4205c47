"""An explicit list: every item becomes a task."""

from typing import Any

from services.contract.task_input import Item
from services.inputs.chunk import Chunk
from services.inputs.spec import ItemsInput


async def split(s3: Any, source: ItemsInput, cursor: dict[str, Any] | None, slots: int) -> Chunk:
    return Chunk([Item(value).to_json() for value in source.items], {}, done=True)


async def look(s3: Any, source: ItemsInput) -> None:
    """There is nothing in S3 to check."""
