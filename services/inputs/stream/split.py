"""Items that are appended while the job runs: their tasks are made as they come (services/engine/open_jobs.py)."""

from typing import Any

from services.inputs.chunk import Chunk, SplitError
from services.inputs.spec import StreamInput


async def split(s3: Any, source: StreamInput, cursor: dict[str, Any] | None, slots: int) -> Chunk:
    raise SplitError("the items of a stream are appended while the job runs, so there is nothing to split before")


async def look(s3: Any, source: StreamInput) -> None:
    """There is nothing in S3 to check."""
