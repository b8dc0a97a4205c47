"""An array job: tasks that differ only by their index."""

from typing import Any

from services.contract.task_input import Index
from services.inputs.chunk import Chunk
from services.inputs.spec import RangeInput

TASKS_PER_CHUNK = 20_000


async def split(s3: Any, source: RangeInput, cursor: dict[str, Any] | None, slots: int) -> Chunk:
    planned = cursor["planned"] if cursor else 0
    count = min(TASKS_PER_CHUNK, source.count - planned)
    end = planned + count
    return Chunk([Index(source.count).to_json()], {"planned": end}, done=end == source.count, repeat=count)


async def look(s3: Any, source: RangeInput) -> None:
    """There is nothing in S3 to check."""
