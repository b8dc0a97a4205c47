"""An array job: tasks that differ only by a number, which is their index unless the job says otherwise."""

from typing import Any

from services.contract.task_input import Index, Json
from services.inputs.chunk import Chunk
from services.inputs.spec import RangeInput

TASKS_PER_CHUNK = 5_000


async def split(s3: Any, source: RangeInput, cursor: dict[str, Any] | None, slots: int) -> Chunk:
    planned = cursor["planned"] if cursor else 0
    numbers = source.numbers
    count, end = len(numbers), min(planned + TASKS_PER_CHUNK, len(numbers))
    at, done = {"planned": end}, end == count
    if source.counts_from_0:
        return Chunk([Index(count).to_json()], at, done, repeat=end - planned)
    return Chunk([task_input(source, index) for index in range(planned, end)], at, done)


def task_input(source: RangeInput, index: int) -> Json:
    """That of the task of this index."""
    numbers = source.numbers
    return Index(len(numbers), None if source.counts_from_0 else numbers[index]).to_json()


async def look(s3: Any, source: RangeInput) -> None:
    """There is nothing in S3 to check."""
